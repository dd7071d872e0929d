import { rfc3339 } from "../../../api/v1alpha1/conditions.ts";
import type { HostNode } from "../../../kube/resources.ts";
import type { PodFacts } from "../facts.ts";
import type { NodeObservation } from "../observation.ts";
import type { FleetHealth } from "./ladder.ts";

/** What the Node object of a host says. */
export type HostState =
  | { readonly is: "ready" }
  /** Since when it is not, wall time, ms; `what` in the words of its condition. */
  | { readonly is: "lost"; readonly since: number; readonly what: string }
  /** There is no Node object: the cluster deletes its pods by itself. */
  | { readonly is: "gone" }
  /** It cannot be read. */
  | { readonly is: "unknown"; readonly why: string };

/** Reads a host's Node object; undefined = there is none. */
export function hostStateOf(host: HostNode | undefined): HostState {
  if (!host) return { is: "gone" };
  const ready = host.status?.conditions?.find(({ type }) => type === "Ready");
  if (!ready || ready.status === "True") return { is: "ready" };
  const since = Date.parse(ready.lastTransitionTime ?? host.metadata.creationTimestamp ?? "");
  return { is: "lost", since, what: `its Ready is ${ready.status} (${ready.reason ?? "no reason given"})` };
}

/** How old a look at a host may be, ms. */
const lookMs = 20_000;
/** How long an agent is silent, and a pod ends, before its host is looked at, ms. */
const silentMs = 5_000;
const endingMs = 60_000;

/** Whether the host of a pod may be lost, so that its Node object is worth a request. */
export function mayBeLost({ agent, node, now }: NodeObservation, pod: PodFacts): boolean {
  if (pod.host === undefined || pod.finished) return false;
  // Who knew it before a restart need not wait for anybody's silence.
  if (node.status?.recovery?.cause === "HostLost" && !pod.ready) return true;
  if (pod.terminating) return pod.terminating.tainted || now - pod.terminating.began > endingMs;
  return !pod.ready && pod.agent.started && agent.silentMs > silentMs;
}

/** Milliseconds until the host of this pod may be worth a look, if nothing changes; undefined = it is not on the way to that. */
export function lookInMs({ agent, now }: NodeObservation, pod: PodFacts): number | undefined {
  if (pod.terminating) return Math.max(1_000, pod.terminating.began + endingMs + 1_000 - now);
  if (pod.ready || !pod.agent.started || agent.silentMs === 0) return undefined;
  return Math.max(500, silentMs + 500 - agent.silentMs);
}

/** Whether the host has to be looked at. */
export const wantsLook = ({ hostLook }: NodeObservation): boolean => !hostLook || hostLook.ageMs > lookMs;

/** When to look again at a host that may be lost, ms. */
export const lookAgainMs = lookMs + 1_000;

/** What is known, and decided, of a pod whose host is lost. */
export interface LostPod {
  readonly since: number;
  readonly message: string;
  /** The network or the operator hears of it: it serves on. */
  readonly heard: boolean;
  /** When it is given up, wall time, ms; undefined = not by itself. */
  readonly replaceAt: number | undefined;
  readonly held: "SharedCause" | undefined;
}

/** For how long an answer counts: of a pod that ends nobody asks any more. */
const answers = ({ status, silentMs: silent, ageMs = 0 }: NodeObservation["agent"]): boolean =>
  status !== undefined && silent === 0 && ageMs < heardMs;
const heardMs = 30_000;

/**
 * What becomes of a pod on a lost host. It is given up only where the spec says when, and only while nobody hears of the node: a
 * kubelet that cannot reach the API server often leaves an engine that serves. Whoever has the identity next, the epoch of its
 * session fences this one.
 */
export function lostPodOf(
  o: NodeObservation,
  pod: PodFacts,
  fleet: FleetHealth | undefined,
): LostPod | undefined {
  const state = o.hostLook?.state;
  if (state?.is !== "lost" && state?.is !== "gone") return undefined;
  const since = state.is === "lost" ? state.since : pod.since.ready;
  const said = `host ${pod.host ?? ""} is lost since ${rfc3339(since)}: ${state.is === "lost" ? state.what : "its Node object is gone"}`;
  const after = o.node.spec.unreachable?.replaceAfterSeconds;
  const none = { since, heard: false, replaceAt: undefined, held: undefined };
  if (o.feed?.connected || answers(o.agent)) {
    return {
      ...none,
      heard: true,
      message: `${said}, but the node is heard of and serves on: repair what lies between host and cluster`,
    };
  }
  const person = "repair the host, or delete its Node object once it is surely off";
  if (after === undefined) {
    const set = "the node waits for it, since spec.unreachable.replaceAfterSeconds is not set";
    return { ...none, message: `${said}; ${set}: ${person}` };
  }
  if (fleet && fleet.network.failing >= 3 && fleet.network.failing * 2 > fleet.network.nodes) {
    const many = "more than half of the network's nodes are lost at once, so none is given up";
    return { ...none, held: "SharedCause", message: `${said}; ${many}: ${person}` };
  }
  const replaceAt = since + after * 1000;
  return {
    ...none,
    replaceAt,
    message: `${said}; at ${rfc3339(replaceAt)} the pod is given up and one is made on another host (spec.unreachable.replaceAfterSeconds): ${person} before that to keep it`,
  };
}
