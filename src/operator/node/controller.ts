import { findCondition } from "../../api/v1alpha1/conditions.ts";
import type { NodeStatus, ResultityNode } from "../../api/v1alpha1/node.ts";
import { Controller, type Result } from "../../kube/controller.ts";
import { isKubeError } from "../../kube/errors.ts";
import { Expectations } from "../../kube/expectations.ts";
import { keyOf } from "../../kube/object.ts";
import { exceptStatus, mapped, own, owned, type Source } from "../../kube/sources.ts";
import type { Change } from "../../kube/store.ts";
import { hostKeyOf, nodes, type OperatorContext, type Runnable } from "../context.ts";
import { nodeManager } from "../names.ts";
import { AgentStatuses, type FetchStatus } from "./agent-status.ts";
import { sessionRecheckMs } from "./conditions.ts";
import { executeNode, type Hands } from "./execute.ts";
import { NodeMemories } from "./memory.ts";
import type { NodeObservation } from "./observation.ts";
import { observeNode } from "./observe.ts";
import { isUrgent, settleMs } from "./pace.ts";
import { planNode } from "./plan.ts";
import { prefetchController } from "./prefetch/controller.ts";
import { isWritten, nodeStatus, statusDraft } from "./status.ts";
import { passTurn } from "./turn.ts";

/** Keeps the nodes: identity, pod, moves between configs, status. */
export function nodeController(context: OperatorContext, fetch?: FetchStatus): Runnable {
  const { caches, clock, random, logger, metrics } = context;
  const memories = new NodeMemories(clock);
  const expectations = new Expectations(clock);
  const answered = (nodeKey: string) => controller.enqueue(nodeKey, "the agent answered");
  const statuses = new AgentStatuses({ clock, metrics, answered, ...(fetch ? { fetch } : {}) });
  const hands: Hands = { context, expectations, statuses, memories };
  const controller = new Controller({
    name: "node",
    sources: [
      own(caches.nodes, wantsLook),
      owned(caches.pods, nodes),
      mapped(
        caches.nodes,
        (node) => twinsOf(context, node),
        ({ type }) => type === "delete",
      ),
      mapped(caches.prefetches, (prefetch) =>
        hostKeyOf(prefetch).flatMap((host) => caches.pods.store.byIndex("host", host).map(keyOf)),
      ),
      mapped(caches.networks, (network) => nodesOf(context, keyOf(network)), exceptStatus),
      configChanges(context),
      fleetChanges(context, memories),
    ],
    reconcile: (key, signal) =>
      reconcile(hands, key, signal, (next) => controller.enqueue(next, "its turn has come")),
    concurrency: 16,
    expectations,
    clock,
    random,
    logger,
    metrics,
  });
  const collector = prefetchController(context);
  return { run: async (signal) => void (await Promise.all([controller.run(signal), collector.run(signal)])) };
}

async function reconcile(
  hands: Hands,
  key: string,
  signal: AbortSignal,
  wake: (nodeKey: string) => void,
): Promise<Result | undefined> {
  const { context, memories, statuses, expectations } = hands;
  const seen = observeNode(context, hands, key);
  if (!seen) {
    memories.forget(key);
    statuses.forget(key);
    expectations.forget(key);
    return undefined;
  }
  const plan = planNode(seen);
  const { failed, againInMs } = await executeNode(hands, seen, plan.actions, signal);
  const known = { ...seen, nodeId: memories.of(key).identity?.nodeId ?? seen.nodeId };
  const status = nodeStatus(known, plan, failed);
  const statusInMs = await writeStatus(hands, key, known, status, signal);
  const turn = passTurn(memories, known, status);
  if (turn.next !== undefined) wake(turn.next);
  const waits = [againInMs, sessionRecheckMs(known), turn.againInMs, statusInMs].filter(
    (ms) => ms !== undefined,
  );
  return waits.length > 0 ? { requeueAfter: Math.min(...waits) } : undefined;
}

/** Writes the status where it is due. Returns after how many milliseconds it will be, where that is yet to come. */
async function writeStatus(
  { context, expectations, memories }: Hands,
  key: string,
  seen: NodeObservation,
  status: NodeStatus,
  signal: AbortSignal,
): Promise<number | undefined> {
  const { node } = seen;
  if (isWritten(seen, status)) {
    memories.statusWritten(key);
    return undefined;
  }
  if (node.metadata.deletionTimestamp !== undefined) return undefined;
  const left = isUrgent(node.status, status) ? 0 : memories.statusDueInMs(key, settleMs);
  if (left > 0) return left;
  try {
    const options = { fieldManager: nodeManager, signal };
    const written = await context.client.applyStatus(nodes, statusDraft(node, status), options);
    expectations.wrote(key, context.caches.nodes, written);
    memories.statusWritten(key);
  } catch (error) {
    // Deleted, or another object of this name by now: the cache will say so.
    if (!isKubeError(error, "NotFound")) throw error;
  }
  return undefined;
}

/** What we wrote to the status ourselves needs no second look; the pool's target does. */
function wantsLook(change: Change<ResultityNode>): boolean {
  if (exceptStatus(change)) return true;
  return (
    change.type === "update" && change.object.status?.config?.target !== change.old.status?.config?.target
  );
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
    synced: () => context.caches.networks.synced(),
    attach: (add) =>
      context.configs.subscribe((networkKey) => {
        for (const key of nodesOf(context, networkKey))
          add(key, `network ${networkKey}: what is verified changed`);
      }),
  };
}

/** The network's view of a node queues it when it changes what the conditions say; counters do not. */
function fleetChanges(context: OperatorContext, memories: NodeMemories): Source {
  const { caches, fleet } = context;
  const differs = (node: ResultityNode, networkKey: string, nodeId: string): boolean => {
    const view = fleet.get(networkKey, nodeId);
    const { conditions, session } = node.status ?? {};
    if (!view || view.banned !== null || view.revoked || view.conflict !== null) return true;
    // A rotation goes on when the network has the next key.
    if (memories.of(keyOf(node)).identity?.keys[1]?.kid === view.kid) return true;
    if (findCondition(conditions, "Ready")?.status !== "True") return true;
    if (findCondition(conditions, "Registered")?.status !== "True") return true;
    return (
      session?.connected !== view.connected || findCondition(conditions, "Connected")?.reason === "Banned"
    );
  };
  return {
    name: "fleet feed",
    synced: () => Promise.resolve(),
    attach: (add) =>
      fleet.subscribe((networkKey, nodeId) => {
        if (nodeId === undefined) {
          for (const key of nodesOf(context, networkKey)) add(key, "the fleet feed came or went");
          return;
        }
        const learnt = memories.keyOfId(nodeId);
        const found = caches.nodes.store.byIndex("nodeId", nodeId);
        if (learnt !== undefined && found.length === 0) add(learnt, "the network's view changed");
        for (const node of found) {
          if (differs(node, networkKey, nodeId)) add(keyOf(node), "the network's view changed");
        }
      }),
  };
}
