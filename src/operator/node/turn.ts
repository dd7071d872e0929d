import { isTrue } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { controllerOf, keyOf } from "../../kube/object.ts";
import type { Pod } from "../../kube/resources.ts";
import type { ReadStore } from "../../kube/store.ts";
import { networkKeyOf } from "../context.ts";
import type { NetworkConfig } from "../views.ts";
import { digestOfImage, type PodFacts, podFacts } from "./facts.ts";
import { onlySharedDiffers, podInputsHash } from "./inputs.ts";
import type { NodeMemories } from "./memory.ts";

/** Nodes that share what may disturb them take turns: those of one pool, or those of one network that have no pool. */
export function groupOf(node: ResultityNode): string {
  const owner = controllerOf(node);
  return owner ? `owner ${owner.uid}` : `network ${networkKeyOf(node)}`;
}

/** True if the pod differs from its inputs in something that all nodes of the network share. */
function isBehind(node: ResultityNode, pod: PodFacts, config: NetworkConfig, agentImage: string): boolean {
  return (
    digestOfImage(pod.agent.image) !== digestOfImage(agentImage) ||
    onlySharedDiffers(pod.inputsHash, podInputsHash(node, config))
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
  if (memories.claimedByOther(group, nodeKey)) return false;
  const owner = controllerOf(node);
  const { store } = caches.nodes;
  const others = owner
    ? store.byIndex("owner", owner.uid)
    : store.byIndex("network", networkKeyOf(node)).filter((other) => !controllerOf(other));
  for (const other of others) {
    if (other === node || other.spec.replicas === 0 || keyOf(other) === nodeKey) continue;
    const live = caches.pods.store.get(keyOf(other));
    if (!live) continue;
    const facts = podFacts(live, other);
    if (facts.terminating) return false;
    const planned = facts.desired.ok ? facts.desired.desired.plannedStop : null;
    if (planned === "agent-image" || planned === "recreate") return false;
    const well = facts.ready && isTrue(other.status?.conditions, "Ready");
    if (!well && !isBehind(other, facts, config, agentImage)) return false;
  }
  return true;
}
