import { findCondition } from "../api/v1alpha1/conditions.ts";
import { opportunisticPriorityClass } from "../api/v1alpha1/names.ts";
import type { ResultityNode } from "../api/v1alpha1/node.ts";

/** Whether a node takes GPUs that nobody else wants, and none when there are none. */
export function isOpportunistic({ spec }: Pick<ResultityNode, "spec">): boolean {
  return spec.capacity === "Opportunistic";
}

/** PriorityClass of what is made for a node; undefined = the cluster's default. */
export function priorityClassOf(node: Pick<ResultityNode, "spec">): string | undefined {
  return isOpportunistic(node) ? opportunisticPriorityClass : node.spec.podOverrides?.priorityClassName;
}

/**
 * Parked because no host has GPUs to lend it, as its controller has seen. It is well, serves nobody, and comes back by itself with
 * whatever config it is told meanwhile.
 */
export function hasNoCapacity(node: Pick<ResultityNode, "spec" | "status">): boolean {
  return (
    isOpportunistic(node) && findCondition(node.status?.conditions, "Scheduled")?.reason === "NoCapacity"
  );
}
