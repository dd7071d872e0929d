import { rfc3339 } from "../../api/v1alpha1/conditions.ts";
import type { Release } from "../../protocol/config/release.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import type { NodeUse } from "./observe.ts";
import type { Finding } from "./refusal.ts";
import { expiryOf } from "./trust.ts";

/** A snapshot of which nobody knows how large it is, is taken for the largest that there may be. */
const largestBytes = 256 * 1024;
/** Most bytes of snapshots that a network's ConfigMap holds: three of the largest fit into its 1 MiB with the rest. */
const mostBytes = 3 * largestBytes;
/** Most snapshots of any size. */
const mostDigests = 16;

/** What the choice depends on. Digests of nodes are as their status says: nobody has checked them. */
export interface Choosing {
  readonly release: Release | undefined;
  readonly pin: string | undefined;
  /** With `Approve` a config that nobody has pinned waits until it is the approved one. */
  readonly apply: "Automatic" | "Approve";
  readonly approved: string | undefined;
  /** Digest that nodes were moved to so far. */
  readonly previous: string | undefined;
  readonly nodes: readonly NodeUse[];
  readonly has: (digest: ConfigDigest) => boolean;
  /** Size of a snapshot; undefined for one that is not there. Absent: nobody knows any. */
  readonly bytes?: (digest: ConfigDigest) => number | undefined;
  /** Wall time, ms. */
  readonly now: number;
}

/** Which digests the network's nodes move to and may be at. */
export interface Choice {
  /** Digest that nodes move to now; undefined while there is none that may be. */
  readonly current: ConfigDigest | undefined;
  /** Digest that they will move to once its snapshot is there; the same as `current` where it is. */
  readonly next: ConfigDigest | undefined;
  /** Digests that the ConfigMap is to hold, as many as fit, `current` first. */
  readonly held: readonly ConfigDigest[];
  /** Digests for which there is no room. */
  readonly waiting: readonly ConfigDigest[];
  /** Digest that waits to be approved. */
  readonly pending?: ConfigDigest;
  /** Why nodes do not move to the pin, or to what the release calls current. */
  readonly pinFinding?: Finding;
  readonly expired?: Finding;
  readonly tooMany?: Finding;
}

/**
 * Chooses. The pin or the release's current one comes next, unless the release does not allow it, it has expired, or
 * nodes are busy with as many others as there is room for: then the previous one stays. Room is counted in bytes, because a
 * network whose newest config is broken needs one more beside those that its nodes are at, or the cure would wait for the
 * patient. A digest that a node runs is kept even when it
 * has been withdrawn (its pod still has to be told from what it should be; no agent applies it again), but yields its place
 * first, so that a withdrawal can never block its own remedy.
 */
export function chooseDigests(seen: Choosing): Choice {
  const { release, pin, now } = seen;
  if (!release) return { current: undefined, next: undefined, held: [], waiting: [] };
  const valid = (digest: string) => (listed(release, digest)?.expires ?? 0) > now;
  const previous = seen.previous === undefined ? undefined : listed(release, seen.previous)?.digest;
  const inUse = digestsInUse(seen, release, valid);

  const wanted = listed(release, pin ?? release.current)?.digest;
  if (wanted === undefined)
    return { ...settle(seen, previous, undefined, inUse), pinFinding: notAllowed(release, pin) };
  const fix =
    pin === undefined
      ? "the network has to publish a new release"
      : "remove spec.config.pin, or wait for a release that renews it";
  const expired = valid(wanted) ? {} : { expired: expiredFinding(release, wanted, fix) };
  if (!valid(wanted) && wanted !== previous)
    return { ...settle(seen, previous, undefined, inUse), ...expired };

  if (pin === undefined && needsApproval(seen, wanted)) {
    const over = previous !== undefined && !valid(previous);
    return {
      ...settle(seen, previous, undefined, inUse),
      pending: wanted,
      ...(over && { expired: expiredFinding(release, previous, `approve config ${wanted}`) }),
    };
  }

  const busy = inUse.filter(valid);
  if (wanted !== previous && !busy.includes(wanted) && !fits(seen, [...busy, wanted])) {
    const settled = settle(seen, previous ?? busy[0], undefined, inUse);
    const waiting = [wanted, ...settled.waiting];
    return { ...settled, waiting, tooMany: tooManyFinding(waiting, settled.held) };
  }
  const settled = settle(seen, previous, wanted, inUse);
  const waiting = settled.waiting.filter(valid);
  return {
    ...settled,
    waiting,
    ...expired,
    ...(waiting.length > 0 && { tooMany: tooManyFinding(waiting, settled.held) }),
  };
}

/** What nodes move to already needs none: it was approved, or it was there before approval was asked for. */
function needsApproval({ apply, approved, previous }: Choosing, wanted: ConfigDigest): boolean {
  return apply === "Approve" && wanted !== previous && wanted !== approved;
}

function listed(release: Release, digest: string) {
  return release.allowed.find((entry) => entry.digest === digest);
}

/** Digests of nodes that may be kept, the more important first. */
function digestsInUse(
  { nodes, previous }: Choosing,
  release: Release,
  valid: (digest: string) => boolean,
): readonly ConfigDigest[] {
  const ranks = new Map<string, number>();
  const counts = new Map<string, number>();
  const note = (digest: string | undefined, rank: number, count: number) => {
    if (digest === undefined) return;
    ranks.set(digest, Math.min(ranks.get(digest) ?? rank, rank));
    counts.set(digest, (counts.get(digest) ?? 0) + count);
  };
  for (const { applied, target, count } of nodes) {
    if (applied !== undefined) note(applied, valid(applied) ? 0 : listed(release, applied) ? 2 : 3, count);
    // To a withdrawn target no node may move: it needs no snapshot.
    if (target !== undefined && listed(release, target)) note(target, valid(target) ? 1 : 2, count);
  }
  const order = (digest: string) => [
    ranks.get(digest) ?? 9,
    digest === previous ? 0 : 1,
    -(counts.get(digest) ?? 0),
  ];
  return [...ranks.keys()].sort((a, b) => compare(order(a), order(b)) || (a < b ? -1 : 1)) as ConfigDigest[];
}

function compare(a: readonly number[], b: readonly number[]): number {
  for (const [at, value] of a.entries()) {
    const difference = value - (b[at] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function settle(
  seen: Choosing,
  previous: ConfigDigest | undefined,
  next: ConfigDigest | undefined,
  inUse: readonly ConfigDigest[],
): Choice {
  const { has } = seen;
  // What is still to be fetched takes no place from what nodes run.
  const current = next !== undefined && has(next) ? next : previous;
  const all = [...new Set(current === undefined ? inUse : [current, ...inUse])];
  let room = 0;
  while (room < all.length && fits(seen, all.slice(0, room + 1))) room++;
  const held = all.slice(0, room);
  // A pool's pin may be nobody's target yet. It takes nobody's place either: without room it is fetched when the window opens.
  const ahead = room < all.length ? [] : digestsAhead(seen).filter((digest) => !held.includes(digest));
  for (const digest of ahead) if (fits(seen, [...held, digest])) held.push(digest);
  return {
    current: current !== undefined && has(current) ? current : undefined,
    next: next ?? current,
    held,
    waiting: all.slice(room),
  };
}

/** Digests that nodes get ready for ahead of a maintenance window, of those that the release allows. */
function digestsAhead({ nodes, release, now }: Choosing): readonly ConfigDigest[] {
  const asked = new Set(nodes.map(({ next }) => next));
  const allowed = release?.allowed.filter(({ digest, expires }) => asked.has(digest) && expires > now) ?? [];
  return allowed.map(({ digest }) => digest);
}

/** Whether the ConfigMap has room for one more snapshot, beside these and as large as it may be. */
export function hasRoom(seen: Pick<Choosing, "bytes">, held: readonly ConfigDigest[]): boolean {
  return held.length < mostDigests && sizeOf(seen, held) + largestBytes <= mostBytes;
}

function fits(seen: Pick<Choosing, "bytes">, digests: readonly ConfigDigest[]): boolean {
  return digests.length <= mostDigests && sizeOf(seen, digests) <= mostBytes;
}

function sizeOf({ bytes }: Pick<Choosing, "bytes">, digests: readonly ConfigDigest[]): number {
  return digests.reduce((sum, digest) => sum + (bytes?.(digest) ?? largestBytes), 0);
}

function notAllowed(release: Release, pin: string | undefined): Finding {
  const allowed = release.allowed.map(({ digest }) => digest);
  const some = `${allowed.slice(0, 4).join(", ")}${allowed.length > 4 ? ", …" : ""}`;
  return {
    reason: "PinNotAllowed",
    message: `spec.config.pin ${pin} is not allowed by release ${release.sequence}: remove the pin, or choose one of ${some}`,
  };
}

function expiredFinding(release: Release, digest: ConfigDigest, fix: string): Finding {
  const at = timeText(expiryOf(release, digest) ?? 0);
  return {
    reason: "Expired",
    message: `config ${digest} expired at ${at} by release ${release.sequence}: nodes take no new jobs under it and none moves to it; ${fix}`,
  };
}

function tooManyFinding(waiting: readonly ConfigDigest[], held: readonly ConfigDigest[]): Finding {
  return {
    reason: "TooManyDigests",
    message: `config ${waiting.join(", ")} waits: nodes of this network still run or move to ${held.join(", ")}, and more do not fit into its ConfigMap. Let the rollouts under way end, or remove the pins that hold nodes back`,
  };
}

const latestTime = Date.UTC(9999, 11, 31);

/** A wall time of a statement as RFC 3339 in whole seconds: what lies beyond the year 9999 is told as its end. */
export function timeText(ms: number): string {
  return rfc3339(Math.min(ms, latestTime));
}
