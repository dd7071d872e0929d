import { findCondition } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { isReady, minAvailableOf, type PoolObservation } from "../../operator/pool/plan.ts";

/** How long one node is out of service for a move, as nodes of the pool have shown. */
export interface Pace {
  /** Drain and start, ms. */
  readonly restartMs: number;
  /** What was seen, for people. */
  readonly basis: string;
}

/** Fewest nodes of which something is concluded. */
const fewest = 2;

const hour = 3_600_000;

/**
 * What the nodes' own times say. Those that came back in the present or last roll give its pace, which has drains in it; else
 * those that were made give the time from their creation to service. Undefined where neither is there.
 */
export function paceOf({ pool, children }: PoolObservation): Pace | undefined {
  const serving = children.filter(isReady).map((child) => ({
    created: Date.parse(child.metadata.creationTimestamp),
    ready: readySince(child),
  }));
  const began = Date.parse(pool.status?.rollout?.startedAt ?? "");
  const rolled = serving.filter(({ created, ready }) => created < began && ready > began);
  if (rolled.length >= fewest) {
    const last = Math.max(...rolled.map(({ ready }) => ready));
    const size = pool.spec.replicas;
    const atOnce = Math.max(1, Math.min(rolled.length, size - minAvailableOf(pool, size)));
    const restartMs = Math.round(((last - began) * atOnce) / rolled.length);
    return { restartMs, basis: `${rolled.length} nodes came back in the last roll` };
  }
  const starts = serving.map(({ created, ready }) => ready - created).filter((ms) => ms > 0 && ms < hour);
  if (starts.length < fewest) return undefined;
  starts.sort((a, b) => a - b);
  // A node that has come back since shows a longer time than its start: those above the middle say nothing.
  const restartMs = starts[Math.floor((starts.length - 1) / 2)] ?? 0;
  return { restartMs, basis: `as long as ${starts.length} nodes took to start, without drains` };
}

function readySince({ status }: ResultityNode): number {
  return Date.parse(findCondition(status?.conditions, "Ready")?.lastTransitionTime ?? "");
}
