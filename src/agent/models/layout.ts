import { join } from "node:path";
import type { WeightFile, Weights } from "../../protocol/config/weights.ts";

/**
 * Where things are in the folder of models, which several agents may share:
 * - `sha256/<digest>/<path>`: files of the weights with that identity, each whole and verified when it gets there;
 * - `sha256/<digest>.json`: which of them have been verified, and how they looked then;
 * - `sha256/<digest>.parts/<sha256>`: files that are not whole;
 * - `sha256/<digest>.lock`: shared by agents that use the weights, exclusive to the one that writes or removes them. Its
 *   time of change is when they were used last.
 */
export interface Layout {
  readonly files: string;
  readonly marker: string;
  readonly parts: string;
  readonly lock: string;
}

/** Folder of all weights in the folder of models. */
export const weightsFolder = (root: string): string => join(root, "sha256");

export function layoutOf(root: string, digest: string): Layout {
  const at = join(weightsFolder(root), digest);
  return { files: at, marker: `${at}.json`, parts: `${at}.parts`, lock: `${at}.lock` };
}

/** Digest of the weights that a name in {@link weightsFolder} belongs to; undefined for names of others. */
export function digestIn(name: string): string | undefined {
  return /^([0-9a-f]{64})(\.parts)?$/.exec(name)?.[1];
}

/** A file that is not whole yet. By its content, not its name: a new version of the weights may go on with it. */
export const partOf = (layout: Layout, { sha256 }: WeightFile): string => join(layout.parts, sha256);

/**
 * Folders in which a folder of models that others have filled, and the agent cannot write (an image volume, a shared file
 * system), may have the weights, the likeliest first.
 */
export function foundPlaces(root: string, { digest, model }: Weights): readonly string[] {
  return [layoutOf(root, digest).files, join(root, model), join(root, "models"), root];
}
