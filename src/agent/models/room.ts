import { join } from "node:path";
import type { Files } from "../ports.ts";
import { ModelError } from "./failure.ts";
import { digestIn, layoutOf, weightsFolder } from "./layout.ts";
import type { Lock, ModelWorld } from "./world.ts";

/** What is kept free on the disk beside the weights: markers, logs of others. */
const spareBytes = 64 * 1024 * 1024;
/** Weights used this recently are left alone: their agent may just be starting anew, with its engine running. */
const recentMs = 5 * 60_000;

/** Room that is wanted. */
export interface RoomWish {
  readonly world: ModelWorld;
  readonly files: Files;
  /** Wall time, ms. */
  readonly now: number;
  readonly root: string;
  /** Most bytes in the folder; undefined = as the disk has. */
  readonly most: number | undefined;
  readonly need: number;
  /** Digests that stay. */
  readonly keep: ReadonlySet<string>;
  /** Digests that this agent has used and let go: nobody need be waited for. */
  readonly released: ReadonlySet<string>;
  /** Takes weights for their removal; undefined while somebody uses them. */
  readonly lock: (digest: string) => Promise<Lock | undefined>;
  /** For whom, for the error. */
  readonly what: string;
}

/**
 * Sees to it that `need` more bytes fit into the folder: removes weights that nobody uses, the longest unused first, and
 * no more of them than it takes.
 *
 * @returns digests of what was removed.
 * @throws {ModelError} `room` when it does not fit without what is in use; nothing is removed in vain.
 */
export async function makeRoom(wish: RoomWish): Promise<readonly string[]> {
  const { world, root, most, need, what } = wish;
  const used = await usedBytes(wish);
  const free = await world.disk.free(root);
  let lack = lackOf(need, { used, free, most });
  if (lack <= 0) return [];
  const surplus = await surplusOf(wish);
  const removable = surplus.reduce((sum, { bytes }) => sum + bytes, 0);
  if (lack > removable) {
    for (const { lock } of surplus) lock.release();
    const bound = most === undefined ? "" : `, at most ${most} may be used of which ${used} are`;
    throw new ModelError(
      "room",
      `${what} needs ${need} more bytes in ${root}: ${free} are free${bound}, and unused models are ${removable}: free ${lack - removable} bytes, raise --models-max-bytes, or give models a larger folder`,
    );
  }
  const removed: string[] = [];
  try {
    for (const { digest, bytes } of surplus) {
      if (lack <= 0) break;
      await remove(wish, digest);
      removed.push(digest);
      lack -= bytes;
    }
  } finally {
    for (const { lock } of surplus) lock.release();
  }
  return removed;
}

/** Bytes of all weights, whole or not. */
async function usedBytes({ world, files, root }: RoomWish): Promise<number> {
  const folder = weightsFolder(root);
  const names = (await files.list(folder)).filter((name) => digestIn(name) !== undefined);
  const each = await Promise.all(names.map((name) => world.disk.usage(join(folder, name))));
  return each.reduce((sum, bytes) => sum + bytes, 0);
}

/** Bytes that are missing. Pure. */
export function lackOf(
  need: number,
  { used, free, most }: { readonly used: number; readonly free: number; readonly most: number | undefined },
): number {
  const bySize = most === undefined ? Number.NEGATIVE_INFINITY : used + need - most;
  return Math.max(bySize, need + spareBytes - free);
}

interface Surplus {
  readonly digest: string;
  readonly bytes: number;
  readonly lock: Lock;
}

/** Locked weights that may be removed, the longest unused first. */
async function surplusOf({
  world,
  files,
  now,
  root,
  keep,
  released,
  lock,
}: RoomWish): Promise<readonly Surplus[]> {
  const names = await files.list(weightsFolder(root));
  const digests = new Set(
    names.flatMap((name) => digestIn(name) ?? []).filter((digest) => !keep.has(digest)),
  );
  const used = await Promise.all(
    [...digests].map(async (digest) => ({
      digest,
      at: (await world.disk.changedAt(layoutOf(root, digest).lock)) ?? 0,
    })),
  );
  const surplus: Surplus[] = [];
  try {
    for (const { digest, at } of used.sort((a, b) => a.at - b.at)) {
      // A clock that runs ahead must not keep weights for ever.
      if (Math.abs(now - at) < recentMs && !released.has(digest)) continue;
      const { files: folder, parts } = layoutOf(root, digest);
      const bytes = (await world.disk.usage(folder)) + (await world.disk.usage(parts));
      const taken = await lock(digest);
      if (taken) surplus.push({ digest, bytes, lock: taken });
    }
    return surplus;
  } catch (thrown) {
    for (const each of surplus) each.lock.release();
    throw thrown;
  }
}

/** The marker goes first: half of the files must never look verified. The lock stays, others may be waiting for it. */
async function remove({ files, root }: RoomWish, digest: string): Promise<void> {
  const layout = layoutOf(root, digest);
  await files.remove(layout.marker);
  await files.remove(layout.files);
  await files.remove(layout.parts);
}
