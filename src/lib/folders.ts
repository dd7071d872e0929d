import { closeSync, fsyncSync, mkdirSync, openSync } from "node:fs";
import { mkdir, open } from "node:fs/promises";
import { dirname, resolve } from "node:path";

/**
 * A file's fsync does not promise that its name survives a power loss: that stands in the folder, whose own name stands
 * in the one above (fsync(2), notes).
 */

/** Makes new, changed and removed names in a folder survive a power loss. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Makes a folder, and those above it that are missing, so that they survive a power loss. Nothing is synced if it is there. */
export async function makeFolder(path: string, mode = 0o777): Promise<void> {
  const made = await mkdir(path, { recursive: true, mode });
  for (const parent of parentsOfMade(path, made)) await syncFolder(parent);
}

/** {@link syncFolder}, blocking. */
export function syncFolderNow(path: string): void {
  const folder = openSync(path, "r");
  try {
    fsyncSync(folder);
  } finally {
    closeSync(folder);
  }
}

/** {@link makeFolder}, blocking. */
export function makeFolderNow(path: string, mode = 0o777): void {
  const made = mkdirSync(path, { recursive: true, mode });
  for (const parent of parentsOfMade(path, made)) syncFolderNow(parent);
}

/** Folders in which a new name stands, after `made` and all below it down to `path` were made. */
function parentsOfMade(path: string, made: string | undefined): readonly string[] {
  if (made === undefined) return [];
  const first = resolve(made);
  const parents: string[] = [];
  for (let at = resolve(path); at.length >= first.length; at = dirname(at)) parents.push(dirname(at));
  return parents;
}
