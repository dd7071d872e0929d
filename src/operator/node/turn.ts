import { isTrue } from "../../api/v1alpha1/conditions.ts";
import type { NodeStatus, ResultityNode } from "../../api/v1alpha1/node.ts";
import { controllerOf, keyOf } from "../../kube/object.ts";
import type { Pod } from "../../kube/resources.ts";
import type { ReadStore } from "../../kube/store.ts";
import { hasNoCapacity } from "../capacity.ts";
import { networkKeyOf } from "../context.ts";
import type { NetworkConfig } from "../views.ts";
import { digestOfImage, type PodFacts, podFacts } from "./facts.ts";
import { podInputsHash } from "./inputs.ts";
import { isEdited } from "./resize.ts";
import type { NodeMemories } from "./memory.ts";
import type { NodeObservation } from "./observation.ts";

/** Nodes that share what may disturb them take turns: those of one pool, or those of one network that have no pool. */
export function groupOf(node: ResultityNode): string {
  const owner = controllerOf(node);
  return owner ? `owner ${owner.uid}` : `network ${networkKeyOf(node)}`;
}

/** True if the pod is to be stopped for something that nobody made room for: what all nodes share, or a size that its host refuses. */
function isBehind(node: ResultityNode, pod: PodFacts, config: NetworkConfig, agentImage: string): boolean {
  return (
    digestOfImage(pod.agent.image) !== digestOfImage(agentImage) ||
    pod.resize?.state === "infeasible" ||
    (pod.inputsHash !== undefined &&
      pod.inputsHash !== podInputsHash(node, config) &&
      !isEdited(node, pod, config))
  );
}

/** Where the other nodes of a group are seen. */
export interface Neighbours {
  readonly nodes: { readonly store: ReadStore<ResultityNode> };
  readonly pods: { readonly store: ReadStore<Pod> };
}

/**
 * Whether this node may be disturbed now: no other of its group is on the way, or has arrived and is not well yet. So
 * the first node tries a new agent image for all, and one that does not come up stops the others.
 */
export function hasTurn(
  caches: Neighbours,
  memories: NodeMemories,
  node: ResultityNode,
  pod: PodFacts,
  config: NetworkConfig,
  agentImage: string,
): boolean {
  if (!isBehind(node, pod, config, agentImage)) return true;
  const group = groupOf(node);
  const nodeKey = keyOf(node);
  const inTheWay = (other: ResultityNode) => isInTheWay(caches, other, config, agentImage);
  const free = !memories.claimedByOther(group, nodeKey) && isFree(caches, memories, node, inTheWay);
  if (!free) memories.awaitTurn(group, nodeKey);
  return free;
}

/**
 * Whether no other node of the group is in the way. A group may have thousands, and all of them ask when an agent image is new:
 * who was in the way is looked at first, and a group in which nobody was is not looked at again for a moment.
 */
function isFree(
  { nodes: { store } }: Neighbours,
  memories: NodeMemories,
  node: ResultityNode,
  inTheWay: (other: ResultityNode) => boolean,
): boolean {
  const group = groupOf(node);
  const last = memories.lastLook(group);
  const known = last?.blocker === undefined ? undefined : store.get(last.blocker);
  const isSelf = ({ metadata }: ResultityNode) => metadata.uid === node.metadata.uid;
  if (last && last.blocker === undefined) return true;
  if (known && !isSelf(known) && groupOf(known) === group && inTheWay(known)) return false;
  const owner = controllerOf(node);
  const all = owner ? store.byIndex("owner", owner.uid) : store.byIndex("network", networkKeyOf(node));
  let itself = false;
  for (const other of all) {
    if (groupOf(other) !== group || !inTheWay(other)) continue;
    if (!isSelf(other)) {
      memories.looked(group, keyOf(other));
      return false;
    }
    itself = true;
  }
  memories.looked(group, itself ? keyOf(node) : undefined);
  return true;
}

/** Whether a node is being stopped for something that all share, or has that already and is not well. */
function isInTheWay(
  caches: Neighbours,
  node: ResultityNode,
  config: NetworkConfig,
  agentImage: string,
): boolean {
  if (node.spec.replicas === 0 || hasNoCapacity(node)) return false;
  const live = caches.pods.store.get(keyOf(node));
  if (!live) return false;
  const facts = podFacts(live, node);
  if (facts.terminating) return true;
  const planned = facts.desired.ok ? facts.desired.desired.plannedStop : null;
  if (planned === "agent-image" || planned === "recreate") return true;
  const well = facts.ready && isTrue(node.status?.conditions, "Ready");
  return !well && !isBehind(node, facts, config, agentImage);
}

/**
 * Keeps the turn of a node that has it until it is well again as everyone sees it, then gives it back.
 * Returns who is next, and after how many milliseconds to look again.
 */
export function passTurn(
  memories: NodeMemories,
  { node, pod }: NodeObservation,
  status: NodeStatus,
): { readonly next?: string | undefined; readonly againInMs?: number } {
  const [group, nodeKey] = [groupOf(node), keyOf(node)];
  if (!memories.holds(group, nodeKey)) return {};
  const stops = pod?.desired.ok && pod.desired.desired.plannedStop !== null;
  if (!stops && isTrue(status.conditions, "Ready")) {
    // Those who wait look at the cache: it has to show that this node is well.
    if (isTrue(node.status?.conditions, "Ready")) return { next: memories.release(group) };
    memories.claim(group, nodeKey);
    return { againInMs: 100 };
  }
  memories.claim(group, nodeKey);
  return {};
}
