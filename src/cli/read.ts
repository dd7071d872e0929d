import type { ResultityNetwork } from "../api/v1alpha1/network.ts";
import type { ResultityNode } from "../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../api/v1alpha1/pool.ts";
import type { Client } from "../kube/client.ts";
import { isKubeError } from "../kube/errors.ts";
import { keyOf, type KubeObject } from "../kube/object.ts";
import { type Pod, podDisruptionBudgets, pods } from "../kube/resources.ts";
import { byOwnerUid, Store } from "../kube/store.ts";
import { observeNode, observePublic } from "../operator/network/observe.ts";
import {
  chooseDigests,
  imagePolicyOf,
  knownConfig,
  modelPolicyOf,
  restartsAt,
} from "../operator/network/plan.ts";
import { observePool } from "../operator/pool/observe.ts";
import { isLeaving, type PoolObservation } from "../operator/pool/plan.ts";
import type { ConfigDigest } from "../protocol/fields.ts";
import { imagesAt, type Surroundings } from "./plan/nodes.ts";
import { type AnyEvent, events, networks, nodeLabel, nodes, pools } from "./resources.ts";
import type { Listed } from "./status/view.ts";

/** What the commands read of the API server. */
export type Reader = Pick<Client, "find" | "list">;
/** What those that change a spec write. */
export type Writer = Pick<Client, "jsonPatch" | "create" | "update">;

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

/** What is asked about in place of what there is. */
export interface Proposal {
  /** Specs as they would be. */
  readonly pool?: ResultityNodePool;
  readonly network?: ResultityNetwork;
  /** Config that the network would call current. */
  readonly digest?: string;
}

/** A pool as the operator sees it, and what is known of its network. */
export interface PoolReading {
  readonly seen: PoolObservation;
  readonly around: Surroundings | undefined;
}

/**
 * Looks at a pool as the operator does, from lists in place of its caches. Release and snapshots are those in the network's
 * ConfigMap, checked as the operator checks them; which of them it moves to is what its status says, or what follows from
 * the proposal. Where the pool's status says that no config is verified, none is taken.
 *
 * @param listed the nodes of the namespace, where they have been read
 */
export async function readPool(
  reader: Reader,
  pool: ResultityNodePool,
  now: number,
  proposal: Proposal = {},
  listed?: readonly ResultityNode[],
): Promise<PoolReading> {
  const { namespace, name } = pool.metadata;
  const networkName = pool.spec.template.spec.networkRef.name;
  const [network, nodeList, budget] = await Promise.all([
    reader.find(networks, { namespace, name: networkName }),
    listed ?? reader.list(nodes, { namespace }).then(({ items }) => items),
    reader.find(podDisruptionBudgets, { namespace, name }),
  ]);
  const around = network && (await readSurroundings(reader, network, nodeList, now, proposal));
  // Pods are large, and only those of nodes that leave matter.
  const leaving = nodeList.some((node) => isLeaving(node) && byOwnerUid(node).includes(pool.metadata.uid));
  const podList = leaving ? (await reader.list(pods, { namespace, labelSelector: nodeLabel })).items : [];
  const progress = pool.status?.conditions?.find(({ type }) => type === "Progressing");
  const unverified = progress?.reason === "NetworkNotTrusted" && progress.status === "False";
  const config = around?.config;
  const { until } = restartsAt(around?.proposed.spec.config.maintenanceWindows ?? [], now);
  const seen = observePool(
    {
      caches: {
        networks: { store: storeOf(network ? [network] : []) },
        nodes: { store: storeOf(nodeList) },
        pools: { store: storeOf([proposal.pool ?? pool]) },
        pods: { store: storeOf(podList) },
        budgets: { store: storeOf(budget ? [budget] : []) },
      },
      configs: {
        get: () => ({
          current: unverified ? undefined : config?.current,
          mayRestart: config?.mayRestart ?? true,
          restartsUntil: until,
          snapshots: config?.snapshots ?? new Map(),
          release: config?.release,
        }),
      },
      // Figures of a trial are in the feed, which only the operator reads: what it made of them is in the pool's status.
      work: () => undefined,
      clock: { now: () => now },
    },
    keyOf(pool),
  );
  if (!seen) throw new Error(`pool ${keyOf(pool)} is not in the store that it was put into`);
  return { seen, around };
}

/** What is known of a network: its config, as far as the user may read it, as it is or as it would be. */
export async function readSurroundings(
  reader: Reader,
  network: ResultityNetwork,
  nodeList: readonly ResultityNode[],
  now: number,
  { network: proposed = network, digest }: Proposal = {},
): Promise<Surroundings> {
  const read = await ifAllowed(observePublic(reader, network, new AbortController().signal));
  const known = read.value && knownConfig(network, read.value);
  const release = known?.release;
  const { spec, status } = proposed;
  const { allowed } = restartsAt(spec.config.maintenanceWindows, now);
  const chosen =
    proposed !== network && release
      ? chooseDigests({
          release,
          pin: spec.config.pin,
          apply: spec.config.apply,
          approved: spec.config.approved,
          previous: status?.config?.digest,
          nodes: nodeList
            .filter((node) => node.spec.networkRef.name === network.metadata.name)
            .map(observeNode),
          has: () => true,
          bytes: known.bytes,
          now,
        }).next
      : status?.config?.digest;
  return {
    network,
    proposed,
    config: {
      release,
      current: (digest ?? chosen) as ConfigDigest | undefined,
      snapshots: known?.snapshots ?? new Map(),
      images: imagePolicyOf(spec),
      models: modelPolicyOf(spec),
      mayRestart: allowed,
    },
    problem: known ? known.problem : read.denied,
    imagesAt: imagesAt(nodeList),
  };
}

function storeOf<T extends KubeObject>(objects: readonly T[]): Store<T> {
  const store = new Store<T>();
  store.replace(objects);
  store.addIndex("owner", byOwnerUid);
  return store;
}
