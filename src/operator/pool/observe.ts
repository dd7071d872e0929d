import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { controllerOf, keyOf } from "../../kube/object.ts";
import type { PodDisruptionBudget } from "../../kube/resources.ts";
import type { ReadStore } from "../../kube/store.ts";
import type { Caches, OperatorContext } from "../context.ts";
import { poolLabel } from "../names.ts";
import type { PoolObservation } from "./plan.ts";

type Cached<T> = T extends { readonly store: ReadStore<infer Object> }
  ? { readonly store: Pick<ReadStore<Object>, "get" | "byIndex"> }
  : never;

/** What a look at a pool takes: the operator's context has it, and so has who has just read the objects. */
export interface PoolSight {
  readonly caches: { readonly [Kind in keyof Caches]: Cached<Caches[Kind]> };
  readonly configs: {
    get(networkKey: string): { readonly current: string | undefined } | undefined;
  };
  readonly clock: Pick<OperatorContext["clock"], "now">;
}

/** Gathers what the planner needs to know about a pool, from the caches alone; undefined when the pool is gone. */
export function observePool(sight: PoolSight, key: string): PoolObservation | undefined {
  const { caches, configs, clock } = sight;
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
    budget: budgetOf(caches.budgets.store.get(`${namespace}/${name}`), pool),
    now: clock.now(),
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
