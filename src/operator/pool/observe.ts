import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { controllerOf, keyOf } from "../../kube/object.ts";
import type { PodDisruptionBudget } from "../../kube/resources.ts";
import type { ReadStore } from "../../kube/store.ts";
import type { Caches, OperatorContext } from "../context.ts";
import type { Snapshot } from "../../protocol/config/snapshot.ts";
import { moveInterrupts } from "../move.ts";
import { poolLabel } from "../names.ts";
import type { NetworkConfig } from "../views.ts";
import type { Work } from "./canary.ts";
import type { PoolObservation } from "./plan.ts";

type Cached<T> = T extends { readonly store: ReadStore<infer Object> }
  ? { readonly store: Pick<ReadStore<Object>, "get" | "byIndex"> }
  : never;

/** What a pool's plan needs to know of its network's config. */
export type PoolConfig = Pick<NetworkConfig, "mayRestart" | "restartsUntil"> & {
  readonly current: string | undefined;
  readonly snapshots: ReadonlyMap<string, Snapshot>;
};

/** What a look at a pool takes: the operator's context has it, and so has who has just read the objects. */
export interface PoolSight {
  readonly caches: { readonly [Kind in keyof Caches]: Cached<Caches[Kind]> };
  readonly configs: {
    get(networkKey: string): PoolConfig | undefined;
  };
  /** What the network has seen of a node's jobs. */
  readonly work: (networkKey: string, nodeId: string) => Work | undefined;
  readonly clock: Pick<OperatorContext["clock"], "now">;
}

/** Gathers what the planner needs to know about a pool, from the caches alone; undefined when the pool is gone. */
export function observePool(sight: PoolSight, key: string): PoolObservation | undefined {
  const { caches, configs, clock, work } = sight;
  const pool = caches.pools.store.get(key);
  if (!pool) return undefined;
  const { namespace, name } = pool.metadata;
  const networkKey = `${namespace}/${pool.spec.template.spec.networkRef.name}`;
  const config = configs.get(networkKey);
  return {
    pool,
    children: childrenOf(sight, pool),
    isTaken: (child) => caches.nodes.store.get(`${namespace}/${child}`) !== undefined,
    hasPod: (child) => caches.pods.store.get(keyOf(child)) !== undefined,
    networkKnown: caches.networks.store.get(networkKey) !== undefined,
    current: config?.current,
    mayRestart: config?.mayRestart ?? true,
    restartsUntil: config?.restartsUntil,
    interrupts: interruptsWith(config?.snapshots),
    work: ({ status }) => (status?.nodeId === undefined ? undefined : work(networkKey, status.nodeId)),
    budget: budgetOf(caches.budgets.store.get(`${namespace}/${name}`), pool),
    now: clock.now(),
  };
}

/** Many children move between the same two configs: each pair of spec and configs is worked out once. */
function interruptsWith(snapshots: ReadonlyMap<string, Snapshot> | undefined): PoolObservation["interrupts"] {
  const known = new Map<string, boolean>();
  return ({ spec, status }, digest) => {
    const applied = status?.config?.applied;
    if (applied === undefined) return true;
    const { runtime, gpu, models } = spec;
    const key = JSON.stringify([applied, digest, runtime.engine, runtime.image, gpu.product, models]);
    let answer = known.get(key);
    if (answer === undefined) {
      answer = moveInterrupts(spec, snapshots?.get(applied), snapshots?.get(digest));
      known.set(key, answer);
    }
    return answer;
  };
}

function childrenOf({ caches }: PoolSight, pool: ResultityNodePool): readonly ResultityNode[] {
  const { uid } = pool.metadata;
  return caches.nodes.store.byIndex("owner", uid).filter((node) => controllerOf(node)?.uid === uid);
}

/** The pool's budget, as far as it is ours: what it protects and how much. */
function budgetOf(
  budget: PodDisruptionBudget | undefined,
  pool: ResultityNodePool,
): PoolObservation["budget"] {
  if (!budget) return undefined;
  const ours = controllerOf(budget)?.uid === pool.metadata.uid;
  const selects = budget.spec?.selector?.matchLabels?.[poolLabel] === pool.metadata.name;
  return { ours, intact: selects, minAvailable: budget.spec?.minAvailable };
}
