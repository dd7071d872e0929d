import { findCondition } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { controllerOf, keyOf } from "../../kube/object.ts";
import type { PodDisruptionBudget } from "../../kube/resources.ts";
import type { ReadStore } from "../../kube/store.ts";
import type { Caches, OperatorContext } from "../context.ts";
import type { Release } from "../../protocol/config/release.ts";
import type { Snapshot } from "../../protocol/config/snapshot.ts";
import { moveInterrupts } from "../move.ts";
import { poolLabel } from "../names.ts";
import type { NetworkConfig } from "../views.ts";
import type { Work } from "./canary.ts";
import { hasSpec } from "./child.ts";
import type { PoolObservation } from "./observation.ts";

type Cached<T> = T extends { readonly store: ReadStore<infer Object> }
  ? { readonly store: Pick<ReadStore<Object>, "get" | "byIndex"> }
  : never;

/** What a pool's plan needs to know of its network's config. */
export type PoolConfig = Pick<NetworkConfig, "mayRestart" | "restartsUntil"> & {
  readonly current: string | undefined;
  readonly snapshots: ReadonlyMap<string, Snapshot>;
  /** What nodes may apply; undefined where that is not known. */
  readonly release?: Release | undefined;
};

/** What a look at a pool takes: the operator's context has it, and so has who has just read the objects. */
export interface PoolSight {
  readonly caches: { readonly [Kind in Exclude<keyof Caches, "prefetches">]: Cached<Caches[Kind]> };
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
  const network = caches.networks.store.get(networkKey);
  const refused = findCondition(network?.status?.conditions, "Trusted")?.status === "False";
  return {
    pool,
    children: childrenOf(sight, pool),
    isTaken: (child) => caches.nodes.store.get(`${namespace}/${child}`) !== undefined,
    hasPod: (child) => caches.pods.store.get(keyOf(child)) !== undefined,
    networkKnown: network !== undefined,
    current: config || refused ? config?.current : lastAsked(pool),
    allows: allowedBy(config?.release, clock.now()),
    mayRestart: config?.mayRestart ?? true,
    restartsUntil: config?.restartsUntil,
    interrupts: interruptsWith(pool, config?.snapshots),
    work: ({ status }) => (status?.nodeId === undefined ? undefined : work(networkKey, status.nodeId)),
    budget: budgetOf(caches.budgets.store.get(`${namespace}/${name}`), pool),
    now: clock.now(),
  };
}

/**
 * What the pool was last asked to move to. After its start the operator verifies the network anew: until it has, or finds a
 * fault, all stays as it is.
 */
function lastAsked({ status }: ResultityNodePool): string | undefined {
  const target = status?.rollout?.target;
  return status?.rejected?.find(({ instead }) => instead === target)?.digest ?? target;
}

function allowedBy(release: Release | undefined, now: number): PoolObservation["allows"] {
  if (!release) return () => true;
  const allowed = new Set<string>(
    release.allowed.filter(({ expires }) => expires > now).map(({ digest }) => digest),
  );
  return (digest) => allowed.has(digest);
}

/** Most children have the template's spec and move between the same two configs: that is worked out once. */
function interruptsWith(
  pool: ResultityNodePool,
  snapshots: ReadonlyMap<string, Snapshot> | undefined,
): PoolObservation["interrupts"] {
  const ofTemplate = new Map<string, boolean>();
  return (child, digest) => {
    const applied = child.status?.config?.applied;
    if (applied === undefined) return true;
    const answer = () => moveInterrupts(child.spec, snapshots?.get(applied), snapshots?.get(digest));
    if (!hasSpec(pool, child)) return answer();
    const move = `${applied} ${digest}`;
    const known = ofTemplate.get(move) ?? answer();
    ofTemplate.set(move, known);
    return known;
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
