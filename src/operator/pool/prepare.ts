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
 * Outside of maintenance windows that is all of them, else as many as may be out of service at once, which go next. Who gets ready
 * for another config than that to which it is to go leaves it, though its place be further back: it would fetch for nothing.
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
  const going = new Map(due.map(({ child, digest }) => [child, digest]));
  const stale = new Set(
    staying.filter(
      (child) => nextOf(child) !== undefined && nextOf(child) !== going.get(child) && !told.has(child),
    ),
  );
  const places = seen.mayRestart ? maxUnavailableOf(seen.pool, sizeOf(seen.pool, staying)) : staying.length;
  const ahead = due
    .filter(({ child, restarted, edited }) => !told.has(child) && restarted && !edited)
    .slice(0, places);
  // One that gets ready for another config hands its place over to itself; one that leaves it, to whoever is next.
  const again = new Set(
    ahead.flatMap(({ child }) => (stale.has(child) && lacks(child, nextOf(child)) ? [child] : [])),
  );
  const fetching = staying.filter(
    (child) =>
      again.has(child) || isFetching(child, stale.has(child) ? undefined : nextOf(child), told.get(child)),
  );
  const { prefetch } = seen.pool.spec.strategy.rollingUpdate;
  let hands = (prefetch?.maxParallel ?? defaultParallel) - fetching.length;
  const actions: PoolAction[] = [];
  for (const { child, digest } of ahead) {
    if (digest === undefined || nextOf(child) === digest) continue;
    if (!again.has(child) && hands-- <= 0) continue;
    stale.delete(child);
    const reason = seen.mayRestart
      ? `it is among the next to move to ${digest}`
      : "it moves there when the maintenance window opens";
    actions.push({ type: "prepare", child, digest, reason });
  }
  const leaving = [...stale].map((child): PoolAction => {
    const digest = going.get(child);
    const reason = digest === undefined ? "it is to move nowhere any more" : `it is to move to ${digest} now`;
    return { type: "prepare", child, digest: undefined, reason };
  });
  return [...leaving, ...actions];
}

const nextOf = ({ status }: ResultityNode): string | undefined => status?.config?.next;

/** Gets ready for a config: for one that comes next, or, serving still, for the one to which it has been told to move. */
function isFetching(child: ResultityNode, next: string | undefined, told: PoolAction | undefined): boolean {
  const target = child.status?.config?.target;
  if (told?.type === "target") return isReady(child) && lacks(child, told.digest);
  return lacks(child, next) || (isReady(child) && isMoving(child) && lacks(child, target));
}

/** Has not all of it yet, and is not stuck on the way. */
function lacks({ status }: ResultityNode, digest: string | undefined): boolean {
  if (digest === undefined || digest === status?.config?.staged) return false;
  return !stuckReasons.has(findCondition(status?.conditions, "ConfigApplied")?.reason ?? "");
}
