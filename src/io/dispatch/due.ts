import type { DispatchJob } from "./job.ts";
import { endJob, loseAttempt } from "./losing.ts";
import { enqueue, place, placeOn } from "./placing.ts";
import { penalties } from "./standing.ts";
import type { DispatchState } from "./state.ts";
import { cancelAttempt, punish, schedule } from "./telling.ts";

/** Does what has fallen due. */
export function timePassed(state: DispatchState): void {
  for (;;) {
    const due = state.agenda.take(state.at.mono);
    if (!due) return;
    if ("node" in due) {
      placeOn(state, due.node);
      continue;
    }
    due.job.entry = undefined;
    jobDue(state, due.job);
    if (state.jobs.has(due.job.spec.id)) schedule(state, due.job);
  }
}

/** At most one of these is done at a time: each changes what the others look at. */
function jobDue(state: DispatchState, job: DispatchJob): void {
  const { mono } = state.at;
  if (job.state === "QUEUED" && job.queueDeadline <= mono) {
    endJob(state, job, "EXPIRED", "no_capacity", whyWaiting(state, job));
  } else if (job.deadline <= mono) {
    endJob(state, job, "EXPIRED", "timeout", "the job took longer than a job may");
  } else if (job.state === "QUEUED") {
    if (!job.queued && job.retryAt <= mono) {
      enqueue(state, job);
      place(state, job.spec.model);
    }
  } else if (job.attemptUntil <= mono) {
    attemptDue(state, job);
  } else if (job.leased && job.leaseUntil <= mono) {
    leaseDue(state, job);
  }
}

/** Its node was told when to give up, and nothing was heard of that for a lease's time. */
function attemptDue(state: DispatchState, job: DispatchJob): void {
  cancelAttempt(state, job, "the attempt took longer than one may");
  loseAttempt(state, job, "it took longer than an attempt may", { failed: true });
}

function leaseDue(state: DispatchState, job: DispatchJob): void {
  const node = job.node === undefined ? undefined : state.nodes.get(job.node);
  if (node?.connected && !node.resumed) {
    // Its node is back and has not yet said what it still holds.
    job.leaseUntil = state.at.mono + 1_000;
    return;
  }
  if (node?.connected && !job.unsure) punish(state, node.id, penalties.leaseLost);
  loseAttempt(state, job, "lease lost", { failed: !job.unsure, mayStillCommit: true });
}

function whyWaiting(state: DispatchState, job: DispatchJob): string {
  const tried = job.reasons.length > 0 ? `; ${job.reasons.join("; ")}` : "";
  const { asyncJobMs, queueMs } = state.options;
  const seconds = Math.round((job.spec.durable ? asyncJobMs : queueMs) / 1000);
  return `no node was free for model ${job.spec.model} in ${seconds} s${tried}`;
}
