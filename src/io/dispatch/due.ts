import type { DispatchJob } from "./job.ts";
import { endJob, loseAttempt } from "./losing.ts";
import { enqueue, place, placeOn } from "./placing.ts";
import { penalties } from "./standing.ts";
import type { DispatchState, Due } from "./state.ts";
import { punish } from "./telling.ts";

/** Does what has fallen due. */
export function timePassed(state: DispatchState): void {
  for (let due = state.agenda.take(state.at.mono); due; due = state.agenda.take(state.at.mono)) {
    if (due.due === "poke") placeOn(state, due.node);
    else if (state.jobs.get(due.job.spec.id) === due.job && due.job.state !== "COMMITTED") dueJob(state, due);
  }
}

function dueJob(state: DispatchState, due: Exclude<Due, { due: "poke" }>): void {
  const { job } = due;
  switch (due.due) {
    case "lease":
      if (job.leased && job.attempt === due.attempt) leaseDue(state, job);
      return;
    case "retry":
      if (job.state !== "QUEUED" || job.attempt !== due.attempt || job.queued) return;
      enqueue(state, job);
      place(state, job.spec.model);
      return;
    case "queue":
      if (job.state !== "QUEUED" || job.queueDeadline > state.at.mono) return;
      endJob(state, job, "EXPIRED", "no_capacity", whyWaiting(state, job));
      return;
    case "deadline":
      endJob(state, job, "EXPIRED", "timeout", "the job took longer than a job may");
      return;
    default:
      due satisfies never;
  }
}

function leaseDue(state: DispatchState, job: DispatchJob): void {
  const { mono } = state.at;
  const node = job.node === undefined ? undefined : state.nodes.get(job.node);
  if (job.leaseUntil > mono || (node?.connected && !node.resumed)) {
    // Renewed since; or its node is back and has not yet said what it still holds.
    const again = job.leaseUntil > mono ? job.leaseUntil : mono + 1_000;
    state.agenda.add(again, { due: "lease", job, attempt: job.attempt });
    return;
  }
  if (node?.connected) punish(state, node.id, penalties.leaseLost);
  loseAttempt(state, job, "lease lost", { failed: true, mayStillCommit: true });
}

function whyWaiting(state: DispatchState, job: DispatchJob): string {
  const tried = job.reasons.length > 0 ? `; ${job.reasons.join("; ")}` : "";
  return `no node was free for model ${job.spec.model} in ${Math.round(state.options.queueMs / 1000)} s${tried}`;
}
