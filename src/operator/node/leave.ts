import { poolNames } from "../../api/v1alpha1/names.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { controllerOf, keyOf } from "../../kube/object.ts";
import type { Pod, PodDisruptionBudget } from "../../kube/resources.ts";
import { desiredAnnotation } from "../../protocol/desired.ts";
import type { Change, ReadStore } from "../../kube/store.ts";
import type { NodeMemories } from "./memory.ts";

/** Where it looks. */
interface Looked {
  readonly nodes: { readonly store: ReadStore<ResultityNode> };
  readonly pods: { readonly store: ReadStore<Pod> };
  readonly budgets: { readonly store: ReadStore<PodDisruptionBudget> };
}

/**
 * Whether a node's pool can do without it now. The pool counts before it tells a node to move, and time passes between its word and
 * the stop: others fail meanwhile, and who was told while out of service is back. So whoever serves looks once more, in the moment
 * before it goes, at the same budget: that of the pool's PodDisruptionBudget.
 */
export function mayLeave(caches: Looked, memories: NodeMemories, node: ResultityNode): boolean {
  const owner = poolOf(node);
  if (owner === undefined) return true;
  const minAvailable = caches.budgets.store.byIndex("owner", owner)[0]?.spec?.minAvailable;
  if (typeof minAvailable !== "number") return true;
  const serving = memories.serving(owner) ?? count(caches, memories, owner);
  if (serving > minAvailable) return true;
  memories.awaitRoom(owner, keyOf(node));
  return false;
}

function count({ nodes, pods }: Looked, memories: NodeMemories, poolUid: string): number {
  const serving = new Set<string>();
  for (const child of nodes.store.byIndex("owner", poolUid)) {
    const pod = pods.store.get(keyOf(child));
    if (pod && staysInService(pod) && !isLeaving(memories, pod)) serving.add(pod.metadata.uid);
  }
  memories.counted(poolUid, serving);
  return serving.size;
}

/**
 * Keeps the count of a pool by what becomes of its nodes' pods. Returns the node that waits for room if one is back in service: the
 * pool may have told it to move because of that one, and by itself it would look again only after a while.
 */
export function whoHasRoom(
  { nodes, pods }: Pick<Looked, "nodes" | "pods">,
  memories: NodeMemories,
  change: Change<Pod>,
): string | undefined {
  if (change.type === "add") return undefined;
  const pod = change.object;
  const before = change.type === "delete" || staysInService(change.old);
  const now = change.type === "update" && staysInService(pod);
  if (before === now) return undefined;
  if (!now) {
    memories.leftService(pod.metadata.uid);
    return undefined;
  }
  const owner = poolOf(nodes.store.get(keyOf(pod)));
  if (owner === undefined || isLeaving(memories, pod)) return undefined;
  memories.backInService(owner, pod.metadata.uid);
  for (;;) {
    const next = memories.nextForRoom(owner);
    if (next === undefined) return undefined;
    // Who is gone, or out of service, needs no room any more: it would be lost on it.
    const waiting = pods.store.get(next);
    if (poolOf(nodes.store.get(next)) === owner && waiting && staysInService(waiting)) return next;
  }
}

/** UID of the pool that has a node. */
function poolOf(node: ResultityNode | undefined): string | undefined {
  const owner = node && controllerOf(node);
  return owner?.kind === poolNames.kind ? owner.uid : undefined;
}

const ordersOf = ({ metadata }: Pod): string => metadata.annotations?.[desiredAnnotation] ?? "";

const isLeaving = (memories: NodeMemories, pod: Pod): boolean =>
  memories.isLeaving(keyOf(pod), pod.metadata.uid, revisionOf(ordersOf(pod)));

/** Serves, and has not been told of a stop. A pool may have thousands: the orders are not parsed. */
function staysInService(pod: Pod): boolean {
  if (pod.metadata.deletionTimestamp !== undefined) return false;
  const ready = pod.status?.conditions?.find(({ type }) => type === "Ready");
  return ready?.status === "True" && ordersOf(pod).includes('"plannedStop":null');
}

const revisionOf = (orders: string): number => Number(/"revision":(\d+)/.exec(orders)?.[1] ?? 0);
