import type { Desired } from "../../protocol/desired.ts";
import { asksFor, revise, wishOf } from "./desired.ts";
import { type PodFacts, pullFails, startFails } from "./facts.ts";
import type { NodeObservation } from "./observation.ts";
import type { Action, Notes, Plan } from "./plan.ts";

/** How long an agent may be silent before its pod is deleted without its word that it knows of the plan. */
export const patienceMs = 60_000;

/** Plans for a node that is to have no pod. */
export function planStop(
  o: NodeObservation,
  plannedStop: NonNullable<Desired["plannedStop"]>,
  reason: string,
  notes: Notes,
): Plan {
  const { pod } = o;
  if (!pod) return { target: undefined, actions: [], notes };
  return { target: undefined, actions: stopPod(o, pod, plannedStop, reason), notes };
}

/**
 * Steps to a planned end of the pod: the annotation says so, the agent's signed status echoes it, the pod is deleted,
 * its `preStop` drains. The echo comes first because nothing reaches a pod once its `preStop` runs.
 */
export function stopPod(
  o: NodeObservation,
  pod: PodFacts,
  plannedStop: NonNullable<Desired["plannedStop"]>,
  reason: string,
): readonly Action[] {
  const remove = (why: string): Action => ({
    type: "delete-pod",
    uid: pod.uid,
    finished: false,
    reason: `${reason}${why}`,
  });
  if (isIdle(pod)) return [remove("; the engine has never run")];
  const { desired } = pod;
  const target = desired.ok ? desired.desired.target : null;
  const wish = wishOf(o, { stage: null, target, plannedStop });
  if (!desired.ok || !asksFor(desired.desired, wish)) {
    if (agentFails(pod)) return [remove("; the agent does not run")];
    return [
      { type: "annotate", desired: revise(wish, revisionOf(o, pod)), reason: `plan the stop: ${reason}` },
    ];
  }
  if (echoed(o, desired.desired)) return [remove("")];
  if (agentFails(pod)) return [remove("; the agent does not run")];
  if (o.agent.silentMs > patienceMs) {
    return [remove(`; the agent has not answered for ${Math.round(o.agent.silentMs / 1000)} s`)];
  }
  return [{ type: "ask-agent", reason: `has the agent read revision ${desired.desired.revision}?` }];
}

/** True if nothing is lost with the pod: neither its engine nor its agent has come up yet. */
export function isIdle(pod: PodFacts): boolean {
  return !pod.runtime.hasRun && !pod.agent.started;
}

/** True while the agent cannot run: its image does not come, or it does not stay up. */
export function agentFails({ agent, scheduled }: PodFacts): boolean {
  return !scheduled.ok || pullFails(agent) || startFails(agent);
}

/** True once the agent acts on this revision of its annotation. */
export function echoed(o: NodeObservation, desired: Desired): boolean {
  return (o.agent.status?.desired_revision ?? 0) >= desired.revision;
}

/** Revision that the next one follows. Where the annotation was lost it is the clock's, which no count of changes reaches. */
export function revisionOf(o: NodeObservation, pod: PodFacts): number {
  return pod.desired.ok ? pod.desired.desired.revision : Math.floor(o.now / 1000);
}
