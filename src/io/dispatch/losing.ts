import type { NodeId } from "../../protocol/keys.ts";
import type { JobState } from "../store/port.ts";
import type { DispatchJob } from "./job.ts";
import { dequeue, enqueue, freeSlot, place } from "./placing.ts";
import { penalties } from "./standing.ts";
import type { DispatchState } from "./state.ts";
import { cancelAttempt, punish, schedule, unschedule } from "./telling.ts";
import type { EndCode } from "./types.ts";

/** Pause in offers to a node that said E_BUSY, or that it lacks the model or a config, ms. */
const busyPauseMs = 1_000;

/**
 * An attempt is over without a result: back to the queue, or the end. `mayStillCommit`: its lease ran out, but until
 * the next attempt is offered its result is welcome.
 */
export function loseAttempt(
  state: DispatchState,
  job: DispatchJob,
  reason: string,
  { failed, mayStillCommit = false }: { readonly failed: boolean; readonly mayStillCommit?: boolean },
): void {
  if (job.state === "QUEUED") {
    // Its lease had run out, and it waits already; the attempt gives itself up as well.
    job.token = "";
    return;
  }
  job.reasons.push(`attempt ${job.attempt} on ${job.node ?? "?"}: ${reason}`);
  if (failed) job.failures++;
  if (job.pinned) {
    endJob(state, job, "INTERRUPTED", "node_lost", reason);
    return;
  }
  if (job.failures >= state.options.maxFailures || job.attempt >= state.options.maxAttempts) {
    endJob(state, job, "DEAD", "job_failed", job.reasons.join("; "));
    return;
  }
  if (!mayStillCommit) job.token = "";
  const { mono } = state.at;
  job.state = "QUEUED";
  state.queued++;
  job.queueDeadline = Math.min(job.deadline, mono + state.options.queueMs);
  const { retryMs } = state.options;
  const wait = failed ? (retryMs[Math.min(job.failures, retryMs.length) - 1] ?? 0) : 0;
  job.retryAt = mono + wait;
  freeSlot(state, job);
  if (wait === 0) {
    enqueue(state, job);
    place(state, job.spec.model);
  }
  schedule(state, job);
}

/** The job ends without a commit. */
export function endJob(
  state: DispatchState,
  job: DispatchJob,
  as: JobState,
  code: EndCode,
  reason: string,
): void {
  if (job.token !== "") cancelAttempt(state, job, reason);
  dequeue(state, job, false);
  job.state = as;
  state.jobs.delete(job.spec.id);
  unschedule(state, job);
  state.act({ do: "end", job: job.spec.id, state: as, code, reason });
  freeSlot(state, job);
}

/** A node gives a job up. Only what is its own failing counts against the job's attempts. */
export function handedBack(
  state: DispatchState,
  job: DispatchJob,
  nodeId: NodeId,
  code: string,
  reason: string,
): void {
  const failed = code === "E_ENGINE" || code === "E_SCHEMA" || code === "E_SIG";
  if (code === "E_ENGINE") punish(state, nodeId, penalties.engine);
  const node = state.nodes.get(nodeId);
  if (node && !failed) {
    node.busyUntil = state.at.mono + busyPauseMs;
    state.agenda.add(node.busyUntil, { node });
  }
  loseAttempt(state, job, `${code}: ${reason}`, { failed });
}
