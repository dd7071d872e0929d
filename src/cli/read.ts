import type { ResultityNode } from "../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../api/v1alpha1/pool.ts";
import type { Client } from "../kube/client.ts";
import { isKubeError } from "../kube/errors.ts";
import { keyOf, type KubeObject } from "../kube/object.ts";
import { type Pod, podDisruptionBudgets, pods } from "../kube/resources.ts";
import { byOwnerUid, Store } from "../kube/store.ts";
import { restartsAt } from "../operator/network/plan.ts";
import { observePool } from "../operator/pool/observe.ts";
import { isLeaving, type PoolObservation } from "../operator/pool/plan.ts";
import { type AnyEvent, events, networks, nodeLabel, nodes, pools } from "./resources.ts";
import type { Listed } from "./status/view.ts";

/** What the commands read of the API server. */
export type Reader = Pick<Client, "find" | "list">;
/** What those that change a spec write. */
export type Writer = Pick<Client, "jsonPatch">;

/** The three kinds, in one namespace or in all. */
export async function listAll(reader: Reader, namespace: string | undefined): Promise<Listed> {
  const [networkList, poolList, nodeList] = await Promise.all([
    reader.list(networks, { namespace }),
    reader.list(pools, { namespace }),
    reader.list(nodes, { namespace }),
  ]);
  return { networks: networkList.items, pools: poolList.items, nodes: nodeList.items };
}

/** What the user may not read is left out; `denied` says so. */
export type MaybeRead<T> =
  | { readonly value: T; readonly denied?: undefined }
  | { readonly value?: undefined; readonly denied: string };

async function ifAllowed<T>(reading: Promise<T>): Promise<MaybeRead<T>> {
  try {
    return { value: await reading };
  } catch (thrown) {
    if (isKubeError(thrown, "Forbidden")) return { denied: thrown.message };
    throw thrown;
  }
}

/** The pod of a node. */
export function readPod(reader: Reader, node: ResultityNode): Promise<MaybeRead<Pod | undefined>> {
  const { namespace, name } = node.metadata;
  return ifAllowed(reader.find(pods, { namespace, name }));
}

/** Events about an object and about what has its name, its pod. */
export function readEvents(
  reader: Reader,
  { namespace, name }: { readonly namespace: string; readonly name: string },
): Promise<MaybeRead<readonly AnyEvent[]>> {
  const listing = reader.list(events, { namespace, fieldSelector: `regarding.name=${name}` });
  return ifAllowed(listing.then(({ items }) => items));
}

/**
 * Looks at a pool as the operator does, from lists in place of its caches. The one thing that the operator has in
 * memory alone, which config of the network is verified, is taken from what it says in the network's status; where the
 * pool's status says that it has none, none is taken.
 */
export async function readPool(
  reader: Reader,
  pool: ResultityNodePool,
  now: number,
): Promise<PoolObservation> {
  const { namespace, name } = pool.metadata;
  const networkName = pool.spec.template.spec.networkRef.name;
  const [network, { items: nodeList }, budget] = await Promise.all([
    reader.find(networks, { namespace, name: networkName }),
    reader.list(nodes, { namespace }),
    reader.find(podDisruptionBudgets, { namespace, name }),
  ]);
  // Pods are large, and only those of nodes that leave matter.
  const leaving = nodeList.some((node) => isLeaving(node) && byOwnerUid(node).includes(pool.metadata.uid));
  const podList = leaving ? (await reader.list(pods, { namespace, labelSelector: nodeLabel })).items : [];
  const progress = pool.status?.conditions?.find(({ type }) => type === "Progressing");
  const current =
    progress?.reason === "NetworkNotTrusted" && progress.status === "False"
      ? undefined
      : network?.status?.config?.digest;
  const { allowed, until } = restartsAt(network?.spec.config.maintenanceWindows ?? [], now);
  const seen = observePool(
    {
      caches: {
        networks: { store: storeOf(network ? [network] : []) },
        nodes: { store: storeOf(nodeList) },
        pools: { store: storeOf([pool]) },
        pods: { store: storeOf(podList) },
        budgets: { store: storeOf(budget ? [budget] : []) },
      },
      // Without the snapshots each move counts as one that interrupts jobs.
      configs: { get: () => ({ current, mayRestart: allowed, restartsUntil: until, snapshots: new Map() }) },
      // Figures of a trial are in the feed, which only the operator reads: what it made of them is in the pool's status.
      work: () => undefined,
      clock: { now: () => now },
    },
    keyOf(pool),
  );
  if (!seen) throw new Error(`pool ${keyOf(pool)} is not in the store that it was put into`);
  return seen;
}

function storeOf<T extends KubeObject>(objects: readonly T[]): Store<T> {
  const store = new Store<T>();
  store.replace(objects);
  store.addIndex("owner", byOwnerUid);
  return store;
}
