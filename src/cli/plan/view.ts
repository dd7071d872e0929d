import { type PoolAction, type PoolObservation, planPool, wantedDigest } from "../../operator/pool/plan.ts";
import { type Forecast, forecast } from "./forecast.ts";
import { waitsOf } from "./waits.ts";

/** One action of the operator, for people and programs. */
export interface NextAction {
  readonly action: PoolAction["type"];
  /** What it is done to: a node, or the pool's PodDisruptionBudget. */
  readonly object: string;
  /** Config that a node is told. */
  readonly digest?: string;
  readonly reason: string;
}

/** What `plan` tells; with `-o json` as it is. */
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
  /** What the operator does when it looks next. */
  readonly next: readonly NextAction[];
  readonly waits: readonly string[];
}

/** Steps that are carried forward. */
export const mostSteps = 200;

/** The plan of a pool as it is seen. */
export function planView(seen: PoolObservation): PlanView {
  const { pool } = seen;
  const ahead = forecast(seen, mostSteps);
  const target = wantedDigest(seen);
  return {
    namespace: pool.metadata.namespace,
    name: pool.metadata.name,
    network: pool.spec.template.spec.networkRef.name,
    wanted: pool.spec.replicas,
    children: seen.children.length,
    ...(target === undefined ? {} : { target }),
    maxUnavailable: pool.spec.strategy.rollingUpdate.maxUnavailable,
    paused: pool.spec.strategy.paused,
    next: nextActions(seen),
    waits: waitsOf(seen, ahead),
    ...ahead,
  };
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
