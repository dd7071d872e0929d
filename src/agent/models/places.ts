import type { WeightFile, Weights } from "../../protocol/config/weights.ts";
import type { ModelMirror } from "../../protocol/desired.ts";

/**
 * URLs at which a file of the weights may be had, in the order in which they are tried: of each source first its mirrors,
 * then itself. A mirror stands for a source that is the same URL or lies below it; the longest match counts.
 */
export function placesOf(
  { sources }: Pick<Weights, "sources">,
  { path }: Pick<WeightFile, "path">,
  mirrors: readonly ModelMirror[],
): readonly string[] {
  const bases = sources.flatMap((source) => [...mirrored(trimmed(source), mirrors), trimmed(source)]);
  const name = path.split("/").map(encodeURIComponent).join("/");
  return [...new Set(bases)].map((base) => `${base}/${name}`);
}

function mirrored(source: string, mirrors: readonly ModelMirror[]): readonly string[] {
  const matches = mirrors
    .map((entry) => ({ prefix: trimmed(entry.source), mirrors: entry.mirrors }))
    .filter(({ prefix }) => source === prefix || source.startsWith(`${prefix}/`))
    .sort((a, b) => b.prefix.length - a.prefix.length);
  const [best] = matches;
  if (!best) return [];
  return best.mirrors.map((mirror) => `${trimmed(mirror)}${source.slice(best.prefix.length)}`);
}

const trimmed = (url: string): string => url.replace(/\/+$/, "");
