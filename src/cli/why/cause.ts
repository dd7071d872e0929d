import type { NodeReason } from "../../api/v1alpha1/conditions.ts";
import type { ConditionView } from "./view.ts";

/**
 * Reasons that pass by themselves, or that follow from others: a node that cannot pull its image waits for its agent too, has no
 * session, and is not ready. They are the cause only where nothing else is.
 */
const passing: ReadonlySet<string> = new Set<NodeReason>([
  "PodPending",
  "PodNotCreated",
  "Waiting",
  "Staging",
  "Moving",
  "AgentStarting",
  "EngineStarting",
  "PodNotReady",
  "NotRegistered",
  "SessionClosed",
  "FeedUnavailable",
  "ConfigChange",
  "ScaleDown",
  "SpecChange",
  "Evicted",
  "Deleted",
  "NotYetKnown",
]);

/**
 * Of the conditions that are not as they should be the one that the others follow from: the first, in the order in which they
 * depend on each other, whose reason does not pass by itself. Undefined where all is well.
 */
export function causeOf(conditions: readonly ConditionView[]): ConditionView | undefined {
  const unwell = conditions.filter(
    ({ well, meant, type, reason }) => !well && !meant && type !== "Ready" && reason !== "NotReported",
  );
  return unwell.find(({ reason }) => !passing.has(reason)) ?? unwell[0];
}
