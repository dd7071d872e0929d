import { isTrue } from "../../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../../api/v1alpha1/node.ts";
import { controllerOf, keyOf } from "../../../kube/object.ts";
import { networkKeyOf } from "../../context.ts";
import type { Neighbours } from "../turn.ts";
import { type FleetHealth, rateWindowMs } from "./ladder.ts";
import type { RecoveryMemory } from "./memory.ts";

/** How old a count of a network's nodes may be, ms. */
export const censusMs = 1_000;

/** A network's nodes, counted. */
export interface Census {
  readonly network: { nodes: number; failing: number };
  /** By the UID of their pool; those without one together, under "". */
  readonly pools: Map<string, { nodes: number; failing: number }>;
  recentSteps: number;
  /** Nodes in service by the config that they run. */
  readonly serving: Map<string, number>;
}

/** How the neighbours of a node fare. @param target config that its pod is told to run. */
export function fleetHealth(
  caches: Neighbours,
  memory: RecoveryMemory,
  node: ResultityNode,
  target: string | null,
  now: number,
): FleetHealth {
  const network = networkKeyOf(node);
  const census = memory.census(network, () => count(caches.nodes.store.byIndex("network", network), now));
  const same = target === null ? 0 : (census.serving.get(target) ?? 0);
  const all = [...census.serving.values()].reduce((sum, some) => sum + some, 0);
  return {
    pool: census.pools.get(poolOf(node)) ?? { nodes: 0, failing: 0 },
    network: census.network,
    // Its own do not stand in its way: it has a budget of its own.
    recentSteps: Math.max(
      census.recentSteps - recentSteps(node, now),
      memory.stepsTaken(network, keyOf(node)),
    ),
    servesSame: same > 0,
    servesOther: all > same,
  };
}

const poolOf = (node: ResultityNode): string => controllerOf(node)?.uid ?? "";

/** Counts the nodes of one network. */
export function count(nodes: Iterable<ResultityNode>, now: number): Census {
  const network = { nodes: 0, failing: 0 };
  const pools: Census["pools"] = new Map();
  const serving: Census["serving"] = new Map();
  let steps = 0;
  for (const node of nodes) {
    if (node.spec.replicas === 0 || node.metadata.deletionTimestamp !== undefined) continue;
    const pool = pools.get(poolOf(node)) ?? { nodes: 0, failing: 0 };
    pools.set(poolOf(node), pool);
    const { status } = node;
    const failing = status?.recovery?.cause === undefined ? 0 : 1;
    for (const tally of [pool, network]) {
      tally.nodes++;
      tally.failing += failing;
    }
    steps += recentSteps(node, now);
    const applied = status?.config?.applied;
    if (applied !== undefined && isTrue(status?.conditions, "Ready"))
      serving.set(applied, (serving.get(applied) ?? 0) + 1);
  }
  return { network, pools, recentSteps: steps, serving };
}

function recentSteps({ status }: ResultityNode, now: number): number {
  const taken = status?.recovery?.steps ?? [];
  return taken.filter(
    ({ step, cause, time }) =>
      step !== "LostHost" && cause !== "PodFailed" && now - Date.parse(time) < rateWindowMs,
  ).length;
}
