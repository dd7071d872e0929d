import { DispatchJob } from "./job.ts";
import { endJob } from "./losing.ts";
import { enqueue, place } from "./placing.ts";
import type { DispatchState } from "./state.ts";
import { schedule } from "./telling.ts";
import type { EventOf } from "./types.ts";

/** A client's job arrives: it waits, or is offered at once. */
export function submitted(state: DispatchState, { job: spec }: EventOf<"submit">): void {
  const { queueMs, jobMs } = state.options;
  const job = new DispatchJob(spec, state.at.mono, queueMs, jobMs);
  state.jobs.set(spec.id, job);
  state.queued++;
  enqueue(state, job);
  place(state, spec.model);
  schedule(state, job);
}

/** The client is gone, or the service gives the job up. What is committed stays so. */
export function abandoned(state: DispatchState, { job: id, reason }: EventOf<"abandon">): void {
  const job = state.jobs.get(id);
  if (job && job.state !== "COMMITTED") endJob(state, job, "CANCELLED", "cancelled", reason);
}
