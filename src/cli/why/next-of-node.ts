import { findCondition } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { Desired } from "../../protocol/desired.ts";
import type { PodFacts } from "../../operator/node/observe.ts";
import { type Action, emptyHost, planNode } from "../../operator/node/plan.ts";
import type { NextView } from "./view.ts";

/** What is seen of a node from outside the operator. */
export interface SeenNode {
  readonly now: number;
  readonly node: ResultityNode;
  readonly inPool: boolean;
  readonly network: ResultityNetwork | undefined;
  readonly pod: PodFacts | undefined;
}

/** What the operator does next with a node, and what it waits for, as far as the objects show it. */
export interface NextOfNode {
  readonly next: readonly NextView[];
  readonly waits: readonly string[];
  /** Whether the operator's own planner says so. Else the node's agent has a say, and only the operator asks it. */
  readonly planned: boolean;
}

/**
 * The planner, where its answer depends on objects alone: a node that goes, is parked, has no network, or whose pod has
 * ended or is not its own. Elsewhere it also goes by the verified config and the agent's signed status, which only the
 * operator has; then what is told is what the operator has written: its orders on the pod, and the node's conditions.
 */
export function nextOfNode(seen: SeenNode): NextOfNode {
  const { node, pod } = seen;
  const { name } = node.metadata;
  if (node.metadata.deletionTimestamp !== undefined) {
    return { next: [], waits: ["it is being deleted; its pod goes with it"], planned: true };
  }
  const degraded = findCondition(node.status?.conditions, "Degraded");
  if (degraded?.reason === "IdentityConflict") {
    return { next: [], waits: [`it does not run: ${degraded.message}`], planned: false };
  }
  if (!seen.network || node.spec.replicas === 0 || (pod && (!pod.ours || pod.terminating || pod.finished))) {
    return planned(seen);
  }
  const blocked = blockedConfig(node);
  if (!pod) return withoutPod(name, blocked, degraded?.status === "True" ? degraded.message : undefined);
  return pod.desired.ok
    ? withOrders(seen, pod, pod.desired.desired, blocked)
    : withoutOrders(pod.desired.problem);
}

function planned(seen: SeenNode): NextOfNode {
  const plan = planNode({
    ...seen,
    config: undefined,
    agent: { status: undefined, silentMs: 0, problem: "" },
    host: emptyHost,
    nodeId: seen.node.status?.nodeId,
    conflictsWith: undefined,
    feed: undefined,
    feedLive: false,
    recreateInMs: 0,
    turn: true,
  });
  const next = plan.actions.filter(({ type }) => type !== "wait").map(told);
  const waits = [
    ...plan.actions.filter(({ type }) => type === "wait").map(({ reason }) => reason),
    ...Object.values(plan.notes).map(({ message }) => message),
  ];
  return { next, waits: [...new Set(waits)], planned: true };
}

function told(action: Action): NextView {
  switch (action.type) {
    case "create-pod":
      return { what: "makes the pod", why: action.reason };
    case "refresh-identity":
      return { what: "brings the identity Secret up to date", why: action.reason };
    case "annotate":
      return { what: "gives the agent new orders (annotation resultity.com/desired)", why: action.reason };
    case "rehearse-image":
      return {
        what: `tries the new image of container ${action.container} as a dry run`,
        why: action.reason,
      };
    case "patch-image":
      return { what: `patches the image of container ${action.container}`, why: action.reason };
    case "resize":
      return { what: "gives the running pod the CPU and memory of the spec", why: action.reason };
    case "delete-pod":
      return {
        what:
          action.graceSeconds === undefined
            ? "deletes the pod, whose running jobs end or go back first"
            : `deletes the pod with ${action.graceSeconds} s of grace`,
        why: action.reason,
      };
    case "prefetch":
      return { what: `has host ${action.host} fetch ${action.image}`, why: action.reason };
    case "drop-prefetch":
      return { what: `deletes pod ${action.name}`, why: action.reason };
    case "recover":
      return { what: "writes the step of recovery into the status, then takes it", why: action.reason };
    case "look-at-host":
      return { what: `looks at the Node object of host ${action.host}`, why: action.reason };
    case "hasten":
      return { what: "tells the agent to make haste", why: action.reason };
    case "ask-agent":
      return { what: "asks the agent", why: action.reason };
    case "wait":
      return { what: "waits", why: action.reason };
  }
}

/** Reasons of ConfigApplied under which a node is neither made nor moved. */
const blocking: ReadonlySet<string> = new Set([
  "NetworkNotFound",
  "NetworkNotTrusted",
  "NoConfig",
  "NoRuntimeForEngine",
  "ImageNotInConfig",
  "ImageNotAllowed",
  "ModelNotAllowed",
  "DigestNotAllowed",
]);

function blockedConfig({ status }: ResultityNode): string | undefined {
  const condition = findCondition(status?.conditions, "ConfigApplied");
  return condition?.status === "False" && blocking.has(condition.reason)
    ? `${condition.reason}: ${condition.message}`
    : undefined;
}

function withoutPod(name: string, blocked: string | undefined, trouble: string | undefined): NextOfNode {
  if (blocked !== undefined)
    return { next: [], waits: [`no pod is made before this is mended: ${blocked}`], planned: false };
  const next = [{ what: `makes pod ${name}`, why: "the node has none" }];
  return { next, waits: trouble === undefined ? [] : [trouble], planned: false };
}

function withoutOrders(problem: string): NextOfNode {
  return { next: [{ what: "writes the agent's orders again", why: problem }], waits: [], planned: false };
}

/** What follows each planned stop, once the agent has confirmed its orders. */
const stops: Readonly<Record<NonNullable<Desired["plannedStop"]>, string>> = {
  "runtime-image": "patches the runtime's image in the running pod; the kubelet drains the node first",
  "agent-image": "patches the agent's image in the running pod; the engine runs on",
  recreate: "deletes the pod, drained first, and makes a new one",
  "scale-down": "deletes the pod, drained first",
  parking: "deletes the pod, drained first",
};

function withOrders(
  { node, network }: SeenNode,
  pod: PodFacts,
  orders: Desired,
  blocked: string | undefined,
): NextOfNode {
  const { target, applied, staged } = node.status?.config ?? {};
  const say = (next: readonly NextView[], ...waits: string[]): NextOfNode => ({
    next,
    waits:
      blocked === undefined
        ? waits
        : [`it moves to no other config before this is mended: ${blocked}`, ...waits],
    planned: false,
  });
  const { plannedStop, stage, revision } = orders;
  const fetching = fetchOf(node);
  if (plannedStop === null && fetching !== undefined) return say([], fetching);
  if (plannedStop === "runtime-image" && hasNewImage(node, network, pod, orders)) {
    const { state, reason } = pod.runtime;
    return state === "running"
      ? say(
          [],
          `waits for the agent to say that config ${orders.target} is applied and serves; then the stop is over`,
        )
      : say(
          [],
          `waits for the kubelet to start container runtime (${reason || state}), once its image is patched`,
        );
  }
  if (plannedStop !== null) {
    const why = `a stop is planned (${plannedStop}), once the agent confirms revision ${revision} of its orders`;
    return say([{ what: stops[plannedStop], why }]);
  }
  if (stage !== null) {
    return staged === stage
      ? say([{ what: `tells the agent to move to config ${stage}`, why: "the agent has staged it" }])
      : say(
          [],
          `waits for the agent to say that config ${stage} is staged, while ${orders.target ?? "none"} serves`,
        );
  }
  if (blocked === undefined && target !== undefined && orders.target !== null && target !== orders.target) {
    return say([
      {
        what: `tells the agent to stage config ${target}`,
        why: `${orders.target} serves until it is staged`,
      },
    ]);
  }
  if (orders.target !== null && applied !== orders.target) {
    return say([], `waits for the agent to say that config ${orders.target} is applied`);
  }
  const ready = findCondition(node.status?.conditions, "Ready");
  const scheduled = findCondition(node.status?.conditions, "Scheduled");
  if (ready?.status === "True")
    return say(
      [],
      scheduled?.reason.startsWith("Resize")
        ? `${scheduled.reason}: ${scheduled.message}`
        : "nothing: it runs what it should",
    );
  return say([], ready ? `${ready.reason}: ${ready.message}` : "the operator has not looked at it yet");
}

/** What is said of an image that has to come to the host before anything is stopped for it. */
function fetchOf({ status }: ResultityNode): string | undefined {
  const { reason, message } = findCondition(status?.conditions, "ConfigApplied") ?? {};
  const waits = reason === "PrefetchFailed" || (reason === "Staging" && message?.includes("(pod prefetch-"));
  return waits ? message : undefined;
}

/** Whether the pod's spec has the image of the config that it moves to, as far as the network's status lists that config. */
function hasNewImage(
  { spec, status }: ResultityNode,
  network: ResultityNetwork | undefined,
  { runtime }: PodFacts,
  { target }: Desired,
): boolean {
  // A container that does not run has been stopped for the new image.
  if (runtime.state !== "running" || status?.config?.applied === target) return true;
  const config = network?.status?.config;
  if (config?.digest !== target) return false;
  const digest = runtime.image.split("@").at(-1) ?? runtime.image;
  return (
    config?.runtimes?.some(({ engine, image }) => engine === spec.runtime.engine && image.endsWith(digest)) ??
    false
  );
}
