import { createHash } from "node:crypto";
import * as z from "zod/mini";
import { countField, sha256Field } from "../fields.ts";
import type { Snapshot } from "./snapshot.ts";

/**
 * Path of a file inside a model's folder: parts of letters, digits and `. _ @ + = , -` between slashes, none of them `.`
 * or `..`. So it stays inside that folder on every file system, and needs no escaping in a URL or a shell word.
 */
export const weightPathField = z.string().check(
  z.maxLength(255),
  z.regex(/^[A-Za-z0-9._@+=,-]+(\/[A-Za-z0-9._@+=,-]+)*$/),
  z.refine((path) => !path.split("/").some((part) => part === "." || part === "..")),
);

/** Where the files of a model lie: an http, https or file URL without user, query or fragment, to which `/<path>` is added. */
export const weightSourceField = z
  .string()
  .check(z.maxLength(2048), z.regex(/^(https?:\/\/[^\s/?#@\\]+(\/[^\s?#\\]*)?|file:\/\/\/[^\s?#\\]*)$/));

/** One file of a model. */
export const weightFileSchema = z.object({
  path: weightPathField,
  /** SHA-256 of its bytes, lower-case hex. */
  sha256: sha256Field,
  /** Bytes. */
  size: countField,
});
export type WeightFile = z.infer<typeof weightFileSchema>;

/** The files of a model: no path twice, none of which is another one's folder. */
export const weightFilesField = z
  .array(weightFileSchema)
  .check(z.minLength(1), z.maxLength(256), z.refine(pathsAreApart));

function pathsAreApart(files: readonly { readonly path: string }[]): boolean {
  const paths = new Set(files.map(({ path }) => path));
  if (paths.size < files.length) return false;
  return files.every(({ path }) => {
    const parts = path.split("/");
    return parts.every((_, at) => at === 0 || !paths.has(parts.slice(0, at).join("/")));
  });
}

/** A model whose weights the network names file by file. */
export interface Weights {
  readonly model: string;
  /** Identity of the files: {@link weightsDigest}. Two models with the same files share them. */
  readonly digest: string;
  readonly files: readonly WeightFile[];
  /** Base URLs, in the order in which they are tried. */
  readonly sources: readonly string[];
  /** Bytes of all files. */
  readonly total: number;
}

/**
 * Hex SHA-256 over one line `<sha256> <size> <path>\n` a file, sorted by path as bytes. What the weights are, wherever
 * they come from.
 */
export function weightsDigest(files: readonly WeightFile[]): string {
  const known = digests.get(files);
  if (known !== undefined) return known;
  const digest = computeDigest(files);
  digests.set(files, digest);
  return digest;
}

/** Of lists that are in use: operator and agent ask for the same ones each time that they plan. */
const digests = new WeakMap<readonly WeightFile[], string>();

function computeDigest(files: readonly WeightFile[]): string {
  const lines = [...files]
    .sort((a, b) => (a.path < b.path ? -1 : 1))
    .map(({ path, sha256, size }) => `${sha256} ${size} ${path}\n`);
  return createHash("sha256").update(lines.join("")).digest("hex");
}

/** The weights of those of `models` for which the snapshot names files; all others are their engine's own business. */
export function weightsOf(snapshot: Snapshot, models: readonly string[]): readonly Weights[] {
  return models.flatMap((model) => {
    const { files, sources = [] } = snapshot.models.find(({ name }) => name === model) ?? {};
    if (!files) return [];
    const total = files.reduce((sum, { size }) => sum + size, 0);
    return [{ model, digest: weightsDigest(files), files, sources, total }];
  });
}

/**
 * `models` as what an engine that runs can be compared by: a name, with the digest of its files where it has any. New
 * weights under an old name are another model.
 */
export function modelIdentities(snapshot: Snapshot, models: readonly string[]): readonly string[] {
  const weights = weightsOf(snapshot, models);
  return models.map((model) => {
    const digest = weights.find((candidate) => candidate.model === model)?.digest;
    return digest === undefined ? model : `${model} ${digest}`;
  });
}
