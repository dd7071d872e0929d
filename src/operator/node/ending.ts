import type { PodFacts } from "./facts.ts";
import type { NodeObservation } from "./observation.ts";
import type { Action, Note, Plan } from "./plan.ts";

type Ending = NonNullable<PodFacts["terminating"]>;

/** How long after its end was due a pod that is still there counts as one of a lost host. */
const lostAfterMs = 60_000;

/** What a pod gets beyond its drain: jobs are handed back and acknowledged, engine and agent end. */
const slackMs = 30_000;

/** What is left to a pod that has had its time, seconds. */
const lastSeconds = 10;

/** Plans for a pod that is being deleted: it is left to end, and killed where it does not. */
export function planEnding(o: NodeObservation, pod: PodFacts, ending: Ending): Plan {
  const note: Note = { status: "True", reason: reasonOf(pod, ending), message: messageOf(ending) };
  const due = drainedBy(o, pod, ending) + slackMs;
  const graceSeconds = shortGrace(o, ending);
  const over = Math.max(ending.deadline, due + graceSeconds * 1000);
  if (o.now > over + lostAfterMs) {
    const message = `host ${pod.host ?? ""} does not confirm that the pod has ended: repair it, or delete its Node object once it is surely off`;
    const lost: Note = { status: "True", reason: "HostLost", message };
    return { target: undefined, actions: [], notes: { Draining: note, Degraded: lost } };
  }
  const wait = (until: number): Action => ({
    type: "wait",
    ms: Math.max(1000, until - o.now),
    reason: "the pod is ending",
  });
  const lostAt = over + lostAfterMs + 1000;
  const isShort = ending.deadline <= Math.max(o.now, due) + graceSeconds * 1000;
  const actions = [
    ...hastened(o, pod, ending),
    ...(isShort || o.now < due
      ? [wait(isShort ? lostAt : due)]
      : [kill(pod, ending, due, graceSeconds), wait(due + graceSeconds * 1000 + lostAfterMs + 1000)]),
  ];
  return { target: undefined, actions, notes: { Draining: note } };
}

/**
 * The grace period covers the longest drain that a spec allows, over an hour, for it cannot change while the pod lives. So who
 * hangs, or began in the moment of its signal and never heard it, would hold its GPUs that long. A second deletion may shorten it,
 * and has the kubelet signal once more.
 */
function kill({ uid }: PodFacts, { began }: Ending, due: number, graceSeconds: number): Action {
  const reason = `the pod has had ${(due - began) / 1000} s to end and is still there: it gets ${graceSeconds} s more`;
  return { type: "delete-pod", uid, finished: false, graceSeconds, reason };
}

/**
 * A host that the cluster had given up hears of the end only when it is back, maybe with an engine that has served all the while:
 * its jobs get the time that others had.
 */
const shortGrace = ({ node }: NodeObservation, { tainted }: Ending): number =>
  lastSeconds + (tainted ? node.spec.drain.evictionTimeoutSeconds : 0);

/**
 * Until when the jobs of the pod may run, ms. The agent goes by what it was told, and hears of nothing new while it drains: who
 * shortens the time in the spec meanwhile does not cut off its jobs.
 */
function drainedBy({ node }: NodeObservation, pod: PodFacts, ending: Ending): number {
  const { timeoutSeconds, evictionTimeoutSeconds } = node.spec.drain;
  const told = pod.desired.ok ? pod.desired.desired : undefined;
  const evictionMs = Math.max(evictionTimeoutSeconds * 1000, told?.evictionTimeoutMs ?? 0);
  if (plannedStopOf(pod) === null) return ending.began + evictionMs;
  const planned = ending.began + Math.max(timeoutSeconds * 1000, told?.drainTimeoutMs ?? 0);
  return ending.disruption === undefined ? planned : Math.min(planned, disruptedAt(ending) + evictionMs);
}

/** When a pod was evicted, ms: it may have been ending for a while. */
const disruptedAt = ({ began, disrupted = began }: Ending): number => Math.max(began, disrupted);

/** Where the agent knows of a stop that has more time. */
function hastened({ node, now }: NodeObservation, pod: PodFacts, ending: Ending): readonly Action[] {
  const planned = plannedStopOf(pod);
  if (ending.disruption === undefined || planned === null) return [];
  const ms = Math.max(0, disruptedAt(ending) + node.spec.drain.evictionTimeoutSeconds * 1000 - now);
  return [{ type: "hasten", ms, reason: `the pod is evicted in the middle of a planned stop (${planned})` }];
}

const plannedStopOf = ({ desired }: PodFacts) => (desired.ok ? desired.desired.plannedStop : null);

function reasonOf(pod: PodFacts, { disruption }: Ending): Note["reason"] {
  if (disruption !== undefined) return "Evicted";
  const planned = plannedStopOf(pod);
  if (planned === null) return "Deleted";
  return planned === "parking" || planned === "scale-down" ? "ScaleDown" : "SpecChange";
}

const messageOf = ({ disruption }: Ending): string =>
  disruption ? `the pod is being evicted: ${disruption}` : "the pod is being deleted";
