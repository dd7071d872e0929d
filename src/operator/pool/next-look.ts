import type { PoolStatus } from "../../api/v1alpha1/pool.ts";
import type { Trial } from "./canary.ts";

type TrialState = NonNullable<PoolStatus["rollout"]>["canary"];

/** Until the cache shows the status just written, ms. */
const settledMs = 250;

/**
 * In how many ms a pool is to be looked at again though nothing happens to it; undefined = not. Figures of a trial come with
 * no event of their own, and its end changes the plan by way of the status, whose own changes queue nothing.
 */
export function nextLookMs(trial: Trial, before: TrialState, after: TrialState): number | undefined {
  if (trial.state === "running") return trial.againInMs;
  return before === after ? undefined : settledMs;
}
