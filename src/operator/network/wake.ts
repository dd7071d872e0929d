import { isTrue } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { batched, exceptStatus, mapped, own, type Source } from "../../kube/sources.ts";
import type { Change } from "../../kube/store.ts";
import type { Clock } from "../../lib/clock.ts";
import { hasNoCapacity } from "../capacity.ts";
import { type Caches, networkKeyOf } from "../context.ts";

/** Least time between two wakes of a network by its nodes, ms: their churn becomes one status write of it a second at most. */
export const nodeBatchMs = 1_000;

/** What wakes the controller of a network: its spec, and what its status counts or its ConfigMap holds of its nodes. */
export function networkSources(caches: Pick<Caches, "networks" | "nodes">, clock: Clock): readonly Source[] {
  const nodes = mapped(caches.nodes, (node) => [networkKeyOf(node)], concernsNetwork);
  return [own(caches.networks, exceptStatus), batched(nodes, clock, () => nodeBatchMs)];
}

/** True for a change of a node that its network's status or ConfigMap depends on. */
export function concernsNetwork(change: Change<ResultityNode>): boolean {
  if (change.type !== "update") return true;
  const { object, old } = change;
  return facts(object) !== facts(old);
}

function facts(node: ResultityNode): string {
  const { status } = node;
  return JSON.stringify([
    networkKeyOf(node),
    status?.config?.target,
    status?.config?.applied,
    status?.config?.next,
    hasNoCapacity(node),
    isTrue(status?.conditions, "Ready"),
    status?.session?.connected === true,
  ]);
}
