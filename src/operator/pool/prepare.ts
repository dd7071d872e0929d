import { findCondition } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { stuckReasons } from "./child.ts";
import type { PoolAction, PoolObservation } from "./observation.ts";
import type { Dues } from "./plan.ts";
import { defaultParallel } from "./window.ts";

/**
 * While no maintenance window is open, nodes that will be restarted in the next one get image and weights ready, so that the
 * window is for restarts alone: in the order in which they will go, and no more at once than images may come to hosts.
 *
 * @param others what else is done: who is told something else gets ready after that.
 */
export function planPrepare(
  seen: PoolObservation,
  staying: readonly ResultityNode[],
  { due }: Dues,
  others: readonly PoolAction[],
): PoolAction[] {
  const told = new Set(others.flatMap((action) => ("child" in action ? [action.child] : [])));
  const actions: PoolAction[] = [];
  const going = new Set(due.flatMap(({ child, digest }) => (digest === undefined ? [] : [child])));
  for (const child of staying) {
    if (child.status?.config?.next === undefined || going.has(child) || told.has(child)) continue;
    actions.push({ type: "prepare", child, digest: undefined, reason: "it is to move nowhere any more" });
  }
  if (seen.mayRestart) return actions;
  const { prefetch } = seen.pool.spec.strategy.rollingUpdate;
  let hands = (prefetch?.maxParallel ?? defaultParallel) - staying.filter(isPreparing).length;
  for (const { child, digest, restarted, edited } of due) {
    if (
      told.has(child) ||
      !restarted ||
      edited ||
      digest === undefined ||
      child.status?.config?.next === digest
    )
      continue;
    // One that gets ready for another config has a hand already.
    const busy = isPreparing(child);
    if (hands <= 0 && !busy) continue;
    if (!busy) hands--;
    const reason = "it moves there when the maintenance window opens";
    actions.push({ type: "prepare", child, digest, reason });
  }
  return actions;
}

/** Gets ready for a config, and is not stuck on the way. */
function isPreparing({ status }: ResultityNode): boolean {
  const { next, staged } = status?.config ?? {};
  if (next === undefined || next === staged) return false;
  return !stuckReasons.has(findCondition(status?.conditions, "ConfigApplied")?.reason ?? "");
}
