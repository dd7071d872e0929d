import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { keyOf } from "../../kube/object.ts";
import type { Pod } from "../../kube/resources.ts";
import { exceptStatus, mapped, own, owned, type Source } from "../../kube/sources.ts";
import type { Change } from "../../kube/store.ts";
import type { FeedNode } from "../../protocol/feed.ts";
import { hostKeyOf, nodes, type OperatorContext } from "../context.ts";
import { canonical } from "../hash.ts";
import { type ContainerFacts, type PodFacts, podFacts, pullFails, startFails } from "./facts.ts";
import { whoHasRoom } from "./leave.ts";
import type { NodeMemories } from "./memory.ts";
import { prefetchFacts } from "./prefetch/facts.ts";

/** How long a pod that comes up is left alone: what it becomes next comes with events of its own. Milliseconds. */
const comingUpMs = 3_000;

/** Queues a key after some milliseconds. */
type Later = (key: string, ms: number, reason: string) => void;

/**
 * What makes the node controller look at a node. Each look costs a plan and most that happens to a pod changes nothing in it, so
 * only what the plan goes by is let through.
 */
export function nodeSources(
  context: OperatorContext,
  memories: NodeMemories,
  later: Later,
): readonly Source[] {
  const { caches } = context;
  const looks = (change: Change<Pod>) => lookAt(caches.nodes.store, change);
  const comingUp = owned(caches.pods, nodes, (change) => looks(change) === "later");
  return [
    own(caches.nodes, (change) => wantsLook(context, change)),
    owned(caches.pods, nodes, (change) => looks(change) === "now"),
    { ...comingUp, attach: (_add) => comingUp.attach((key, reason) => later(key, comingUpMs, reason)) },
    roomChanges(context, memories),
    mapped(
      caches.nodes,
      (node) => twinsOf(context, node),
      ({ type }) => type === "delete",
    ),
    mapped(
      caches.prefetches,
      (prefetch) => hostKeyOf(prefetch).flatMap((host) => caches.pods.store.byIndex("host", host).map(keyOf)),
      prefetchMatters,
    ),
    mapped(caches.networks, (network) => nodesOf(context, keyOf(network)), exceptStatus),
    configChanges(context),
    fleetChanges(context, memories, later),
  ];
}

/** One that is back in service makes room for another of its pool. */
function roomChanges({ caches }: OperatorContext, memories: NodeMemories): Source {
  return {
    name: "room in pools",
    synced: () => caches.pods.synced(),
    attach(add) {
      const look = (change: Change<Pod>) => {
        const key = whoHasRoom(caches, memories, change);
        if (key !== undefined) add(key, `pod ${keyOf(change.object)} is back in service`);
      };
      return caches.pods.handle({
        added: () => undefined,
        updated: (object, old) => look({ type: "update", object, old }),
        deleted: (object) => look({ type: "delete", object }),
      });
    },
  };
}

/** What we wrote to the status ourselves needs no second look; a target that the pool gives does, unless it is there already. */
function wantsLook({ caches }: OperatorContext, change: Change<ResultityNode>): boolean {
  if (exceptStatus(change) || change.type !== "update") return true;
  const { target, next } = change.object.status?.config ?? {};
  if (next !== change.old.status?.config?.next) return true;
  if (target === change.old.status?.config?.target) return false;
  const pod = caches.pods.store.get(keyOf(change.object));
  const { desired } = pod ? podFacts(pod, change.object) : {};
  return !desired?.ok || desired.desired.target !== target || desired.desired.stage !== null;
}

/** When to look at a node for what became of its pod, if at all. */
export function lookAt(
  known: { get(key: string): ResultityNode | undefined },
  change: Change<Pod>,
): "now" | "later" | "never" {
  const { object } = change;
  const node = known.get(keyOf(object));
  if (!node || change.type === "delete") return "now";
  const facts = podFacts(object, node);
  // It was made just now, and nobody has done anything with it.
  if (change.type === "add") return object.status?.conditions || facts.terminating ? "now" : "never";
  const before = podFacts(change.old, node);
  if (!isOther(substanceOf(facts), substanceOf(before))) return "never";
  const { ready, finished, terminating, scheduled, desired, agent, runtime } = facts;
  const orders = desired.ok ? desired.desired : undefined;
  const told =
    !orders || orders.stage !== null || orders.plannedStop !== null || isOther(desired, before.desired);
  const trouble = scheduled.reason === "Unschedulable" || [agent, runtime].some(isTroubled);
  return ready || before.ready || finished || terminating || told || trouble ? "now" : "later";
}

const isOther = (a: object, b: object): boolean => canonical(a) !== canonical(b);

const isTroubled = (container: ContainerFacts): boolean =>
  pullFails(container) || startFails(container) || container.state === "terminated" || container.restarts > 0;

/** What the plan and the conditions go by; the kubelet says more while it starts a container. */
function substanceOf(facts: PodFacts): PodFacts {
  const of = (container: ContainerFacts) =>
    isTroubled(container) ? container : { ...container, reason: "", message: "" };
  const since = { created: 0, ready: 0, scheduled: 0 };
  return { ...facts, since, agent: of(facts.agent), runtime: of(facts.runtime) };
}

/** Nodes wait for an image that comes, fails or ends; nobody waits for it to be on its way, or gone. */
function prefetchMatters(change: Change<Pod>): boolean {
  const { state } = prefetchFacts(change.object);
  if (change.type === "update") return state !== prefetchFacts(change.old).state && state !== "going";
  return change.type === "add" && state !== "coming";
}

function nodesOf({ caches }: OperatorContext, networkKey: string): string[] {
  return caches.nodes.store.byIndex("network", networkKey).map(keyOf);
}

/** Nodes that were refused for the sake of this one. */
function twinsOf({ caches }: OperatorContext, node: ResultityNode): string[] {
  const secret = node.spec.identity?.secretName ?? `${node.metadata.name}-identity`;
  const { store } = caches.nodes;
  const sameId = node.status?.nodeId ? store.byIndex("nodeId", node.status.nodeId) : [];
  return [...store.byIndex("identity", `${node.metadata.namespace}/${secret}`), ...sameId].map(keyOf);
}

function configChanges(context: OperatorContext): Source {
  return {
    name: "network configs",
    // The pool says whether an identity outlives its node: without it the Secret would go with the node.
    synced: async () =>
      void (await Promise.all([context.caches.networks.synced(), context.caches.pools.synced()])),
    attach: (add) =>
      context.configs.subscribe((networkKey) => {
        for (const key of nodesOf(context, networkKey))
          add(key, `network ${networkKey}: what is verified changed`);
      }),
  };
}

/** The network's view of a node queues it when it changes in what the conditions say; counters do not. */
function fleetChanges(context: OperatorContext, memories: NodeMemories, later: Later): Source {
  const { caches, fleet } = context;
  return {
    name: "fleet feed",
    synced: () => Promise.resolve(),
    attach: (add) =>
      fleet.subscribe((networkKey, nodeId) => {
        if (nodeId === undefined) {
          for (const key of nodesOf(context, networkKey)) add(key, "the fleet feed came or went");
          return;
        }
        const view = fleet.get(networkKey, nodeId);
        const seen = view && viewOf(view);
        const learnt = memories.keyOfId(nodeId);
        const found = caches.nodes.store.byIndex("nodeId", nodeId).map(keyOf);
        const keys = found.length > 0 ? found : learnt === undefined ? [] : [learnt];
        for (const key of keys) {
          if (seen !== undefined && !memories.isNews(key, seen)) continue;
          const pod = caches.pods.store.get(key);
          const ready = pod?.status?.conditions?.some(
            ({ type, status }) => type === "Ready" && status === "True",
          );
          // A node whose pod comes up registers meanwhile; that it serves is told by the pod.
          if (pod && !ready && view?.connected) later(key, comingUpMs, "the network's view changed");
          else add(key, "the network's view changed");
        }
      }),
  };
}

/** What the plan and the conditions go by. */
export function viewOf(node: FeedNode): string {
  const { kid, connected, banned, revoked, generation, conflict, xids, deprioritised_until: until } = node;
  // In minutes: each line of the feed tells it by another millisecond.
  const unwanted = Math.ceil((until ?? 0) / 60_000);
  return canonical({ kid, connected, banned, revoked, generation, conflict, xids, unwanted });
}
