import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import { type PoolAction, type PoolObservation, planPool, wantedDigest } from "../../operator/pool/plan.ts";
import { type CurvePoint, type Forecast, forecast } from "./forecast.ts";
import { type NodePlan, nodePlans, Outlooks, type Surroundings } from "./nodes.ts";
import { type Pace, paceOf } from "./pace.ts";
import { approvalWait, waitsOf } from "./waits.ts";

/** One action of the operator, for people and programs. */
export interface NextAction {
  readonly action: PoolAction["type"];
  /** What it is done to: a node, or the pool's PodDisruptionBudget. */
  readonly object: string;
  /** Config that a node is told. */
  readonly digest?: string;
  readonly reason: string;
}

/** What `plan` tells of a pool; with `-o json` as it is. */
export interface PlanView extends Forecast {
  readonly namespace: string;
  readonly name: string;
  readonly network: string;
  readonly wanted: number;
  readonly children: number;
  /** Config that the pool moves to; absent while there is none. */
  readonly target?: string;
  readonly maxUnavailable: number | string;
  readonly paused: boolean;
  /** True where something is asked about that is not so: what is told happens only once it is. */
  readonly proposed: boolean;
  /** What the operator does when it looks next. */
  readonly next: readonly NextAction[];
  /** What becomes of each node; absent where nothing is known of the network. */
  readonly nodes?: readonly NodePlan[];
  /** Images that hosts have to fetch before a node there is stopped. */
  readonly prefetches: readonly { readonly image: string; readonly hosts: readonly string[] }[];
  /** How long a node is out of service, as far as the pool has shown it. */
  readonly pace?: Pace;
  /** Until all is done, ms; absent where the pace is not known. */
  readonly durationMs?: number;
  readonly waits: readonly string[];
}

export type { CurvePoint };

/** What is known beside the pool itself, and what is asked about. */
export interface Asked {
  readonly around?: Surroundings | undefined;
  readonly proposed?: boolean;
}

/** The plan of a pool as it is seen. */
export function planView(seen: PoolObservation, { around, proposed = false }: Asked = {}): PlanView {
  const { pool } = seen;
  const outlooks = around && new Outlooks(around, seen.now);
  const approval = around && unapproved(around.proposed, seen);
  const ahead = forecast(seen, refuser(seen, outlooks));
  const target = wantedDigest(seen);
  const nodes = outlooks && nodePlans(seen, ahead, outlooks, approval);
  const pace = paceOf(seen);
  return {
    namespace: pool.metadata.namespace,
    name: pool.metadata.name,
    network: pool.spec.template.spec.networkRef.name,
    wanted: pool.spec.replicas,
    children: seen.children.length,
    ...(target === undefined ? {} : { target }),
    maxUnavailable: pool.spec.strategy.rollingUpdate.maxUnavailable,
    paused: pool.spec.strategy.paused,
    proposed,
    next: nextActions(seen),
    ...(nodes ? { nodes } : {}),
    prefetches: prefetchesOf(nodes ?? []),
    ...(pace ? { pace, durationMs: Math.round(ahead.length * pace.restartMs) } : {}),
    waits: [
      ...(approval === undefined || !around ? [] : [approvalWait(around.proposed, approval)]),
      ...waitsOf(seen, ahead),
    ],
    ...ahead,
  };
}

/** A node that refuses a config is out of the budget until somebody mends it: it never arrives. */
function refuser(seen: PoolObservation, outlooks: Outlooks | undefined): Parameters<typeof forecast>[1] {
  if (!outlooks?.informed) return undefined;
  return (child) => {
    const target = child.status?.config?.target ?? wantedDigest(seen);
    return target !== undefined && outlooks.of(child, child.spec, target).refused !== undefined;
  };
}

/** Config that the network would move to if a person approved it, where the pool would follow. */
function unapproved({ spec, status }: ResultityNetwork, { pool }: PoolObservation): string | undefined {
  if (pool.spec.template.spec.config?.pin !== undefined || spec.config.apply !== "Approve") return undefined;
  const pending = status?.pending?.digest;
  return pending === spec.config.approved ? undefined : pending;
}

function prefetchesOf(nodes: readonly NodePlan[]): PlanView["prefetches"] {
  const hosts = new Map<string, Set<string>>();
  for (const { host, fetches, held } of nodes) {
    if (host === undefined || fetches === undefined || held === "parked") continue;
    hosts.set(fetches, (hosts.get(fetches) ?? new Set()).add(host));
  }
  return [...hosts].map(([image, at]) => ({ image, hosts: [...at] }));
}

/** What the operator's planner says is to be done now. */
export function nextActions(seen: PoolObservation): readonly NextAction[] {
  const { name } = seen.pool.metadata;
  return planPool(seen).map((action) => ({
    action: action.type,
    object:
      action.type === "budget"
        ? `PodDisruptionBudget ${name}`
        : action.type === "create"
          ? action.name
          : action.child.metadata.name,
    ...(action.type === "target" ? { digest: action.digest } : {}),
    reason: action.reason,
  }));
}
