import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
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
import { planPool } from "./plan.ts";
import { candidatesOf } from "./scale.ts";
import { refusalOf, type Refused, refusedMs } from "./refusal.ts";
import { poolStatus } from "./status.ts";

/** Keeps the pools: children, scale, rolling updates, disruption budgets, status. */
export function poolController(context: OperatorContext): Runnable {
  const { caches, clock, random, logger, metrics } = context;
  const expectations = new Expectations(clock);
  return new Controller({
    name: "pool",
    sources: [
      own(caches.pools, exceptStatus),
      batched(owned(caches.nodes, pools), clock, (key) => restMs(caches.pools.store.get(key))),
      owned(caches.budgets, pools),
      mapped(
        caches.pods,
        (pod) => poolsOfPod(context, controllerOf(pod)?.uid),
        ({ type }) => type === "delete",
      ),
      networkChanges(context),
    ],
    reconcile: (key, signal) => reconcile(context, expectations, key, signal),
    expectations,
    clock,
    random,
    logger,
    metrics,
  });
}

/**
 * How long a pool rests between two looks that its children ask for: a look takes up to 50 ms with 10,000 of them, each of which
 * has several events when they all come up. A tenth to a fifth of the time is the most that it then takes; small pools do not rest.
 */
function restMs(pool: ResultityNodePool | undefined): number {
  return (pool?.spec.replicas ?? 0) / 40;
}

async function reconcile(
  context: OperatorContext,
  expectations: Expectations,
  key: string,
  signal: AbortSignal,
): Promise<Result | undefined> {
  const seen = observePool({ ...context, work: (network, nodeId) => workOf(context, network, nodeId) }, key);
  if (!seen) {
    expectations.forget(key);
    return undefined;
  }
  const trial = trialOf(seen);
  const candidates = candidatesOf(seen);
  const loads = candidates.length > 0 ? await readLoads(context, candidates, signal) : undefined;
  const loaded = loads ? { ...seen, load: ({ metadata }: ResultityNode) => loads.get(metadata.name) } : seen;
  // Until the network is verified anew after a start nobody is told where to go: the status may be older than what was told.
  const actions = planPool(loaded).filter(({ type }) => type !== "target" || isVerified(context, seen.pool));
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
  const waits = [againMs, refused && refusedMs].filter((ms) => ms !== undefined);
  const next = waits.length > 0 ? { requeueAfter: Math.min(...waits) } : undefined;
  if (canonical(status) === canonical(seen.pool.status ?? {})) return next;
  const { namespace, name, uid } = seen.pool.metadata;
  const draft = { metadata: { namespace, name, uid }, status };
  try {
    await context.client.applyStatus(pools, draft, { fieldManager: poolManager, signal });
  } catch (error) {
    if (!isKubeError(error, "NotFound")) throw error;
  }
  return next;
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
