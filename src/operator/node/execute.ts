import { type JsonPatchOperation, jsonPointer, testUnchanged } from "../../kube/client.ts";
import { isKubeError, KubeError } from "../../kube/errors.ts";
import type { Expectations } from "../../kube/expectations.ts";
import { controllerOf, keyOf } from "../../kube/object.ts";
import { type Pod, pods } from "../../kube/resources.ts";
import { messageOf, unreachable } from "../../lib/errors.ts";
import { type Desired, desiredAnnotation } from "../../protocol/desired.ts";
import { networkKeyOf, type OperatorContext } from "../context.ts";
import { nodeManager } from "../names.ts";
import type { AgentStatuses } from "./agent-status.ts";
import {
  type EnsuredIdentity,
  ensureIdentity,
  type Identity,
  ownerOfIdentity,
  readIdentity,
} from "./identity.ts";
import { checkClaimsServed } from "./claims.ts";
import { hasten } from "./hasten.ts";
import type { NodeMemories } from "./memory.ts";
import type { NodeObservation } from "./observation.ts";
import type { Action, Notes } from "./plan.ts";
import { agentContainer, identityHashAnnotation, runtimeContainer } from "./pod-parts.ts";
import { podLabels, podOf } from "./pod.ts";
import { dropPrefetch, startPrefetch } from "./prefetch/execute.ts";
import { resizePod } from "./resize-execute.ts";
import { countStep, lookAtHost } from "./recovery/execute.ts";
import { refusalOf } from "./refusal.ts";
import { groupOf } from "./turn.ts";

/** What executing takes. */
export interface Hands {
  readonly context: OperatorContext;
  readonly expectations: Expectations;
  readonly statuses: AgentStatuses;
  readonly memories: NodeMemories;
}

/** What came of it. */
export interface Outcome {
  /** What an action that was refused says about the conditions. */
  readonly failed: Notes;
  /** Milliseconds after which to look again, if nothing happens before. */
  readonly againInMs: number | undefined;
}

/** When to look again at a rotation that the network's view of the node should have moved on. */
const rotationMs = 60_000;
const rotationNews: Partial<Record<EnsuredIdentity["step"], { reason: string; note: string }>> = {
  begin: { reason: "KeyRotating", note: "a new key is in the identity Secret; the agent rolls over to it" },
  promote: { reason: "KeyRotated", note: "the network has the node's new key; the old one is gone" },
  recover: {
    reason: "KeyRecovered",
    note: "the revoked key is replaced by a new one that the account grants",
  },
};

/** How long to wait after the API server refused something that only a person can mend. */
const refusedMs = 30_000;

/**
 * Does the actions in order. One that the API server refuses for good ends them and becomes a condition; a conflict or
 * an outage is thrown, for the queue to try again from fresh state.
 */
export async function executeNode(
  hands: Hands,
  o: NodeObservation,
  actions: readonly Action[],
  signal: AbortSignal,
): Promise<Outcome> {
  const { logger } = hands.context;
  let againInMs: number | undefined;
  const again = (ms: number) => {
    againInMs = Math.min(againInMs ?? Number.POSITIVE_INFINITY, ms);
  };
  claimTurn(hands, o, actions);
  if (actions.every(({ type }) => type !== "ask-agent")) hands.statuses.rest(keyOf(o.node));
  for (const action of actions) {
    if (action.type === "wait") {
      again(action.ms);
      continue;
    }
    try {
      const wait = await execute(hands, o, action, signal);
      if (wait !== undefined) again(wait);
    } catch (error) {
      const failed = refusalOf(o, action, error);
      if (!failed) throw error;
      logger.warn(
        { node: keyOf(o.node), action: action.type, error: messageOf(error) },
        "refused; a person has to look",
      );
      for (const note of Object.values(failed))
        record(hands, o, "Warning", note.reason, "Refuse", note.message);
      return { failed, againInMs: refusedMs };
    }
  }
  return { failed: {}, againInMs };
}

/** Before anything is awaited: another worker may be planning for a neighbour. */
function claimTurn({ memories }: Hands, o: NodeObservation, actions: readonly Action[]): void {
  const stops = actions.map((action) => (action.type === "annotate" ? action.desired.plannedStop : null));
  if (stops.includes("agent-image") || stops.includes("recreate"))
    memories.claim(groupOf(o.node), keyOf(o.node));
  for (const action of actions) {
    if (action.type !== "annotate" || !interrupts(o, action.desired)) continue;
    const { revision, plannedStop } = action.desired;
    const owner = controllerOf(o.node)?.uid;
    memories.leaves(keyOf(o.node), o.pod?.uid ?? "", owner, { revision, isPlanned: plannedStop !== null });
  }
  for (const action of actions) {
    if (action.type === "prefetch") memories.beginFetch(networkKeyOf(o.node), action.name);
    if (action.type === "recover") memories.recovery.stepTaken(networkKeyOf(o.node), keyOf(o.node));
  }
}

/** Tells the agent of a node that serves of a stop, or of a config to which it moves by itself. */
function interrupts({ pod }: NodeObservation, { plannedStop, target }: Desired): boolean {
  if (!pod?.ready || !pod.desired.ok) return false;
  return plannedStop !== null || target !== pod.desired.desired.target;
}

/** Returns after how many milliseconds to look again, where only time tells. */
async function execute(
  hands: Hands,
  o: NodeObservation,
  action: Exclude<Action, { type: "wait" }>,
  signal: AbortSignal,
): Promise<number | undefined> {
  const { context, memories } = hands;
  if (action.type !== "ask-agent" && action.type !== "rehearse-image") {
    const { type, reason } = action;
    context.logger.info({ node: keyOf(o.node), action: type, reason }, "node: acting");
  }
  switch (action.type) {
    case "create-pod":
      await createPod(hands, o, action, (await identify(hands, o, signal))?.identity, signal);
      return undefined;
    case "refresh-identity":
      if (!(await identify(hands, o, signal))?.settled) return rotationMs;
      await annotate(hands, o, identityHashAnnotation, action.hash, signal);
      return undefined;
    case "annotate":
      memories.ordered(keyOf(o.node), o.pod?.uid ?? "", action.desired.revision, action.quiet);
      await annotate(hands, o, desiredAnnotation, JSON.stringify(action.desired), signal);
      return undefined;
    case "rehearse-image":
      await patchImage(hands, o, action, true, signal);
      return undefined;
    case "patch-image":
      record(hands, o, "Normal", "ImageChanged", "Patch", action.reason);
      await patchImage(hands, o, action, false, signal);
      return undefined;
    case "resize": {
      const wait = await resizePod(hands, o, signal);
      if (wait === undefined) record(hands, o, "Normal", "Resized", "Resize", action.reason);
      return wait;
    }
    case "prefetch":
      await startPrefetch(hands, o, action, signal);
      return undefined;
    case "drop-prefetch":
      await dropPrefetch(hands, o, action, signal);
      return undefined;
    case "delete-pod":
      await deletePod(hands, o, action, signal);
      return undefined;
    case "recover":
      countStep(context.metrics, action);
      record(hands, o, "Warning", "Recovering", "Recover", action.reason);
      return undefined;
    case "look-at-host":
      await lookAtHost(hands, action.host, signal);
      return 0;
    case "hasten":
      await knownIdentity(hands, o, signal);
      return hasten({ logger: context.logger, memories }, o, action.ms);
    case "ask-agent":
      return askAgent(hands, o, signal);
    default:
      return unreachable(action);
  }
}

async function identify(
  hands: Hands,
  o: NodeObservation,
  signal: AbortSignal,
): Promise<EnsuredIdentity | undefined> {
  const { context, memories } = hands;
  if (!o.config) return undefined;
  const owner = controllerOf(o.node);
  const pool = owner && context.caches.pools.store.getByUid(owner.uid);
  const wish = {
    node: o.node,
    config: o.config,
    owner: ownerOfIdentity(o.node, pool),
    feed: o.feed,
    expected: o.nodeId !== undefined || o.node.spec.identity?.secretName !== undefined,
  };
  const ensured = await ensureIdentity(context.client, wish, signal);
  memories.learn(keyOf(o.node), ensured.identity);
  const news = rotationNews[ensured.step];
  if (news) record(hands, o, "Normal", news.reason, "Rotate", news.note);
  return ensured;
}

async function createPod(
  hands: Hands,
  o: NodeObservation,
  action: Action & { type: "create-pod" },
  identity: Identity | undefined,
  signal: AbortSignal,
): Promise<void> {
  const { context, expectations } = hands;
  const { client, caches } = context;
  const { node, config } = o;
  if (!config || !identity) return;
  const draft = podOf({ node, config, drainToken: identity.drainToken, ...action });
  const { namespace, name } = node.metadata;
  try {
    await checkClaimsServed(client, draft, { signal });
    const pod = await client.create(pods, draft, { signal, fieldManager: nodeManager });
    expectations.wrote(keyOf(node), caches.pods, pod);
    record(hands, o, "Normal", "PodCreated", "Create", action.reason);
  } catch (error) {
    if (!isKubeError(error, "AlreadyExists")) throw error;
    const pod = await client.get(pods, { namespace, name }, { signal });
    if (controllerOf(pod)?.uid !== node.metadata.uid) {
      throw new KubeError(
        "AlreadyExists",
        `a pod ${name} exists that does not belong to this ResultityNode: delete or rename it`,
        { reason: "Foreign", verb: "create", resource: "pods" },
      );
    }
    await adopt(hands, o, pod, signal);
  }
}

/** The pod is ours, and the cache does not show it: it lags, or someone removed the labels by which it is found. */
async function adopt(hands: Hands, o: NodeObservation, pod: Pod, signal: AbortSignal): Promise<void> {
  const { client, caches } = hands.context;
  const { namespace, name, labels = {} } = pod.metadata;
  const missing = Object.entries(podLabels(o.node)).filter(([key, value]) => labels[key] !== value);
  let seen = pod;
  if (missing.length > 0) {
    const operations: JsonPatchOperation[] = missing.map(([key, value]) => ({
      op: "add",
      path: jsonPointer("metadata", "labels", key),
      value,
    }));
    if (!pod.metadata.labels) operations.unshift({ op: "add", path: "/metadata/labels", value: {} });
    seen = await client.jsonPatch(pods, { namespace, name }, [...testUnchanged(pod), ...operations], {
      signal,
      fieldManager: nodeManager,
    });
  }
  hands.expectations.wrote(keyOf(o.node), caches.pods, seen);
}

/** The pod that the observation saw, as the cache has it. */
function seenPod({ context }: Hands, o: NodeObservation): Pod {
  const pod = context.caches.pods.store.get(keyOf(o.node));
  if (pod && pod.metadata.uid === o.pod?.uid) return pod;
  throw new KubeError("Conflict", `pod ${o.node.metadata.name} changed while it was worked on`);
}

async function patchPod(
  hands: Hands,
  o: NodeObservation,
  pod: Pod,
  operations: readonly JsonPatchOperation[],
  dryRun: boolean,
  signal: AbortSignal,
): Promise<void> {
  const { client, caches } = hands.context;
  const { namespace, name } = pod.metadata;
  try {
    const answer = await client.jsonPatch(pods, { namespace, name }, operations, {
      signal,
      dryRun,
      fieldManager: nodeManager,
    });
    if (!dryRun) hands.expectations.wrote(keyOf(o.node), caches.pods, answer);
  } catch (error) {
    // A `test` that fails and a patch that the pod's validation refuses are both answered 422; the causes tell.
    if (isKubeError(error, "Invalid") && error.causes.length === 0) {
      throw new KubeError("Conflict", `pod ${name} changed since it was looked at`, { cause: error });
    }
    throw error;
  }
}

/** Sets one annotation, unless someone else set it meanwhile. Other changes of the pod do not matter here. */
async function annotate(
  hands: Hands,
  o: NodeObservation,
  annotation: string,
  value: string,
  signal: AbortSignal,
): Promise<void> {
  const pod = seenPod(hands, o);
  const { annotations, uid } = pod.metadata;
  const path = jsonPointer("metadata", "annotations", annotation);
  const last = annotations?.[annotation];
  const operations: JsonPatchOperation[] = [
    { op: "test", path: "/metadata/uid", value: uid },
    ...(annotations ? [] : [{ op: "add", path: "/metadata/annotations", value: {} } as const]),
    ...(last === undefined ? [] : [{ op: "test", path, value: last } as const]),
    { op: "add", path, value },
  ];
  await patchPod(hands, o, pod, operations, false, signal);
}

async function patchImage(
  hands: Hands,
  o: NodeObservation,
  { container, image }: { readonly container: "agent" | "runtime"; readonly image: string },
  dryRun: boolean,
  signal: AbortSignal,
): Promise<void> {
  const pod = seenPod(hands, o);
  const list = container === "agent" ? "initContainers" : "containers";
  const name = container === "agent" ? agentContainer : runtimeContainer;
  const at = pod.spec?.[list]?.findIndex((candidate) => candidate.name === name) ?? -1;
  const operations: JsonPatchOperation[] = [
    ...testUnchanged(pod),
    // Webhooks may have put containers of their own before ours.
    { op: "test", path: jsonPointer("spec", list, at, "name"), value: name },
    { op: "replace", path: jsonPointer("spec", list, at, "image"), value: image },
  ];
  await patchPod(hands, o, pod, operations, dryRun, signal);
}

async function deletePod(
  hands: Hands,
  o: NodeObservation,
  { uid, finished, graceSeconds, reason }: Action & { type: "delete-pod" },
  signal: AbortSignal,
): Promise<void> {
  const { context, expectations, memories } = hands;
  const pod = seenPod(hands, o);
  const { namespace, name, resourceVersion } = pod.metadata;
  // A pod that ended stays ended, whatever else happens to it; one that lives must be as it was seen.
  // So does one whose host is lost, and one that ends already, whatever is written about it.
  const ends = o.pod?.terminating !== undefined;
  const preconditions = finished || ends || graceSeconds === 0 ? { uid } : { uid, resourceVersion };
  const grace = graceSeconds === undefined ? {} : { gracePeriodSeconds: graceSeconds };
  try {
    await context.client.delete(pods, { namespace, name }, { preconditions, ...grace, signal });
  } catch (error) {
    if (!isKubeError(error, "NotFound")) throw error;
  }
  if (finished) memories.podFailed(keyOf(o.node));
  expectations[ends ? "shortened" : "deleted"](keyOf(o.node), context.caches.pods, pod);
  const news = finished ? "PodFailed" : ends ? "PodOverdue" : "PodDeleted";
  record(hands, o, news === "PodDeleted" ? "Normal" : "Warning", news, "Delete", reason);
}

/** Asks outside the worker; news queue the node again. Returns when to look again where it cannot ask. */
async function askAgent(hands: Hands, o: NodeObservation, signal: AbortSignal): Promise<number | undefined> {
  const { pod, node } = o;
  const nodeKey = keyOf(node);
  // Nobody listens before the container runs; its start is an event of the pod.
  if (!pod?.ip || pod.agent.state !== "running") return undefined;
  const identity = await knownIdentity(hands, o, signal);
  if (!identity) return refusedMs;
  const revision = pod.desired.ok ? pod.desired.desired.revision : 0;
  const question = `${revision} ${pod.ready} ${pod.runtime.image} ${pod.runtime.state} ${pod.agent.restarts}`;
  hands.statuses.ask({ nodeKey, podUid: pod.uid, podIp: pod.ip, keys: identity.keys }, question);
  return undefined;
}

/** The node's identity, read from its Secret where it is not remembered; undefined while there is none. */
async function knownIdentity(
  { context, memories }: Hands,
  { node }: NodeObservation,
  signal: AbortSignal,
): Promise<Identity | undefined> {
  const nodeKey = keyOf(node);
  const known = memories.of(nodeKey).identity;
  if (known) return known;
  const identity = await readIdentity(context.client, node, signal);
  if (identity) memories.learn(nodeKey, identity);
  return identity;
}

function record(
  { context }: Hands,
  { node }: NodeObservation,
  type: "Normal" | "Warning",
  reason: string,
  action: string,
  note: string,
): void {
  context.events.record(node, { type, reason, action, note });
}
