import {
  type Condition,
  findCondition,
  type NodeConditionType,
  nodeConditionTypes,
} from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { hasNoCapacity, isOpportunistic } from "../capacity.ts";
import { identitySecretOf } from "../context.ts";
import { gpuText } from "./claims.ts";
import { rotateKeyAnnotation } from "./identity-secret.ts";
import { type ContainerFacts, type PodFacts, pullFails, startFails } from "./facts.ts";
import type { NodeObservation } from "./observation.ts";
import type { Note, Notes, Plan } from "./plan.ts";
import { patienceMs } from "./plan-stop.ts";
import { identityVolume } from "./pod-parts.ts";
import { gpuAdvice, gpuFaultOf } from "./recovery/gpu.ts";
import { servesOn } from "./recovery/trouble.ts";
import { resizeNote } from "./resize.ts";

/** A session that is lost for less than this may be a restart of anything on the way; nothing is said of it. Milliseconds. */
export const sessionDebounceMs = 90_000;

const yes = (reason: Note["reason"], message: string): Note => ({ status: "True", reason, message });
const no = (reason: Note["reason"], message: string): Note => ({ status: "False", reason, message });
const unknown = (reason: Note["reason"], message: string): Note => ({ status: "Unknown", reason, message });

/** All conditions but `Ready`. What the plan or the execution has to say goes before what can be seen. */
export function conditionsOf(o: NodeObservation, plan: Plan, failed: Notes): Record<NodeConditionType, Note> {
  const said: Notes = { ...plan.notes, ...failed };
  const notes = {
    Scheduled: said.Scheduled ?? scheduled(o, plan),
    ConfigApplied: said.ConfigApplied ?? before(o, "ConfigApplied"),
    RuntimeReady: said.RuntimeReady ?? runtimeReady(o),
    Registered: said.Registered ?? registered(o),
    Connected: said.Connected ?? connected(o),
    Draining: said.Draining ?? draining(o, plan),
    Degraded: said.Degraded ?? degradedNote(o),
  };
  return { ...notes, Ready: readyOf(o, notes) };
}

/** The first that is not well, in the order in which they depend on each other; what is broken comes before all. */
function readyOf(o: NodeObservation, notes: Record<Exclude<NodeConditionType, "Ready">, Note>): Note {
  const others = nodeConditionTypes.filter((type) => type !== "Degraded" && type !== "Ready");
  // That a pod ends explains all that fails in it; what it has to make room for explains the end.
  const ends = o.pod?.terminating && notes.Scheduled.reason !== "NoCapacity";
  const first = ends ? (["Degraded", "Draining"] as const) : (["Degraded"] as const);
  for (const type of [...first, ...others]) {
    const { status, reason, message } = notes[type];
    const well = type === "Degraded" || type === "Draining" ? "False" : "True";
    // A node that stages serves on with what it has, maybe for hours; so does one whose new image does not come.
    if (status === well || staysInService.has(reason)) continue;
    if (type === "Degraded" && faultsToServeOn.has(reason) && servesOn(o)) continue;
    return { status: status === "Unknown" ? "Unknown" : "False", reason, message };
  }
  // A lost session is borne for a while, so as not to alarm; but who was out of service is back with its session only,
  // or a rollout would take the next node while this one gets no jobs yet.
  const wasReady = findCondition(o.node.status?.conditions, "Ready")?.status === "True";
  if (!wasReady && o.feed && !o.feed.connected) return no("SessionClosed", "the agent opens its session");
  const { ConfigApplied, Scheduled, Degraded } = notes;
  const but = faultsToServeOn.has(Degraded.reason)
    ? Degraded
    : [ConfigApplied, Scheduled].find(({ reason }) => reasonsToServeOn.has(reason));
  return but
    ? yes(but.reason, `the node serves, but ${but.message}`)
    : yes("AllWell", "the node serves and is connected");
}

/** What is wrong and takes nothing from those that the node serves, as long as it does. */
const faultsToServeOn: ReadonlySet<string> = new Set(["GPUFault", "EphemeralContainer"]);

/** Reasons why a node has not moved on that take nothing from what it does. */
const staysInService: ReadonlySet<string> = new Set(["Staging", "PrefetchFailed", "HostDiskFull"]);

/** What a node that serves on says in Ready too, where people look. */
const reasonsToServeOn: ReadonlySet<string> = new Set([
  "PrefetchFailed",
  "HostDiskFull",
  "ResizeDeferred",
  "ResizeInfeasible",
  "ResizeFailed",
  "ResizeRefused",
  "PermissionMissing",
]);

function scheduled(o: NodeObservation, plan: Plan): Note {
  const { pod, node } = o;
  if (lacksCapacity(o, plan)) return parkedNote(node);
  if (!pod) return no("PodNotCreated", `there is no pod ${node.metadata.name} yet`);
  if (pod.scheduled.ok) return resizeNote(o) ?? yes("PodScheduled", `the pod is on host ${pod.host ?? ""}`);
  if (pod.scheduled.reason !== "Unschedulable")
    return no("PodPending", `the pod waits for the scheduler${pendingClaims(node)}`);
  const { gpu } = node.spec;
  return no(
    "Unschedulable",
    `no host can take the pod (${pod.scheduled.message}): ${gpu.claims?.length ? `see in \`kubectl describe resourceclaims\` what is missing: it takes ${gpuText(gpu)}` : `free or add a host with ${gpuText(gpu)}`}, or relax spec.podOverrides`,
  );
}

/** The scheduler does not even look at a pod whose claims are not there, and says nothing of it [seen]. */
const pendingClaims = ({ spec: { gpu } }: ResultityNode): string =>
  gpu.claims?.length ? `, which takes ${gpuText(gpu)}: if that lasts, see that it exists` : "";

/**
 * Whether a node on lent GPUs is parked: from the moment its pod makes room for another until one is on a host again. What the
 * scheduler finds in between is left to the pod, for it changes with every other pod in the cluster, and each change here is a write.
 */
function lacksCapacity({ node, pod }: NodeObservation, { actions }: Plan): boolean {
  if (!isOpportunistic(node) || node.spec.replicas === 0) return false;
  if (pod?.terminating?.preempted) return true;
  const waits = hasNoCapacity(node);
  if (!pod) return waits && actions.some(({ type }) => type === "create-pod");
  if (pod.scheduled.ok) return false;
  return waits || pod.scheduled.reason === "Unschedulable" || pod.scheduled.reason === "SchedulingGated";
}

function parkedNote({ metadata, spec: { gpu } }: ResultityNode): Note {
  const lacking = gpu.count === 0 ? "room" : gpuText(gpu);
  return no(
    "NoCapacity",
    `parked: no host has ${lacking} to lend; the node comes back by itself when one does (what the scheduler says: kubectl -n ${metadata.namespace} describe pod ${metadata.name})`,
  );
}

function runtimeReady(o: NodeObservation): Note {
  const { pod, agent } = o;
  if (!pod || pod.finished || !pod.scheduled.ok) return no("PodNotReady", "there is no running pod");
  const trouble = containerTrouble(pod) ?? engineTrouble(o);
  if (trouble) return trouble;
  if (pod.agent.state === "terminated") return no("AgentFailed", endedMessage(pod.agent));
  const engine = agent.status?.report.engine;
  if (pod.ready && (!engine || engine.health === "healthy"))
    return yes("ModelsLoaded", "the engine serves its models");
  if (!pod.agent.started) return no("AgentStarting", "the agent has no verified config yet");
  if (engine?.health === "unhealthy")
    return no("EngineFailed", `the engine is unhealthy: ${engine.reason ?? "no reason given"}`);
  if (engine && engine.health !== "healthy") return no("EngineStarting", "the engine starts");
  return no("PodNotReady", "the pod is not ready yet");
}

/** Crashes in a row after which an engine that starts once more is not taken to start. */
const crashLoop = 3;

function engineTrouble({ agent, pod }: NodeObservation): Note | undefined {
  const engine = agent.status?.report.engine;
  if (!engine || engine.health === "healthy" || (engine.crashes ?? 0) < crashLoop || !pod?.agent.started)
    return undefined;
  return no(
    "EngineFailed",
    `the engine ends again and again${engine.reason ? ` (${engine.reason})` : ""}: see \`kubectl logs -c runtime\`; arguments, memory or GPUs of spec.runtime and spec.gpu may not fit the model`,
  );
}

function containerTrouble(pod: PodFacts): Note | undefined {
  const { agent, runtime } = pod;
  if (pullFails(agent)) return no("ImagePullFailed", pullMessage("agent", agent));
  if (pullFails(runtime)) return no("ImagePullFailed", pullMessage("runtime", runtime));
  if (startFails(agent)) return no("AgentFailed", startMessage("agent", agent));
  if (startFails(runtime)) return no("EngineFailed", startMessage("runtime", runtime));
  return undefined;
}

const pullMessage = (name: string, { image, reason, message }: ContainerFacts): string =>
  `the ${name} image ${image} cannot be pulled (${reason}${message ? `: ${message}` : ""}): check that the registry has it and that spec.podOverrides.imagePullSecrets lets the host pull it`;

const startMessage = (name: string, { reason, message, restarts }: ContainerFacts): string =>
  `container ${name} does not stay up (${reason}, ${restarts} restarts${message ? `: ${message}` : ""}): see \`kubectl logs -c ${name}\``;

/** The kubelet says no more of a sidecar that ended well, even if its next image does not come [seen]. */
const endedMessage = ({ image, reason }: ContainerFacts): string =>
  `container agent has ended (${reason}) and not been started again: if that lasts, see in \`kubectl describe pod\` whether the host can pull ${image}`;

function registered(o: NodeObservation): Note {
  if (o.feed?.revoked)
    return no(
      "KeyRevoked",
      `the account has revoked the node's key: if the node is to come back, give it another with \`kubectl annotate --overwrite resultitynode ${o.node.metadata.name} ${rotateKeyAnnotation}=<a value it has not had>\``,
    );
  if (o.feed) return yes("AccountBound", "the network knows the node as the account's");
  if (!o.feedLive) {
    return before(
      o,
      "Registered",
      unknown("FeedUnavailable", "the network's view of its nodes cannot be read"),
    );
  }
  const error = o.agent.status?.session.last_error;
  return no(
    "NotRegistered",
    `the network does not know the node yet${error ? `: ${error}` : ""}; if that lasts, see \`kubectl logs -c agent\``,
  );
}

function connected(o: NodeObservation): Note {
  const { feed, node } = o;
  if (feed?.banned !== undefined && feed.banned !== null) {
    return no("Banned", `the network has banned the node: ${feed.banned}; ask the network what lifts that`);
  }
  if (!feed) {
    if (o.feedLive)
      return no(
        "SessionClosed",
        "the node has had no session yet; if that lasts, see `kubectl logs -c agent`",
      );
    return before(
      o,
      "Connected",
      unknown("FeedUnavailable", "the network's view of its nodes cannot be read"),
    );
  }
  if (feed.connected) return yes("SessionOpen", "the node's session is open");
  if (hasNoCapacity(node)) return no("SessionClosed", "the session ended when the node was parked");
  const last = findCondition(node.status?.conditions, "Connected");
  if (sessionRecheckMs(o) !== undefined && last) return before(o, "Connected");
  const error = o.agent.status?.session.last_error;
  return no(
    "SessionClosed",
    `the session is closed${error ? `: ${error}` : ""}; the agent's log says more (\`kubectl logs -c agent\`)`,
  );
}

/** Milliseconds until a lost session counts as lost; undefined when there is nothing to wait for. */
export function sessionRecheckMs({ feed, node, now }: NodeObservation): number | undefined {
  if (!feed || feed.connected) return undefined;
  if (findCondition(node.status?.conditions, "Connected")?.status !== "True") return undefined;
  const left = feed.since + sessionDebounceMs - now;
  return left > 0 ? left : undefined;
}

const stopReasons = {
  "runtime-image": "ConfigChange",
  "agent-image": "SpecChange",
  recreate: "SpecChange",
  "scale-down": "ScaleDown",
  parking: "ScaleDown",
} as const;

function draining({ pod, agent }: NodeObservation, { actions }: Plan): Note {
  let planned = pod?.desired.ok ? pod.desired.desired.plannedStop : null;
  for (const action of actions) if (action.type === "annotate") planned = action.desired.plannedStop;
  if (pod && planned)
    return yes(stopReasons[planned], `a stop is planned (${planned}): running jobs may end`);
  const state = agent.status?.drain.state ?? "serving";
  if (pod && state !== "serving") return yes("ConfigChange", `the agent is ${state}`);
  return no("NotDraining", "the node is not draining");
}

/** What is wrong as far as it can be seen, without what is done about it. */
export function degradedNote(o: NodeObservation): Note {
  const { pod, agent, feed, node } = o;
  if (pod) {
    const gpu = gpuFaultOf(o);
    if (gpu) return yes("GPUFault", `${gpu.text}: ${gpuAdvice(pod.host)}`);
    const trouble = containerTrouble(pod) ?? engineTrouble(o);
    if (trouble) return { ...trouble, status: "True" };
    if (agent.silentMs > patienceMs && pod.agent.started) {
      return yes(
        "AgentUnreachable",
        `the agent at ${pod.ip ?? "its pod"} has not answered for over a minute (${agent.problem}): check that the operator may reach port 9440 of the pods (NetworkPolicy)`,
      );
    }
  }
  if (feed && feed.conflict !== null) {
    return yes(
      "IdentityConflict",
      `another process uses this node's key: stop it (a copy of Secret ${identitySecretOf(node)} in another namespace, cluster or host); if the key may be stolen, set annotation ${rotateKeyAnnotation} to a new value`,
    );
  }
  const put = pod?.ephemeral.map(({ name, image }) => `${name} (${image})`).join(", ");
  return put ? yes("EphemeralContainer", ephemeralMessage(o, put)) : no("NothingWrong", "nothing is wrong");
}

/** The API server lets nobody take it out again, and it can mount what the pod has: the identity, too. */
function ephemeralMessage({ pod, node: { metadata } }: NodeObservation, put: string): string {
  const { namespace, name } = metadata;
  const stolen = pod?.ephemeral.some(({ volumes }) => volumes.includes(identityVolume))
    ? `it can read the node's key: set annotation ${rotateKeyAnnotation} to a new value; `
    : "";
  return `somebody has put ephemeral container ${put} into the pod: ${stolen}when it has served, \`kubectl -n ${namespace} delete pod ${name}\` makes the pod anew without it; who may not do so must not have the right to patch pods/ephemeralcontainers`;
}

/** What the condition said before, as long as nothing new is known. */
function before(
  o: NodeObservation,
  type: NodeConditionType,
  otherwise = unknown("NotYetKnown", "not yet known"),
): Note {
  const last: Condition | undefined = findCondition(o.node.status?.conditions, type);
  // The reasons of a stored condition are this operator's own words.
  return last
    ? { status: last.status, reason: last.reason as Note["reason"], message: last.message }
    : otherwise;
}
