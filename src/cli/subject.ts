import { type Kind, kinds } from "../api/v1alpha1/kinds.ts";
import { CliError } from "./errors.ts";

/** What a command is asked about: a name, and its kind where the user said it. */
export interface Subject {
  readonly kind: Kind["kind"] | undefined;
  readonly name: string;
}

/** `rnode/chat-0` for messages and hints. */
export function shortRef(kind: Kind["kind"], name: string): string {
  return `${kinds.find((candidate) => candidate.kind === kind)?.shortName ?? kind}/${name}`;
}

/** Reads `NAME`, `KIND/NAME` or `KIND NAME`, the kind in any form that kubectl takes. @throws CliError Usage */
export function subjectOf(words: readonly string[]): Subject {
  const [first = "", second, ...more] = words;
  const slash = first.indexOf("/");
  if (more.length > 0 || (second !== undefined && slash >= 0)) {
    throw new CliError("Usage", `name one object, not "${words.join(" ")}": NAME, KIND/NAME or KIND NAME`);
  }
  const name = second ?? first.slice(slash + 1);
  const kind = second === undefined ? first.slice(0, Math.max(0, slash)) : first;
  if (name === "")
    throw new CliError("Usage", `"${words.join(" ")}" names no object: write NAME or KIND/NAME`);
  return { kind: kind === "" && second === undefined && slash < 0 ? undefined : kindOf(kind), name };
}

function kindOf(word: string): Kind["kind"] {
  const wanted = word.toLowerCase().split(".")[0];
  const found = kinds.find((kind) =>
    [kind.shortName, kind.singular, kind.plural, kind.kind.toLowerCase()].includes(wanted ?? ""),
  );
  if (found) return found.kind;
  const known = kinds.map(({ shortName, singular }) => `${shortName} (${singular})`).join(", ");
  throw new CliError("Usage", `there is no kind "${word}" here: use ${known}`);
}
