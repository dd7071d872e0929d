import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { keyPrefix } from "../../api/v1alpha1/meta.ts";
import { maxPoolReplicas, type PoolStatus, type ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { judge, type Trial, type Work } from "./canary.ts";
import {
  childName,
  hasMetadata,
  hasSpec,
  isLeaving,
  isMoving,
  isParked,
  isReady,
  ordinalOf,
} from "./child.ts";
import { minAvailableOf } from "./window.ts";

// With them a plan can be carried forward on paper, as `kubectl resultity plan` does.
export { childLabels, hasSpec, isLeaving, isMoving, isParked, isReady, removingAnnotation } from "./child.ts";
export { minAvailableOf } from "./window.ts";

type Rejection = NonNullable<PoolStatus["rejected"]>[number];

/** All that the pool's plan depends on. */
export interface PoolObservation {
  readonly pool: ResultityNodePool;
  /** Nodes that the pool controls, in any order. */
  readonly children: readonly ResultityNode[];
  /** Whether a ResultityNode of this name exists, the pool's or another's. */
  readonly isTaken: (name: string) => boolean;
  readonly hasPod: (child: ResultityNode) => boolean;
  /** Whether the ResultityNetwork of the template exists. */
  readonly networkKnown: boolean;
  /** Digest that the network's nodes move to; undefined while none is verified. */
  readonly current: string | undefined;
  /** False outside of the network's maintenance windows: then no node in service is restarted for a config. */
  readonly mayRestart: boolean;
  /** Wall time, ms, at which `mayRestart` changes by itself; undefined = never. */
  readonly restartsUntil: number | undefined;
  /** Whether the child's jobs are interrupted when it moves from the config that it applied to `digest`. */
  readonly interrupts: (child: ResultityNode, digest: string) => boolean;
  /** What the network has seen of a child's jobs; undefined = nothing. */
  readonly work: (child: ResultityNode) => Work | undefined;
  /** The PodDisruptionBudget of the pool's name. `ours`: we made it. `intact`: it selects the pool's pods. */
  readonly budget:
    | { readonly ours: boolean; readonly intact: boolean; readonly minAvailable: unknown }
    | undefined;
  /** Wall time, ms. */
  readonly now: number;
}

/** One write, with the reason for people. */
export type PoolAction =
  | { readonly type: "create"; readonly name: string; readonly reason: string }
  /** Give the child the template's spec, labels and annotations. */
  | { readonly type: "update"; readonly child: ResultityNode; readonly reason: string }
  /** Mark and park a child that is one too many. */
  | { readonly type: "retire"; readonly child: ResultityNode; readonly reason: string }
  /** Take back a child that was being retired. */
  | { readonly type: "revive"; readonly child: ResultityNode; readonly reason: string }
  | { readonly type: "delete"; readonly child: ResultityNode; readonly reason: string }
  | {
      readonly type: "target";
      readonly child: ResultityNode;
      readonly digest: string;
      readonly reason: string;
    }
  | { readonly type: "budget"; readonly minAvailable: number; readonly reason: string };

/** What is to be done now. The rest follows from later observations: nothing is remembered. */
export function planPool(seen: PoolObservation): readonly PoolAction[] {
  if (seen.pool.metadata.deletionTimestamp !== undefined) return [];
  const scale = planScale(seen);
  const retired = new Set(scale.flatMap((action) => (action.type === "retire" ? [action.child] : [])));
  // What is taken away in this very plan is neither updated nor counted on.
  return [
    ...planBudget(seen),
    ...scale,
    ...planUpdate(seen, (child) => isLeaving(child) || retired.has(child)),
  ];
}

/** Digest that the pool is asked to move to: the template's pin, else the network's current one. */
export function askedDigest({ pool, current }: PoolObservation): string | undefined {
  return pool.spec.template.spec.config?.pin ?? current;
}

/** Annotation of a pool with the digest that it takes without a trial, or though the trial failed. */
export const promoteAnnotation = `${keyPrefix}promote`;

/** The rejection that keeps the pool from the digest that it is asked to move to. */
export function rejectionOf(seen: PoolObservation): Rejection | undefined {
  const asked = askedDigest(seen);
  if (asked === undefined || isPromoted(seen.pool, asked)) return undefined;
  return seen.pool.status?.rejected?.find(({ digest }) => digest === asked);
}

function isPromoted({ metadata }: ResultityNodePool, digest: string): boolean {
  return metadata.annotations?.[promoteAnnotation] === digest;
}

/** Digest that the pool moves to: the one that it is asked for, or the one before where that was rejected. */
export function wantedDigest(seen: PoolObservation): string | undefined {
  return rejectionOf(seen)?.instead ?? askedDigest(seen);
}

/** How the trial of the wanted digest stands. What has passed once is not tried again. */
export function trialOf(seen: PoolObservation): Trial {
  const { pool, children, work, now } = seen;
  const { canary } = pool.spec.strategy.rollingUpdate;
  const wanted = wantedDigest(seen);
  if (!canary || wanted === undefined || isPromoted(pool, wanted)) return { state: "none" };
  if (rejectionOf(seen)) return { state: "none" };
  const { rollout } = pool.status ?? {};
  if (rollout?.target === wanted && rollout.canary === "Passed") return { state: "passed" };
  const nodes = children.filter((child) => !isLeaving(child) && !isHeldBack(pool, child));
  return judge({ canary, wanted, nodes: nodes.sort(byOrdinal(pool)), work, now });
}

function byOrdinal(pool: ResultityNodePool): (a: ResultityNode, b: ResultityNode) => number {
  return (a, b) => ordinalOf(pool, a) - ordinalOf(pool, b) || (a.metadata.name < b.metadata.name ? -1 : 1);
}

function planScale(seen: PoolObservation): PoolAction[] {
  const { pool, children } = seen;
  const wanted = pool.spec.replicas;
  const staying = children.filter((child) => !isLeaving(child));
  const gone = children
    .filter((child) => isLeaving(child) && child.metadata.deletionTimestamp === undefined)
    .sort(byOrdinal(pool));
  const actions: PoolAction[] = [];
  const missing = wanted - staying.length;
  const revived = new Set(missing > 0 ? gone.slice(0, missing) : []);
  for (const child of revived) {
    actions.push({ type: "revive", child, reason: `pool wants ${wanted} nodes again` });
  }
  for (const child of gone) {
    if (revived.has(child) || seen.hasPod(child)) continue;
    actions.push({ type: "delete", child, reason: "it is drained and its pod is gone" });
  }
  for (const name of freeNames(seen, missing - revived.size)) {
    actions.push({ type: "create", name, reason: `pool wants ${wanted} nodes and has ${staying.length}` });
  }
  for (const child of surplus(seen, staying, -missing)) {
    actions.push({ type: "retire", child, reason: `pool wants ${wanted} nodes and has ${staying.length}` });
  }
  return actions;
}

/** Lowest free ordinals first, so that an identity, and its reputation, come back. */
function freeNames({ pool, isTaken }: PoolObservation, count: number): string[] {
  const names: string[] = [];
  for (let ordinal = 0; names.length < count && ordinal < maxPoolReplicas; ordinal++) {
    const name = childName(pool, ordinal);
    if (!isTaken(name)) names.push(name);
  }
  return names;
}

/** Which children go: those that serve nobody, then the highest ordinals. */
function surplus(
  { pool }: PoolObservation,
  staying: readonly ResultityNode[],
  count: number,
): readonly ResultityNode[] {
  if (count <= 0) return [];
  const order = byOrdinal(pool);
  return [...staying].sort((a, b) => Number(isReady(a)) - Number(isReady(b)) || order(b, a)).slice(0, count);
}

function planBudget({ pool, children, budget }: PoolObservation): PoolAction[] {
  const minAvailable = minAvailableOf(pool, budgetSize(pool, children));
  if (budget && (!budget.ours || (budget.intact && budget.minAvailable === minAvailable))) return [];
  return [{ type: "budget", minAvailable, reason: `${minAvailable} nodes stay in service` }];
}

/** Nodes that the budget is about: those wanted, less those that a person has parked. */
export function budgetSize(pool: ResultityNodePool, children: readonly ResultityNode[]): number {
  const parked = children.filter((child) => !isLeaving(child) && isParked(child)).length;
  return Math.max(0, pool.spec.replicas - parked);
}

/**
 * The rolling update: a window of at most `maxUnavailable` nodes that are out of service, for whatever reason, or told to
 * go. What is out of service already, or parked, moves for nothing, as does every node where the move interrupts no job;
 * the others wait until the window has room, and for a config until restarts are allowed. A node that was told to move is
 * told nothing new until it has arrived, unless the target itself changed.
 */
function planUpdate(seen: PoolObservation, leaves: (child: ResultityNode) => boolean): PoolAction[] {
  const { pool } = seen;
  const wanted = wantedDigest(seen);
  const trial = trialOf(seen);
  const staying = seen.children.filter((child) => !leaves(child)).sort(byOrdinal(pool));
  const inService = new Set(
    staying.filter((child) => !isParked(child) && isReady(child) && !isMoving(child)),
  );
  let room = inService.size - minAvailableOf(pool, budgetSize(pool, seen.children));
  const actions: PoolAction[] = [];
  for (const child of staying) {
    const steps = stepsOf(seen, child, mayTake(trial, child) ? wanted : undefined);
    if (steps.length === 0) continue;
    const costly = inService.has(child) ? steps.filter((step) => !isFree(seen, step)) : [];
    if (costly.length > 0) {
      // An edit of the pool is somebody's wish for now; a config that the network brings can wait.
      if (!seen.mayRestart && costly.every(({ type }) => type === "target")) {
        actions.push(...steps.filter((step) => !costly.includes(step)));
        continue;
      }
      if (room <= 0) continue;
      room--;
    }
    actions.push(...steps);
  }
  return actions;
}

/** While a config is tried the members alone move to it, and nobody does once it has failed. */
function mayTake(trial: Trial, { metadata }: ResultityNode): boolean {
  if (trial.state === "running") return trial.members.has(metadata.name);
  return trial.state !== "failed";
}

/** Labels and annotations interrupt nothing, nor do configs that differ in what is applied live. */
function isFree({ pool, interrupts }: PoolObservation, step: PoolAction): boolean {
  if (step.type === "update") return hasSpec(pool, step.child);
  return step.type === "target" && !interrupts(step.child, step.digest);
}

/** True where the update leaves a child as it is, unless it has no config yet: its number is under the partition. */
export function isHeldBack(pool: ResultityNodePool, child: ResultityNode): boolean {
  return ordinalOf(pool, child) < pool.spec.strategy.rollingUpdate.partition;
}

function stepsOf(seen: PoolObservation, child: ResultityNode, wanted: string | undefined): PoolAction[] {
  const { pool } = seen;
  const target = child.status?.config?.target;
  const steps: PoolAction[] = [];
  if (pool.spec.strategy.paused || isHeldBack(pool, child)) {
    const first = target === undefined ? (commonDigest(seen) ?? wanted) : undefined;
    if (first !== undefined)
      steps.push({ type: "target", child, digest: first, reason: "a new node needs a config" });
    return steps;
  }
  if (!hasSpec(pool, child) || !hasMetadata(pool, child)) {
    steps.push({ type: "update", child, reason: "the template changed, or the node was edited" });
  }
  // While others try a config, a new node runs what its siblings run.
  const next = wanted ?? (target === undefined ? commonDigest(seen) : undefined);
  if (next !== undefined && target !== next) {
    const reason =
      target === undefined ? "a new node needs a config" : `the pool moves from ${target} to ${next}`;
    steps.push({ type: "target", child, digest: next, reason });
  }
  return steps;
}

/** What most nodes run: a node that joins a pool that stands still runs what its siblings run. */
export function commonDigest({ children }: PoolObservation, except?: string): string | undefined {
  const counts = new Map<string, number>();
  for (const child of children) {
    const applied = child.status?.config?.applied;
    if (applied !== undefined && applied !== except) counts.set(applied, (counts.get(applied) ?? 0) + 1);
  }
  return [...counts].sort(([, a], [, b]) => b - a)[0]?.[0];
}
