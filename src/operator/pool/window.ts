import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";

/**
 * Most nodes of `size` that may be out of service at once: the number in the spec, or its percentage rounded down and at
 * least 1. Never more than there are.
 */
export function maxUnavailableOf(pool: ResultityNodePool, size: number): number {
  const { maxUnavailable } = pool.spec.strategy.rollingUpdate;
  const wanted =
    typeof maxUnavailable === "number"
      ? maxUnavailable
      : Math.max(1, Math.floor((Number.parseInt(maxUnavailable, 10) * size) / 100));
  return Math.min(wanted, size);
}

/** Most images that come to hosts at once, where the pool does not say: a registry is shared by many. */
export const defaultParallel = 4;

/** Fewest nodes of `size` that the operator keeps in service. */
export function minAvailableOf(pool: ResultityNodePool, size: number): number {
  return Math.max(0, size - maxUnavailableOf(pool, size));
}
