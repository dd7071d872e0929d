import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { PoolStatus, ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { Controller, type Result } from "../../kube/controller.ts";
import { isKubeError } from "../../kube/errors.ts";
import { Expectations } from "../../kube/expectations.ts";
import { controllerOf, keyOf } from "../../kube/object.ts";
import { batched, exceptStatus, mapped, own, owned, type Source } from "../../kube/sources.ts";
import { type OperatorContext, pools, type Runnable } from "../context.ts";
import { canonical } from "../hash.ts";
import { poolManager } from "../names.ts";
import { executePool } from "./execute.ts";
import { observePool } from "./observe.ts";
import type { Work } from "./canary.ts";
import { trialOf } from "./digest.ts";
import { readLoads } from "./loads.ts";
import { nextLookMs } from "./next-look.ts";
import { figuresMs, isUrgent } from "./pace.ts";
import { planPool } from "./plan.ts";
import { candidatesOf } from "./scale.ts";
import { refusalOf, type Refused, refusedMs } from "./refusal.ts";
import { poolStatus } from "./status.ts";

/** Keeps the pools: children, scale, rolling updates, disruption budgets, status. */
export function poolController(context: OperatorContext): Runnable {
  const { caches, clock, random, logger, metrics } = context;
  const hands: Hands = {
    context,
    expectations: new Expectations(clock),
    unwritten: new Map(),
    looks: new Map(),
  };
  return new Controller({
    name: "pool",
    sources: [
      own(caches.pools, exceptStatus),
      batched(owned(caches.nodes, pools), clock, (key) =>
        restMs(caches.pools.store.get(key), hands.looks.get(key)),
      ),
      owned(caches.budgets, pools),
      mapped(
        caches.pods,
        (pod) => poolsOfPod(context, controllerOf(pod)?.uid),
        ({ type }) => type === "delete",
      ),
      networkChanges(context),
    ],
    reconcile: (key, signal) => reconcile(hands, key, signal),
    expectations: hands.expectations,
    clock,
    random,
    logger,
    metrics,
  });
}

/** Longest rest of a pool between two looks that its children ask for, ms. */
const longestRestMs = 1_000;

/**
 * How long a pool rests between two looks that its children ask for: a look takes up to 50 ms with 10,000 of them, each of which
 * has several events when they all come up. A fifth of the time is the most that it then takes, on a slow machine too; small pools
 * do not rest.
 */
function restMs(pool: ResultityNodePool | undefined, lookMs = 0): number {
  return Math.min(longestRestMs, Math.max((pool?.spec.replicas ?? 0) / 40, 4 * lookMs));
}

interface Hands {
  readonly context: OperatorContext;
  readonly expectations: Expectations;
  /** Monotonic times, ms, since which the status of a pool has differed from what is written. */
  readonly unwritten: Map<string, number>;
  /** What the last look at a pool took until it was decided what to do, ms. */
  readonly looks: Map<string, number>;
}

async function reconcile(hands: Hands, key: string, signal: AbortSignal): Promise<Result | undefined> {
  const { context, expectations } = hands;
  const began = context.clock.monotonic();
  const seen = observePool({ ...context, work: (network, nodeId) => workOf(context, network, nodeId) }, key);
  if (!seen) {
    expectations.forget(key);
    hands.unwritten.delete(key);
    hands.looks.delete(key);
    return undefined;
  }
  const trial = trialOf(seen);
  const candidates = candidatesOf(seen);
  const loads = candidates.length > 0 ? await readLoads(context, candidates, signal) : undefined;
  const loaded = loads ? { ...seen, load: ({ metadata }: ResultityNode) => loads.get(metadata.name) } : seen;
  // Until the network is verified anew after a start nobody is told where to go: the status may be older than what was told.
  const actions = planPool(loaded).filter(({ type }) => type !== "target" || isVerified(context, seen.pool));
  if (!loads) hands.looks.set(key, context.clock.monotonic() - began);
  let refused: Refused | undefined;
  try {
    await executePool(context, expectations, seen.pool, actions, signal);
  } catch (error) {
    refused = refusalOf(error);
    if (!refused) throw error;
    const { reason, message } = refused;
    context.events.record(seen.pool, { type: "Warning", reason, action: "Refuse", note: message });
  }
  const status = poolStatus(seen, refused);
  const againMs = nextLookMs(trial, seen.pool.status?.rollout?.canary, status.rollout?.canary);
  const figuresInMs = await writeStatus(hands, seen.pool, status, signal);
  const waits = [againMs, refused && refusedMs, figuresInMs].filter((ms) => ms !== undefined);
  return waits.length > 0 ? { requeueAfter: Math.min(...waits) } : undefined;
}

/** Writes the status where it is due. Returns after how many milliseconds it will be, where that is yet to come. */
async function writeStatus(
  { context, unwritten }: Hands,
  pool: ResultityNodePool,
  status: PoolStatus,
  signal: AbortSignal,
): Promise<number | undefined> {
  const key = keyOf(pool);
  if (canonical(status) === canonical(pool.status ?? {})) {
    unwritten.delete(key);
    return undefined;
  }
  const now = context.clock.monotonic();
  const since = unwritten.get(key) ?? now;
  unwritten.set(key, since);
  const left = isUrgent(pool.status, status) ? 0 : since + figuresMs - now;
  if (left > 0) return left;
  const { namespace, name, uid } = pool.metadata;
  const draft = { metadata: { namespace, name, uid }, status };
  try {
    await context.client.applyStatus(pools, draft, { fieldManager: poolManager, signal });
    unwritten.delete(key);
  } catch (error) {
    if (!isKubeError(error, "NotFound")) throw error;
  }
  return undefined;
}

function isVerified({ configs }: OperatorContext, { metadata, spec }: ResultityNodePool): boolean {
  return configs.get(`${metadata.namespace}/${spec.template.spec.networkRef.name}`) !== undefined;
}

/** What the fleet feed says of a node's jobs. */
function workOf({ fleet }: OperatorContext, networkKey: string, nodeId: string): Work | undefined {
  const work = fleet.live(networkKey) ? fleet.get(networkKey, nodeId)?.work : undefined;
  return (
    work && {
      config: work.config,
      completed: work.completed,
      failed: work.failed,
      durationMs: work.duration_ms,
    }
  );
}

/** A pod that is gone lets its pool delete the child. */
function poolsOfPod({ caches }: OperatorContext, nodeUid: string | undefined): string[] {
  const node = nodeUid === undefined ? undefined : caches.nodes.store.getByUid(nodeUid);
  const owner = node && controllerOf(node);
  return node && owner ? [`${node.metadata.namespace}/${owner.name}`] : [];
}

/** A network's new config queues the pools that name it. */
function networkChanges({ configs, caches }: OperatorContext): Source {
  return {
    name: "network configs",
    // A network that is not in the cache does not exist, and the pool would say so.
    synced: async () => void (await Promise.all([caches.pools.synced(), caches.networks.synced()])),
    attach: (add) =>
      configs.subscribe((networkKey) => {
        for (const pool of caches.pools.store.byIndex("network", networkKey))
          add(keyOf(pool), `network ${networkKey} changed`);
      }),
  };
}
