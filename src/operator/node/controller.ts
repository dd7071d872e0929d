import type { NodeStatus } from "../../api/v1alpha1/node.ts";
import { Controller, type Result } from "../../kube/controller.ts";
import { isKubeError } from "../../kube/errors.ts";
import { Expectations } from "../../kube/expectations.ts";
import { nodes, type OperatorContext, type Runnable } from "../context.ts";
import { nodeManager } from "../names.ts";
import { AgentStatuses, type FetchStatus } from "./agent-status.ts";
import { sessionRecheckMs } from "./conditions.ts";
import { executeNode, type Hands } from "./execute.ts";
import { NodeMemories } from "./memory.ts";
import type { NodeObservation } from "./observation.ts";
import { observeNode } from "./observe.ts";
import { isUrgent, settleMsOf } from "./pace.ts";
import { planNode } from "./plan.ts";
import { prefetchController } from "./prefetch/controller.ts";
import { nodeSources } from "./sources.ts";
import { isWritten, nodeStatus, statusDraft } from "./status.ts";
import { passTurn } from "./turn.ts";

/** Keeps the nodes: identity, pod, moves between configs, status. */
export function nodeController(context: OperatorContext, fetch?: FetchStatus): Runnable {
  const { clock, random, logger, metrics } = context;
  const memories = new NodeMemories(clock);
  const expectations = new Expectations(clock);
  const answered = (nodeKey: string) => controller.enqueue(nodeKey, "the agent says something new");
  const statuses = new AgentStatuses({ clock, metrics, answered, ...(fetch ? { fetch } : {}) });
  const hands: Hands = { context, expectations, statuses, memories };
  const controller = new Controller({
    name: "node",
    sources: nodeSources(context, memories, (key, ms, reason) => controller.enqueueAfter(key, ms, reason)),
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
  return {
    async run(signal) {
      await Promise.all([controller.run(signal), collector.run(signal)]);
      statuses.restAll();
    },
  };
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
  const left = isUrgent(node.status, status) ? 0 : memories.statusDueInMs(key, settleMsOf(status));
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
