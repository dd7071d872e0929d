import { findCondition } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { sizeOf } from "./census.ts";
import { isMoving, isReady, stuckReasons } from "./child.ts";
import type { PoolAction, PoolObservation } from "./observation.ts";
import type { Dues } from "./plan.ts";
import { defaultParallel, maxUnavailableOf } from "./window.ts";

/**
 * Nodes that will be restarted later get image and weights ready before, so that their place among those that may be out of
 * service is taken for a restart alone: in the order in which they will go, and no more at once than images may come to hosts.
 * Outside of maintenance windows that is all of them, else as many as may be out of service at once, which go next.
 *
 * @param others what else is done: who is told something else gets ready after that.
 */
export function planPrepare(
  seen: PoolObservation,
  staying: readonly ResultityNode[],
  { due }: Dues,
  others: readonly PoolAction[],
): PoolAction[] {
  const told = new Map(others.flatMap((action) => ("child" in action ? [[action.child, action]] : [])));
  const actions: PoolAction[] = [];
  const going = new Set(due.flatMap(({ child, digest }) => (digest === undefined ? [] : [child])));
  for (const child of staying) {
    if (child.status?.config?.next === undefined || going.has(child) || told.has(child)) continue;
    actions.push({ type: "prepare", child, digest: undefined, reason: "it is to move nowhere any more" });
  }
  const { prefetch } = seen.pool.spec.strategy.rollingUpdate;
  const fetching = staying.filter((child) => isFetching(child, told.get(child)));
  let hands = (prefetch?.maxParallel ?? defaultParallel) - fetching.length;
  let ahead = seen.mayRestart ? maxUnavailableOf(seen.pool, sizeOf(seen.pool, staying)) : staying.length;
  for (const { child, digest, restarted, edited } of due) {
    if (told.has(child) || !restarted || edited || digest === undefined) continue;
    if (ahead-- <= 0) break;
    if (child.status?.config?.next === digest) continue;
    // One that gets ready for another config has a hand already.
    const busy = lacks(child, child.status?.config?.next);
    if (hands <= 0 && !busy) continue;
    if (!busy) hands--;
    const reason = seen.mayRestart
      ? `it is among the next to move to ${digest}`
      : "it moves there when the maintenance window opens";
    actions.push({ type: "prepare", child, digest, reason });
  }
  return actions;
}

/** Gets ready for a config: for one that comes next, or, serving still, for the one to which it has been told to move. */
function isFetching(child: ResultityNode, told: PoolAction | undefined): boolean {
  const { next, target } = child.status?.config ?? {};
  if (told?.type === "target") return isReady(child) && lacks(child, told.digest);
  return lacks(child, next) || (isReady(child) && isMoving(child) && lacks(child, target));
}

/** Has not all of it yet, and is not stuck on the way. */
function lacks({ status }: ResultityNode, digest: string | undefined): boolean {
  if (digest === undefined || digest === status?.config?.staged) return false;
  return !stuckReasons.has(findCondition(status?.conditions, "ConfigApplied")?.reason ?? "");
}
