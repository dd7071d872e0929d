import { poolNames } from "../../api/v1alpha1/names.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { controllerOf, keyOf } from "../../kube/object.ts";
import type { Pod, PodDisruptionBudget } from "../../kube/resources.ts";
import { desiredAnnotation } from "../../protocol/desired.ts";
import type { ReadStore } from "../../kube/store.ts";
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
  const owner = controllerOf(node);
  if (owner?.kind !== poolNames.kind) return true;
  const minAvailable = caches.budgets.store.byIndex("owner", owner.uid)[0]?.spec?.minAvailable;
  if (typeof minAvailable !== "number") return true;
  const known = memories.serving(owner.uid);
  if (known !== undefined) return known > minAvailable;
  let serving = 0;
  for (const child of caches.nodes.store.byIndex("owner", owner.uid)) {
    const key = keyOf(child);
    const pod = caches.pods.store.get(key);
    const orders = pod?.metadata.annotations?.[desiredAnnotation] ?? "";
    if (!pod || !staysInService(pod, orders)) continue;
    if (!memories.isLeaving(key, pod.metadata.uid, revisionOf(orders))) serving++;
  }
  memories.counted(owner.uid, serving);
  return serving > minAvailable;
}

/** Serves, and has not been told of a stop. A pool may have thousands: the orders are not parsed. */
function staysInService({ metadata, status }: Pod, orders: string): boolean {
  if (metadata.deletionTimestamp !== undefined) return false;
  const ready = status?.conditions?.find(({ type }) => type === "Ready");
  return ready?.status === "True" && orders.includes('"plannedStop":null');
}

const revisionOf = (orders: string): number => Number(/"revision":(\d+)/.exec(orders)?.[1] ?? 0);
