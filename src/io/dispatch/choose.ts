import type { ConfigDigest } from "../../protocol/fields.ts";
import type { NodeId } from "../../protocol/keys.ts";
import type { DispatchNode } from "./node.ts";
import type { Standing } from "./standing.ts";
import type { Instant } from "./types.ts";

/** What the choice of a node depends on beside the nodes. */
export interface ChoiceContext {
  readonly at: Instant;
  readonly freshMs: number;
  /** Configs that the current release allows, with their ends (wall ms). */
  readonly allowed: ReadonlyMap<ConfigDigest, number>;
  /** Mean time of a job over the fleet, ms; 0 = unknown. */
  readonly fleetLatency: number;
  readonly accounts: ReadonlyMap<string, Standing>;
}

/** Why a node that serves the model gets no job now; undefined = it may. */
export function unfit(node: DispatchNode, context: ChoiceContext): string | undefined {
  if (!node.open || !node.report) return "not open for jobs";
  if (context.at.mono - node.reportAt > context.freshMs) return "its last report is too old";
  if (node.busyUntil > context.at.mono) return "it said that it is busy";
  const { applied } = node.report.config;
  const expires = applied === null ? undefined : context.allowed.get(applied);
  if (expires === undefined) return "its config is not allowed by the current release";
  if (expires <= context.at.wall) return "its config has expired";
  return undefined;
}

/**
 * How little a node is wanted; the lowest is chosen. Load counts as the share of its slots that this job would fill;
 * latency relative to the fleet's; a node that this job has failed on goes behind all others.
 */
export function score(node: DispatchNode, tried: ReadonlySet<NodeId>, context: ChoiceContext): number {
  const { mono } = context.at;
  const load = (node.leases.size + 1) / Math.max(1, node.slots);
  const { fleetLatency: fleet } = context;
  const latency = fleet === 0 ? 0 : Math.min(4, node.latency(fleet, mono) / fleet) / 2;
  const account = context.accounts.get(node.account)?.at(mono) ?? 0;
  // Small differences are noise: were they to count, a node that was once a little slower would never be tried again.
  return (
    load + Math.round((latency + node.standing.at(mono) + account) * 10) / 10 + (tried.has(node.id) ? 100 : 0)
  );
}

/** Filter, score, choose. The first of equals wins, so the caller varies the order. */
export function choose(
  candidates: Iterable<DispatchNode>,
  tried: ReadonlySet<NodeId>,
  context: ChoiceContext,
): DispatchNode | undefined {
  let best: DispatchNode | undefined;
  let bestScore = Infinity;
  for (const node of candidates) {
    if (unfit(node, context) !== undefined) continue;
    const value = score(node, tried, context);
    if (value < bestScore) {
      best = node;
      bestScore = value;
    }
  }
  return best;
}
