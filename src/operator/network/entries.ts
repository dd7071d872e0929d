import type { ConfigDigest } from "../../protocol/fields.ts";
import { releaseEntry, snapshotEntry } from "../names.ts";
import type { Knowledge } from "./knowledge.ts";

/** Entries of the ConfigMap `<network>-config`. */

/** Entry with the root of `version` that followed the configured one, for an operator that begins while IO is away. */
export const rotationEntry = (version: number): string => `root-${version}.json`;

const snapshotPattern = /^snapshot-([0-9a-f]{64})$/;

/** Digest of the snapshot that an entry holds; undefined where it is another kind of entry. */
export function snapshotDigestOf(entry: string): ConfigDigest | undefined {
  const hex = snapshotPattern.exec(entry)?.[1];
  return hex === undefined ? undefined : (`sha256:${hex}` as ConfigDigest);
}

/** True for the entries that the network controller writes. */
export function isOurs(entry: string): boolean {
  return entry === releaseEntry || snapshotPattern.test(entry) || /^root-\d+\.json$/.test(entry);
}

/** What the ConfigMap has to hold: rotations of the root, the newest release, and the snapshots of `held` that are there. */
export function entriesOf(
  knowledge: Pick<Knowledge, "release" | "rotations" | "snapshots">,
  held: readonly ConfigDigest[],
): Record<string, string> {
  const entries: Record<string, string> = {};
  for (const { version, statement } of knowledge.rotations) {
    entries[rotationEntry(version)] = JSON.stringify(statement);
  }
  if (knowledge.release) entries[releaseEntry] = JSON.stringify(knowledge.release.statement);
  for (const digest of held) {
    const found = knowledge.snapshots.get(digest);
    if (found) entries[snapshotEntry(digest)] = found.text;
  }
  return entries;
}
