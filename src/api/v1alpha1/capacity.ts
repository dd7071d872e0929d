import type { Rule } from "./fields.ts";
import { opportunisticPriorityClass } from "./names.ts";

/** Whose GPUs a node has: those that it needs, or those that nobody else wants just now. */
export const capacities = ["Guaranteed", "Opportunistic"] as const;

interface Lent {
  readonly capacity?: (typeof capacities)[number] | undefined;
  readonly podOverrides?: { readonly priorityClassName?: string | undefined } | undefined;
}

/**
 * The rule that GPUs are lent under our own PriorityClass alone: another might preempt those who lend them.
 *
 * @param pod path of the object with podOverrides, from that with capacity
 */
export function lentAtLowPriority<Spec extends Lent>(
  pod: readonly string[],
  podOf: (spec: Spec) => Pick<Lent, "podOverrides">,
): Rule<Spec> {
  const overrides = ["self", ...pod, "podOverrides"].join(".");
  return {
    cel: `!has(self.capacity) || self.capacity != "Opportunistic" || !has(${overrides}) || !has(${overrides}.priorityClassName)`,
    message: `podOverrides.priorityClassName must not be set where capacity is Opportunistic, whose pods have the PriorityClass ${opportunisticPriorityClass}: remove it; for another priority put a PriorityClass of that name in its place`,
    check: (spec) =>
      spec.capacity !== "Opportunistic" || podOf(spec).podOverrides?.priorityClassName === undefined,
  };
}
