import { rfc3339 } from "../../../api/v1alpha1/conditions.ts";
import type { Recovery, RecoveryStep } from "../../../api/v1alpha1/node.ts";
import { isOpportunistic } from "../../capacity.ts";
import { aimOf } from "../aim.ts";
import { degradedNote } from "../conditions.ts";
import type { PodFacts } from "../facts.ts";
import type { NodeObservation } from "../observation.ts";
import type { Action, Note, Notes, Plan } from "../plan.ts";
import { climb, type Decision, expiryMs, heldMs, intended, recent, withStep } from "./ladder.ts";
import { lookAgainMs, lookInMs, lostPodOf, type LostPod, mayBeLost, wantsLook } from "./lost-host.ts";
import { avoidedHosts, type Trouble, troubleOf } from "./trouble.ts";

type Steps = NonNullable<Recovery["steps"]>;

/**
 * Adds to a node's plan what is done if the node does not come back by itself. A step is first written into the status, and taken
 * when it is read there: an operator that is killed in between takes it once, and counts it.
 */
export function withRecovery(o: NodeObservation, plan: Plan): Plan {
  const { node, pod, now } = o;
  if (node.metadata.deletionTimestamp !== undefined || node.spec.replicas === 0) return plan;
  if (pod && !pod.ours) return plan;
  const steps = recent(node.status?.recovery, now);
  if (!pod) return keep(o, plan, steps);
  if (pod.finished) return keep(o, plan, withFailure(steps, pod, now));
  const step = intended(steps, pod.uid, now);
  if (!mayBeLost(o, pod)) return onHost(o, pod, withLook(o, pod, plan), steps, step);
  const looked = withLook(o, pod, plan);
  return onLostHost(o, pod, looked, steps, step) ?? onHost(o, pod, looked, steps, step);
}

/** What is done while the host is there, as far as anybody knows. */
function onHost(
  o: NodeObservation,
  pod: PodFacts,
  plan: Plan,
  steps: Steps,
  step: RecoveryStep | undefined,
): Plan {
  const trouble = troubleOf(o, pod);
  if (!trouble) return keep(o, plan, steps);
  if (step !== undefined && step !== "LostHost") return take(o, pod, plan, steps, trouble, step);
  return wait(o, pod, plan, steps, trouble);
}

/** Nothing is wrong that a new pod could mend. */
function keep({ pod, now }: NodeObservation, plan: Plan, steps: Steps): Plan {
  const left = expiryMs(steps, now);
  if (left === undefined) return plan;
  const kept: Plan = { ...plan, recovery: { steps: [...steps] } };
  // Others are looked at again for what they are yet to become.
  if (!pod?.ready || pod.finished) return kept;
  const forget: Action = {
    type: "wait",
    ms: Math.max(1_000, left + 1_000),
    reason: "a step of recovery grows old",
  };
  return { ...kept, actions: [...plan.actions, forget] };
}

/** Pods that end at once on one host, as when its device plugin has less than it says, come to it again and again. */
const failuresPerHost = 3;

/** The record with a pod that ended by itself. One that had to make way says nothing of its host. */
function withFailure(steps: Steps, { uid, host, finished }: PodFacts, now: number): Steps {
  if (steps.at(-1)?.podUid === uid || host === undefined || finished?.disrupted) return steps;
  const before = steps.filter((step) => step.cause === "PodFailed" && step.host === host).length;
  const step =
    before + 1 >= failuresPerHost && !avoidedHosts({ steps }).includes(host) ? "OtherHost" : "NewPod";
  return withStep(steps, step, { now, podUid: uid, host }, "PodFailed");
}

/** The plan with a look at the host, where it may be lost or may come to be. */
function withLook(o: NodeObservation, pod: PodFacts, plan: Plan): Plan {
  const reason = "the host may be lost";
  if (!mayBeLost(o, pod)) {
    const ms = lookInMs(o, pod);
    return ms === undefined ? plan : { ...plan, actions: [...plan.actions, { type: "wait", ms, reason }] };
  }
  const actions: Action[] = [...plan.actions];
  if (wantsLook(o) && pod.host !== undefined) actions.push({ type: "look-at-host", host: pod.host, reason });
  actions.push({ type: "wait", ms: lookAgainMs, reason });
  return { ...plan, actions, notes: { ...plan.notes, ...unreadable(o) } };
}

/** What is done about a pod whose host is lost; undefined where it is not. */
function onLostHost(
  o: NodeObservation,
  pod: PodFacts,
  plan: Plan,
  steps: Steps,
  step: RecoveryStep | undefined,
): Plan | undefined {
  const { actions } = plan;
  const before = o.node.status?.recovery;
  // Not looked at yet since the start: what was said stays said.
  if (!o.hostLook && before?.cause === "HostLost") {
    const said = o.node.status?.conditions?.find(({ type }) => type === "Degraded");
    const note: Note = { status: "True", reason: "HostLost", message: said?.message ?? "" };
    return { ...plan, recovery: before, notes: { ...plan.notes, Degraded: note } };
  }
  const lost = lostPodOf(o, pod, o.fleet);
  if (!lost) return undefined;
  const notes: Notes = {
    ...plan.notes,
    Degraded: { status: "True", reason: "HostLost", message: lost.message },
  };
  if (lost.heard) return keep(o, { ...plan, notes }, steps);
  const noted: Plan = {
    ...plan,
    notes,
    recovery: { ...lostRecord(lost), ...(steps.length > 0 ? { steps: [...steps] } : {}) },
  };
  if (lost.replaceAt === undefined || lost.replaceAt > o.now) {
    const left = lost.replaceAt === undefined ? lookAgainMs : Math.max(1_000, lost.replaceAt - o.now);
    return { ...noted, actions: [...actions, { type: "wait", ms: left, reason: lost.message }] };
  }
  const reason = `${pod.host ?? ""} is lost: the pod is given up`;
  if (step === "LostHost") {
    // The host may have come back since it was looked at.
    if (wantsLook(o)) return noted;
    const remove: Action = { type: "delete-pod", uid: pod.uid, finished: false, graceSeconds: 0, reason };
    return { ...noted, actions: [remove] };
  }
  // How many are lost has to be known first; that the cause stands in the status is enough for it to be counted.
  if (!o.fleet) return { ...noted, actions: [...actions, { type: "wait", ms: 1_000, reason }] };
  const recorded = withStep(steps, "LostHost", { now: o.now, podUid: pod.uid, host: pod.host }, "HostLost");
  return {
    ...noted,
    actions: [...actions, ...announce("LostHost", "HostLost", reason)],
    recovery: { ...lostRecord(lost), steps: [...recorded] },
  };
}

/** Who asks for lost hosts to be left has to be told that nobody can see which are. */
function unreadable({ hostLook, node }: NodeObservation): Notes {
  if (hostLook?.state.is !== "unknown" || node.spec.unreachable?.replaceAfterSeconds === undefined) return {};
  const message = `whether the host is lost cannot be told, so spec.unreachable.replaceAfterSeconds has no effect: let the operator get nodes (ClusterRole resultity-operator-hosts of manifests/operator): ${hostLook.state.why}`;
  return { Degraded: { status: "True", reason: "PermissionMissing", message } };
}

const lostRecord = ({ since, replaceAt, held }: LostPod): Recovery => ({
  cause: "HostLost",
  since: rfc3339(since),
  ...(replaceAt === undefined ? {} : { next: { step: "LostHost", time: rfc3339(replaceAt) } }),
  ...(held === undefined ? {} : { held }),
});

/** The step stands in the record: it is taken. */
function take(
  o: NodeObservation,
  pod: PodFacts,
  plan: Plan,
  steps: Steps,
  trouble: Trouble,
  step: RecoveryStep,
): Plan {
  const reason = `${trouble.cause}: ${stepText[step]}`;
  // Nothing is served that a longer grace period could save, and what hangs would use all of it.
  const graceSeconds = o.node.spec.drain.evictionTimeoutSeconds + 30;
  return {
    ...plan,
    actions: [{ type: "delete-pod", uid: pod.uid, finished: false, graceSeconds, reason }],
    notes: isWell(o, trouble)
      ? plan.notes
      : { ...plan.notes, Degraded: noteOf(o, trouble, `${stepText[step]} now`) },
    recovery: record(trouble, { take: step, next: undefined, held: undefined }, steps),
  };
}

function wait(o: NodeObservation, pod: PodFacts, plan: Plan, steps: Steps, trouble: Trouble): Plan {
  const { now, fleet } = o;
  const rung = { now, trouble, steps, podUid: pod.uid, host: pod.host, fleet, canRun: canRun(o) };
  const decision = climb(rung);
  const outlook = outlookOf(decision, steps.length);
  const note = plan.notes.Degraded ?? noteOf(o, trouble, outlook);
  const notes: Notes = isWell(o, trouble) ? plan.notes : { ...plan.notes, Degraded: note };
  if (decision.take === undefined) {
    const ms = decision.next ? Math.max(1_000, decision.next.at - now) : fleet ? heldMs : 1_000;
    const later: Action = { type: "wait", ms, reason: outlook };
    return { ...plan, notes, actions: [...plan.actions, later], recovery: record(trouble, decision, steps) };
  }
  const recorded = withStep(steps, decision.take, rung, trouble.cause);
  return {
    ...plan,
    notes,
    actions: [
      ...plan.actions,
      ...announce(decision.take, trouble.cause, `${trouble.cause}: ${stepText[decision.take]}`),
    ],
    recovery: record(trouble, decision, recorded),
  };
}

/** Our own write of the status wakes nobody: the step is looked at again when it is in the cache. */
const announce = (step: RecoveryStep, cause: string, reason: string): readonly Action[] => [
  { type: "recover", step, cause, reason },
  { type: "wait", ms: 50, reason },
];

function record({ cause, since }: Trouble, { next, held }: Decision, steps: Steps): Recovery {
  return {
    cause,
    since: rfc3339(since),
    ...(next ? { next: { step: next.step, time: rfc3339(next.at) } } : {}),
    ...(held === undefined ? {} : { held }),
    ...(steps.length > 0 ? { steps: [...steps] } : {}),
  };
}

/** Whether a pod could be made now in place of the one that goes. */
function canRun({ node, inPool, config, network, pod, now }: NodeObservation): boolean {
  if (!config || !network) return false;
  const running = pod?.desired.ok ? (pod.desired.desired.target ?? undefined) : undefined;
  return aimOf({ node, inPool, config, running, now }).ok;
}

const stepText: Readonly<Record<RecoveryStep, string>> = {
  NewPod: "the pod is replaced",
  OtherHost: "the pod is replaced by one on another host",
  AnyHost: "no other host can take the pod, so it may come to any again",
  LostHost: "the pod is given up with its host",
};

/** Who takes GPUs that are lent, and finds none, is parked: nobody is told that something is wrong. */
const isWell = ({ node }: NodeObservation, { cause }: Trouble): boolean =>
  cause === "Unschedulable" && isOpportunistic(node);

function noteOf(o: NodeObservation, { cause }: Trouble, outlook: string): Note {
  const seen = degradedNote(o);
  const message =
    seen.reason === cause
      ? seen.message
      : cause === "Unschedulable"
        ? "no other host can take the pod"
        : "the node does not come back";
  return { status: "True", reason: cause, message: `${message}; ${outlook}` };
}

function outlookOf({ next, held, take: taken }: Decision, tried: number): string {
  if (taken !== undefined) return `${stepText[taken]} now`;
  const when = next && `${stepText[next.step]} at ${rfc3339(next.at)} if that lasts`;
  switch (held) {
    case "BudgetSpent":
      return `${tried} new pods in six hours did not help, so a person has to look; ${when ?? "none is made for now"}`;
    case "SharedCause":
      return "nothing is replaced, since many nodes fail alike: look for what they share (config, driver, registry)";
    case "ConfigUnproven":
      return "nothing is replaced, since other nodes serve another config and none serves this one: the rollout decides";
    case "NothingToRun":
      return "nothing is replaced, since no pod could be made in its place: see condition ConfigApplied";
    default:
      return when ?? "a new pod waits for others of the network";
  }
}
