import { keyPrefix } from "../../api/v1alpha1/meta.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { PoolStatus, ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { hasNoCapacity } from "../capacity.ts";
import { judge, type Trial } from "./canary.ts";
import { censusOf } from "./census.ts";
import { ordinalOf } from "./child.ts";
import type { PoolObservation } from "./observation.ts";
import { once } from "../once.ts";

type Rejection = NonNullable<PoolStatus["rejected"]>[number];

/** Annotation of a pool with the digest that it takes without a trial, or though the trial failed. */
export const promoteAnnotation = `${keyPrefix}promote`;

/** Digest that the pool is asked to move to: the template's pin, else the network's current one. */
export function askedDigest({ pool, current }: PoolObservation): string | undefined {
  return pool.spec.template.spec.config?.pin ?? current;
}

/** The rejection that keeps the pool from the digest that it is asked to move to. */
export function rejectionOf(seen: PoolObservation): Rejection | undefined {
  const asked = askedDigest(seen);
  if (asked === undefined || isPromoted(seen.pool, asked)) return undefined;
  return seen.pool.status?.rejected?.find(({ digest }) => digest === asked);
}

function isPromoted({ metadata }: ResultityNodePool, digest: string): boolean {
  return metadata.annotations?.[promoteAnnotation] === digest;
}

/**
 * Digest that the pool moves to: the one that it is asked for, or the one before where that was rejected. Should the
 * network have withdrawn that one since, then what else most nodes run; undefined if there is nothing.
 */
export function wantedDigest(seen: PoolObservation): string | undefined {
  const rejection = rejectionOf(seen);
  if (!rejection) return askedDigest(seen);
  return seen.allows(rejection.instead) ? rejection.instead : commonDigest(seen, rejection.digest);
}

/** How the trial of the wanted digest stands. What has passed once, or failed, is not tried again. */
export const trialOf = once((seen: PoolObservation): Trial => {
  const { pool, work, now } = seen;
  const { canary } = pool.spec.strategy.rollingUpdate;
  const wanted = wantedDigest(seen);
  if (!canary || wanted === undefined || isPromoted(pool, wanted)) return { state: "none" };
  if (rejectionOf(seen)) return { state: "none" };
  const { rollout } = pool.status ?? {};
  if (rollout?.target === wanted && rollout.canary === "Passed") return { state: "passed" };
  const nodes = censusOf(seen).staying.filter((child) => !isHeldBack(pool, child));
  const begun = (rollout?.target === wanted && Date.parse(rollout.startedAt ?? "")) || now;
  const trial = judge({ canary, wanted, nodes, work, begun, now });
  const failedBefore = rollout?.target === wanted && rollout.canary === "Failed";
  if (failedBefore && (trial.state === "running" || trial.state === "passed"))
    return { state: "failed", reason: "its trial has failed before" };
  return trial;
});

/** True where the update leaves a child as it is, unless it has no config yet: its number is under the partition. */
export function isHeldBack(pool: ResultityNodePool, child: ResultityNode): boolean {
  const { partition } = pool.spec.strategy.rollingUpdate;
  return partition > 0 && ordinalOf(pool, child) < partition;
}

/** Allowed digests by how many nodes run them, most first. */
const commonDigests = once(({ children, allows }: PoolObservation): readonly string[] => {
  const counts = new Map<string, number>();
  // One without capacity runs nothing, and what it last ran may be long gone.
  for (const { status } of children.filter((child) => !hasNoCapacity(child))) {
    const applied = status?.config?.applied;
    if (applied !== undefined) counts.set(applied, (counts.get(applied) ?? 0) + 1);
  }
  const allowed = [...counts].filter(([digest]) => allows(digest));
  return allowed.sort(([, a], [, b]) => b - a).map(([digest]) => digest);
});

/** What most nodes run: a node that joins a pool that stands still runs what its siblings run. */
export function commonDigest(seen: PoolObservation, except?: string): string | undefined {
  return commonDigests(seen).find((digest) => digest !== except);
}
