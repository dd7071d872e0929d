import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { editInterrupts } from "../move.ts";
import type { Trial } from "./canary.ts";
import { censusOf, hostOf, sizeOf } from "./census.ts";
import { childSpec, hasMetadata, hasSpec, isMoving, isParked, isReady, stuckReason } from "./child.ts";
import { commonDigest, isHeldBack, trialOf, wantedDigest } from "./digest.ts";
import type { PoolAction, PoolObservation } from "./observation.ts";
import { planPrepare } from "./prepare.ts";
import { planScale } from "./scale.ts";
import { minAvailableOf } from "./window.ts";

// With them a plan can be carried forward on paper, as `kubectl resultity plan` does.
export type { PoolAction, PoolObservation } from "./observation.ts";
export {
  childLabels,
  childSpec,
  hasSpec,
  isLeaving,
  isMoving,
  isParked,
  isReady,
  removingAnnotation,
} from "./child.ts";
export { type AimConfig } from "../node/aim.ts";
export { type Outlook, outlookOf } from "../node/outlook.ts";
export { budgetSize } from "./census.ts";
export { isHeldBack, promoteAnnotation, trialOf, wantedDigest } from "./digest.ts";
export { minAvailableOf } from "./window.ts";

/** What is to be done now. The rest follows from later observations: nothing is remembered. */
export function planPool(seen: PoolObservation): readonly PoolAction[] {
  if (seen.pool.metadata.deletionTimestamp !== undefined) return [];
  const scale = planScale(seen);
  const retired = new Set(scale.flatMap((action) => (action.type === "retire" ? [action.child] : [])));
  // What is taken away in this very plan is neither updated nor counted on.
  const staying = censusOf(seen).staying.filter((child) => !retired.has(child));
  const minAvailable = minAvailableOf(seen.pool, sizeOf(seen.pool, staying));
  return [...planBudget(seen, minAvailable), ...scale, ...planUpdate(seen, staying, minAvailable)];
}

function planBudget({ budget }: PoolObservation, minAvailable: number): PoolAction[] {
  if (budget && (!budget.ours || (budget.intact && budget.minAvailable === minAvailable))) return [];
  return [{ type: "budget", minAvailable, reason: `${minAvailable} nodes stay in service` }];
}

/**
 * The rolling update: a window of at most `maxUnavailable` nodes that are out of service, for whatever reason, or told to
 * go. What is out of service already, or parked, moves for nothing, as does every node where the move interrupts no job;
 * the others wait until the window has room, and for a config until restarts are allowed. A node that was told to move is
 * told nothing new until it has arrived, unless the target itself changed.
 */
function planUpdate(
  seen: PoolObservation,
  staying: readonly ResultityNode[],
  minAvailable: number,
): PoolAction[] {
  const dues = dueOf(seen, staying);
  const { due, serving } = dues;
  let room = serving - minAvailable;
  const actions: PoolAction[] = [];
  for (const each of due) {
    const admitted = admit(seen, each, room);
    room -= admitted.takes;
    actions.push(...admitted.actions);
  }
  return [...actions, ...planPrepare(seen, staying, dues, actions)];
}

/** What an update has for the nodes that stay, in the order in which they go, and how many of them serve. */
export interface Dues {
  readonly due: readonly Due[];
  readonly serving: number;
}

function dueOf(seen: PoolObservation, staying: readonly ResultityNode[]): Dues {
  const wanted = wantedDigest(seen);
  const trial = trialOf(seen);
  const due: Due[] = [];
  let serving = 0;
  for (const child of staying) {
    const serves = isInService(seen, child);
    if (serves) serving++;
    const outdated = isOutdated(seen, child);
    const digest = nextDigest(seen, child, mayTake(trial, child) ? wanted : undefined);
    if (!outdated && digest === undefined) continue;
    due.push({
      child,
      outdated,
      digest,
      // Labels and annotations interrupt nothing, nor does what is applied to the running pod.
      edited: serves && outdated && !hasSpec(seen.pool, child) && editOf(seen.pool, child) === "interrupts",
      restarted: serves && digest !== undefined && seen.interrupts(child, digest),
    });
  }
  return { due: hostByHost(due, staying), serving };
}

/** The same of a whole pool, and the fewest nodes that are to stay in service: what {@link admit} works through. */
export function updateOf(seen: PoolObservation): Dues & { readonly minAvailable: number } {
  const { staying, minAvailable } = censusOf(seen);
  return { ...dueOf(seen, staying), minAvailable };
}

/** What is done with a node now that so many more may leave service, and how many of these it takes. */
export function admit(
  seen: PoolObservation,
  { child, outdated, digest, edited, restarted }: Due,
  room: number,
): { readonly actions: readonly PoolAction[]; readonly takes: 0 | 1 } {
  // An edit of the pool is somebody's wish for now; a config that the network brings can wait.
  const waits = (edited || restarted) && (room <= 0 || !(edited || seen.mayRestart));
  if (waits && edited) return { actions: [], takes: 0 };
  const actions: PoolAction[] = [];
  if (outdated)
    actions.push({ type: "update", child, reason: "the template changed, or the node was edited" });
  if (waits) return { actions, takes: 0 };
  if (digest !== undefined) actions.push({ type: "target", child, digest, reason: reasonOf(child, digest) });
  return { actions, takes: edited || restarted ? 1 : 0 };
}

/**
 * Serves, and nothing that it was told takes it away. A move that interrupts no job leaves it in service until it has
 * arrived: should the target change meanwhile to one that does, then it waits for room as the others do.
 */
export function isInService(seen: PoolObservation, child: ResultityNode): boolean {
  if (isParked(child) || !isReady(child)) return false;
  if (!isMoving(child)) return true;
  const { config: { target } = {}, observedGeneration } = child.status ?? {};
  return (
    observedGeneration === child.metadata.generation &&
    target !== undefined &&
    !seen.interrupts(child, target)
  );
}

const edits = new WeakMap<
  ResultityNode["spec"],
  { readonly template: unknown; readonly interrupts: boolean }
>();

/** Whether the template's spec interrupts the child's jobs; worked out once for both, as thousands of children wait for it. */
function editOf(pool: ResultityNodePool, { spec }: ResultityNode): "interrupts" | "live" {
  const template = childSpec(pool.spec);
  const before = edits.get(spec);
  const known =
    before?.template === template ? before : { template, interrupts: editInterrupts(spec, template) };
  edits.set(spec, known);
  return known.interrupts ? "interrupts" : "live";
}

/** What an update has for a child. */
export interface Due {
  readonly child: ResultityNode;
  /** It has not the newest template. */
  readonly outdated: boolean;
  /** Config that it is to move to. */
  readonly digest: string | undefined;
  /** It serves, and the template, or the config, takes it out of service. */
  readonly edited: boolean;
  readonly restarted: boolean;
}

/**
 * Nodes that share a host follow each other, so that one fetch of an image is for all of them. Hosts by the lowest ordinal
 * there, moved or not: the one that has been begun is finished first.
 */
function hostByHost(due: readonly Due[], staying: readonly ResultityNode[]): readonly Due[] {
  if (due.length < 2) return due;
  const hosts = new Map<string, Due[]>(staying.map((child) => [hostOf(child), []]));
  for (const each of due) hosts.get(hostOf(each.child))?.push(each);
  return [...hosts.values()].flat();
}

/** While a config is tried the members alone move to it, and nobody does once it has failed. */
function mayTake(trial: Trial, { metadata }: ResultityNode): boolean {
  if (trial.state === "running") return trial.members.has(metadata.name);
  return trial.state !== "failed";
}

/** Stands still: the pool is paused, or the child is under the partition. */
function isHeld({ pool }: PoolObservation, child: ResultityNode): boolean {
  return pool.spec.strategy.paused || isHeldBack(pool, child);
}

function isOutdated(seen: PoolObservation, child: ResultityNode): boolean {
  return !(hasSpec(seen.pool, child) && hasMetadata(seen.pool, child)) && !isHeld(seen, child);
}

/** Config that a child is to be told; undefined = none, or the one that it was told. */
function nextDigest(
  seen: PoolObservation,
  child: ResultityNode,
  wanted: string | undefined,
): string | undefined {
  const target = child.status?.config?.target;
  if (wanted !== undefined && target === wanted) return undefined;
  const held = isHeld(seen, child);
  if (target !== undefined && held) return undefined;
  // Where the others stand still, or try a config, a new node runs what its siblings run; and so does one that cannot get to
  // a config that nobody asks for any more: else it would use up the room that the trial needs.
  const lost = !held && target !== wantedDigest(seen) && stuckReason(child) !== undefined;
  const first = () => (target === undefined || lost ? siblingsDigest(seen) : undefined);
  const next = held ? (first() ?? wanted) : (wanted ?? first());
  return next !== undefined && next !== target && seen.allows(next) ? next : undefined;
}

/** What most nodes run, and not what has failed; nor what is being tried, unless the network has withdrawn all else. */
function siblingsDigest(seen: PoolObservation): string | undefined {
  const { state } = trialOf(seen);
  const tried = state === "running" || state === "failed" ? wantedDigest(seen) : undefined;
  return commonDigest(seen, tried) ?? (state === "running" ? tried : undefined);
}

function reasonOf({ status }: ResultityNode, next: string): string {
  const target = status?.config?.target;
  return target === undefined ? "a new node needs a config" : `the pool moves from ${target} to ${next}`;
}
