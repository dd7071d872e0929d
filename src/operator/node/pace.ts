import { findCondition } from "../../api/v1alpha1/conditions.ts";
import type { NodeStatus } from "../../api/v1alpha1/node.ts";

/** Longest time for which what passes by itself is kept out of the status, milliseconds; and of a node that is being stopped. */
export const settleMs = 5_000;
const stoppingMs = 30_000;

/** How long a status that is not urgent is kept back: that a node is stopped and started again has been said when it left service. */
export const settleMsOf = (status: NodeStatus): number =>
  findCondition(status.conditions, "Draining")?.status === "True" ? stoppingMs : settleMs;

/** Reasons of ConfigApplied for which a person has to look. */
const stopped: ReadonlySet<string> = new Set(["StageFailed", "PrefetchFailed", "HostDiskFull"]);

/**
 * Whether a status is written at once, and not when it has settled: each state between two that last would be a write to the API
 * server, and one to every watch. At once is what others act on: that the node enters or leaves service, that it has arrived at
 * what was asked of it, and that something is wrong.
 */
export function isUrgent(before: NodeStatus | undefined, after: NodeStatus): boolean {
  const [was, is] = [readyOf(before), readyOf(after)];
  // A step of recovery is taken when it is read where it was written.
  if (lastStep(before) !== lastStep(after) && lastStep(after) !== undefined) return true;
  if (isDegraded(after) && !isDegraded(before)) return true;
  const served = was?.status === "True";
  if (is?.status === "True") {
    return (
      !served ||
      before?.observedGeneration !== after.observedGeneration ||
      before?.config?.applied !== after.config?.applied ||
      isStopped(before) !== isStopped(after)
    );
  }
  // A live change of what the agent applies is confirmed in a moment, and the node serves meanwhile.
  if (served && is?.reason !== "Waiting") return true;
  return isStopped(after) && !isStopped(before);
}

/** A pod may have a second step, where it got well before the first was taken. */
function lastStep(status: NodeStatus | undefined): string | undefined {
  const last = status?.recovery?.steps?.at(-1);
  return last && `${last.podUid} ${last.time}`;
}

const readyOf = (status: NodeStatus | undefined) => findCondition(status?.conditions, "Ready");

const isDegraded = (status: NodeStatus | undefined): boolean =>
  findCondition(status?.conditions, "Degraded")?.status === "True";

const isStopped = (status: NodeStatus | undefined): boolean =>
  stopped.has(findCondition(status?.conditions, "ConfigApplied")?.reason ?? "");
