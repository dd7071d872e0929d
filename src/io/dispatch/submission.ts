import { DispatchJob } from "./job.ts";
import { DispatchNode } from "./node.ts";
import { endJob } from "./losing.ts";
import { enqueue, place, wait } from "./placing.ts";
import type { DispatchState } from "./state.ts";
import { schedule } from "./telling.ts";
import type { EventOf } from "./types.ts";

/** A client's job arrives: it waits, or is offered at once. */
export function submitted(state: DispatchState, { job: spec }: EventOf<"submit">): void {
  const { queueMs, jobMs, asyncJobMs } = state.options;
  const job = spec.durable
    ? new DispatchJob(spec, state.at.mono, asyncJobMs, asyncJobMs)
    : new DispatchJob(spec, state.at.mono, queueMs, jobMs);
  begin(state, job);
}

function begin(state: DispatchState, job: DispatchJob): void {
  state.jobs.set(job.spec.id, job);
  wait(state, job);
  enqueue(state, job);
  place(state, job.spec.model);
  schedule(state, job);
}

/**
 * A job that a restarted service finds. Time in which no service ran counts for no lease: the node of its newest attempt
 * has the grace to come back and `resume` it, whatever the lease was before.
 */
export function restored(state: DispatchState, { job: spec, lifeMs, attempt }: EventOf<"restore">): void {
  const { mono } = state.at;
  // A result that is finished and waits at a node is not to expire unheard.
  const life = Math.max(lifeMs, attempt ? state.options.restoreGraceMs : 0);
  const job = new DispatchJob(spec, mono, life, life);
  if (!attempt) {
    begin(state, job);
    return;
  }
  job.state = "OFFERED";
  job.unsure = true;
  job.attempt = attempt.attempt;
  job.token = attempt.token;
  job.node = attempt.node;
  job.failures = attempt.failures;
  job.reasons.push(...attempt.reasons);
  job.tried.add(attempt.node);
  job.offeredAt = mono;
  job.attemptUntil = mono + state.options.asyncAttemptMs + state.options.leaseMs;
  job.leased = true;
  job.leaseUntil = mono + state.options.restoreGraceMs;
  let node = state.nodes.get(attempt.node);
  if (!node) state.nodes.set(attempt.node, (node = new DispatchNode(attempt.node, attempt.account)));
  node.leases.add(spec.id);
  state.jobs.set(spec.id, job);
  schedule(state, job);
}

/** The job's input is lost: no node can do it. */
export function spoiled(state: DispatchState, { job: id, reason }: EventOf<"spoiled">): void {
  const job = state.jobs.get(id);
  if (job && job.state !== "COMMITTED") endJob(state, job, "DEAD", "job_failed", reason);
}

/** The client is gone, or the service gives the job up. What is committed stays so. */
export function abandoned(state: DispatchState, { job: id, reason }: EventOf<"abandon">): void {
  const job = state.jobs.get(id);
  if (job && job.state !== "COMMITTED") endJob(state, job, "CANCELLED", "cancelled", reason);
}
