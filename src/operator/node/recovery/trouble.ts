import type { NodeReason } from "../../../api/v1alpha1/conditions.ts";
import type { RecoveryStep } from "../../../api/v1alpha1/node.ts";
import { type PodFacts, pullFails, startFails } from "../facts.ts";
import type { NodeObservation } from "../observation.ts";
import { gpuFaultOf } from "./gpu.ts";

/** What is wrong with a node that does not serve, where a new pod may help. */
export interface Trouble {
  readonly cause: NodeReason;
  /** The smallest step that can help; the next ones go to other hosts. */
  readonly first: RecoveryStep;
  /** Since when it is wrong, wall time, ms. */
  readonly since: number;
  /** How long smaller means, or time, are given first, ms. */
  readonly patienceMs: number;
  /** Whether the config may be the cause: it is not where a device or a host is. */
  readonly byConfig: boolean;
}

const minutes = (count: number): number => count * 60_000;

/** Crashes of an engine, or restarts of its container, after which it is taken to end again and again. */
const manyCrashes = 5;
const manyRestarts = 3;

/**
 * What is wrong, if a new pod may help. Nothing while the engine serves or loads (a large model takes hours, and begins anew in a
 * new pod), while a move is under way (its own steps decide), where the config is refused, or for an agent that does not come
 * up (its engine is left warm: F42).
 */
export function troubleOf(o: NodeObservation, pod: PodFacts): Trouble | undefined {
  if (pod.finished || pod.terminating || !pod.ours) return undefined;
  if (!pod.scheduled.ok) return nowhereToGo(o, pod);
  const gpu = gpuFaultOf(o);
  if (gpu?.dead && !servesOn(o) && (pod.ready || gpu.blamed))
    return {
      cause: "GPUFault",
      first: "NewPod",
      since: pod.since.ready,
      patienceMs: 30_000,
      byConfig: false,
    };
  if (pod.ready) return undefined;
  if (pod.desired.ok && pod.desired.desired.plannedStop !== null) return undefined;
  const since = pod.since.ready;
  // The next pod on this host would wait for the same image; one that ran with its agent is left warm.
  if ((pullFails(pod.agent) || pullFails(pod.runtime)) && pod.runtime.state !== "running")
    return { cause: "ImagePullFailed", first: "OtherHost", since, patienceMs: minutes(10), byConfig: true };
  if (runtimeFails(pod) || engineFails(o))
    return { cause: "EngineFailed", first: "NewPod", since, patienceMs: minutes(5), byConfig: true };
  if (agentHangs(o, pod))
    return { cause: "AgentUnreachable", first: "NewPod", since, patienceMs: minutes(10), byConfig: false };
  return undefined;
}

/** For how long a node gets no jobs after one that failed is a minute: longer, and more of them failed. */
const oneFailureMs = 90_000;

/**
 * Whether the node serves although something is wrong with it, as far as anybody can tell: a GPU that is gone takes its engine's
 * answers with it, not always its health.
 */
export function servesOn(o: NodeObservation): boolean {
  if (!o.pod?.ready) return false;
  return !gpuFaultOf(o)?.dead || (o.feed?.deprioritised_until ?? 0) <= o.now + oneFailureMs;
}

/** A container whose Secret or volume is not there waits for a person, not for another pod. */
function runtimeFails({ runtime }: PodFacts): boolean {
  if (!startFails(runtime) || runtime.reason === "CreateContainerConfigError") return false;
  return runtime.reason !== "CrashLoopBackOff" || runtime.restarts >= manyRestarts;
}

function engineFails({ agent }: NodeObservation): boolean {
  const engine = agent.status?.report.engine;
  return engine !== undefined && engine.health !== "healthy" && (engine.crashes ?? 0) >= manyCrashes;
}

/** Nobody else ends an agent that hangs: its startup has passed, and it has no liveness probe. The network has to agree. */
function agentHangs({ agent, feed, feedLive }: NodeObservation, pod: PodFacts): boolean {
  return (
    agent.silentMs > minutes(2) &&
    pod.agent.state === "running" &&
    pod.agent.started &&
    feedLive &&
    feed !== undefined &&
    !feed.connected
  );
}

/** Only hosts that it is kept from could take it; a pod of which that stands in the record is still kept from them. */
function nowhereToGo({ node }: NodeObservation, pod: PodFacts): Trouble | undefined {
  const { steps = [] } = node.status?.recovery ?? {};
  const last = steps.at(-1);
  const recorded = last?.step === "AnyHost" && last.podUid === pod.uid ? steps.slice(0, -1) : steps;
  if (pod.scheduled.reason !== "Unschedulable" || avoidedHosts({ steps: recorded }).length === 0)
    return undefined;
  return {
    cause: "Unschedulable",
    first: "AnyHost",
    since: pod.since.scheduled,
    patienceMs: minutes(2),
    byConfig: false,
  };
}

type Steps = {
  readonly steps?: readonly { readonly step: RecoveryStep; readonly host?: string | undefined }[] | undefined;
};

/** Hosts that the next pod is kept from: those that were left, since it was last found that there is no other. */
export function avoidedHosts(recovery: Steps | undefined): readonly string[] {
  const hosts = new Set<string>();
  for (const { step, host } of recovery?.steps ?? []) {
    if (step === "AnyHost") hosts.clear();
    else if (step === "OtherHost" && host !== undefined) hosts.add(host);
  }
  return [...hosts];
}
