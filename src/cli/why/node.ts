import { nodeConditionTypes } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { Pod } from "../../kube/resources.ts";
import { type ContainerFacts, hasNoCapacity, type PodFacts, podFacts } from "../../operator/node/observe.ts";
import type { MaybeRead } from "../read.ts";
import type { AnyEvent } from "../resources.ts";
import { shortRef } from "../subject.ts";
import { poolOf } from "../status/view.ts";
import { verdictOf } from "../verdict.ts";
import { adviceOf, nodeAdvice } from "./advice.ts";
import { causeOf } from "./cause.ts";
import { nextOfNode } from "./next-of-node.ts";
import { notesOf } from "./pool.ts";
import { conditionViews, eventViews, type WhyView } from "./view.ts";

/** What was read about a node. */
export interface NodeReading {
  readonly node: ResultityNode;
  readonly network: ResultityNetwork | undefined;
  readonly pod: MaybeRead<Pod | undefined>;
  readonly events: MaybeRead<readonly AnyEvent[]>;
  /** Wall time, ms. */
  readonly now: number;
}

/** Why a node is as it is: its conditions, what the pod shows, and what follows from both. */
export function whyNode({ node, network, pod, events, now }: NodeReading): WhyView {
  const { namespace, name } = node.metadata;
  const pool = poolOf(node);
  const facts = pod.value && podFacts(pod.value, node);
  const known = pod.denied === undefined;
  const ahead = known
    ? nextOfNode({ now, node, inPool: pool !== undefined, network, pod: facts })
    : undefined;
  const conditions = nodeConditions(node);
  const cause = causeOf(conditions);
  return {
    kind: node.kind,
    namespace,
    name,
    ready: verdictOf(node),
    conditions,
    ...(cause ? { cause } : {}),
    facts: [...nodeFacts(node, pool), ...(known ? podLines(facts) : [])],
    next: ahead?.next ?? [],
    waits: ahead?.waits ?? [],
    notes: [
      ...(ahead?.planned === false
        ? [
            "this is read off the objects. The operator also goes by the agent's signed status and the network's feed, which only it sees; its log says each step.",
          ]
        : []),
      ...(pool === undefined
        ? []
        : [`its pool decides when it moves: kubectl resultity plan ${pool} -n ${namespace}`]),
      ...(network?.status?.conditions?.some(({ type, status }) => type === "Ready" && status !== "True")
        ? [
            `its network is not Ready: kubectl resultity why ${shortRef("ResultityNetwork", network.metadata.name)} -n ${namespace}`,
          ]
        : []),
      ...(pod.denied === undefined ? [] : [`pod and next steps are not shown: ${pod.denied}`]),
      ...notesOf(events),
    ],
    events: eventViews(events.value ?? [], [node.kind, "Pod"]),
  };
}

function nodeConditions(node: ResultityNode): WhyView["conditions"] {
  const { namespace, name } = node.metadata;
  const views = conditionViews(
    node.status?.conditions,
    nodeConditionTypes,
    ["Draining", "Degraded"],
    ({ reason }) => adviceOf(nodeAdvice, reason, { namespace, name }),
  );
  if (!hasNoCapacity(node)) return views;
  return views.map(({ todo, ...view }) => {
    if (view.well || view.type === "Degraded") return { ...view, ...(todo === undefined ? {} : { todo }) };
    // What else is off is the parking's doing.
    return { ...view, meant: true, ...(todo !== undefined && view.reason === "NoCapacity" ? { todo } : {}) };
  });
}

type Fact = WhyView["facts"][number];

function nodeFacts({ spec, status }: ResultityNode, pool: string | undefined): readonly Fact[] {
  const { target, staged, applied } = status?.config ?? {};
  const facts: (readonly [string, string | undefined])[] = [
    ["network", spec.networkRef.name],
    ["pool", pool],
    ["id at the network", status?.nodeId],
    ["config target", target],
    ["config staged", staged],
    ["config applied", applied],
    ["engine", [spec.runtime.engine, status?.runtime?.version].filter(Boolean).join(" ")],
    ["models", status?.models?.map(({ name, state }) => `${name} (${state})`).join(", ")],
    [
      "session",
      status?.session &&
        `${status.session.connected ? "open" : "closed"} since ${status.session.since ?? "?"}`,
    ],
  ];
  return facts.flatMap(([label, value]) => (value ? [[label, value]] : []));
}

function podLines(pod: PodFacts | undefined): readonly Fact[] {
  if (!pod) return [["pod", "there is none"]];
  const state = pod.terminating
    ? `is being deleted${pod.terminating.disruption === undefined ? "" : ` (${pod.terminating.disruption})`}`
    : pod.finished
      ? `ended: ${pod.finished.reason}`
      : pod.ready
        ? "ready"
        : pod.scheduled.ok
          ? "not ready"
          : `not scheduled: ${pod.scheduled.message || pod.scheduled.reason || "not looked at yet"}`;
  const orders = pod.desired.ok ? pod.desired.desired : undefined;
  return [
    ["pod", `${pod.name}, ${state}${pod.host ? `, on host ${pod.host}` : ""}${pod.ip ? ` (${pod.ip})` : ""}`],
    ["container agent", containerLine(pod.agent)],
    ["container runtime", containerLine(pod.runtime)],
    [
      "orders to the agent",
      orders
        ? [
            `revision ${orders.revision}`,
            `run ${orders.target ?? "what is applied"}`,
            ...(orders.stage === null ? [] : [`stage ${orders.stage}`]),
            ...(orders.plannedStop === null ? [] : [`a stop is planned (${orders.plannedStop})`]),
          ].join(", ")
        : "none that can be read",
    ],
  ];
}

function containerLine({ state, reason, restarts, image }: ContainerFacts): string {
  const why = reason === "" ? "" : ` (${reason})`;
  return `${state === "none" ? "not started" : state}${why}, ${restarts} restarts, ${image}`;
}
