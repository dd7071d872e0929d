import type { PoolStatus } from "../../api/v1alpha1/pool.ts";
import { canonical } from "../hash.ts";

/** Longest time for which the figures of a pool's status are kept back, milliseconds. */
export const figuresMs = 1_000;

/**
 * Whether a status is written at once, and not with what comes within {@link figuresMs}: a pool's nodes come and go all the time while
 * it rolls, and each change of a count, or of the node that a message names, would be a write to the API server. At once is what others
 * act on: the state of a condition, and where the pool goes.
 */
export function isUrgent(before: PoolStatus | undefined, after: PoolStatus): boolean {
  return before === undefined || canonical(withoutFigures(before)) !== canonical(withoutFigures(after));
}

function withoutFigures({
  replicas: _replicas,
  readyReplicas: _ready,
  availableReplicas: _available,
  updatedReplicas: _updated,
  parkedReplicas: _parked,
  rollout,
  conditions,
  ...rest
}: PoolStatus): object {
  const { updated: _, total: _total, waitingOn: _waitingOn, ...course } = rollout ?? {};
  return { ...rest, course, conditions: conditions?.map(({ message: _message, ...condition }) => condition) };
}
