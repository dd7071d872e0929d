import type { NodeId } from "../../protocol/keys.ts";
import type { JobState } from "../store/port.ts";
import type { DispatchJob } from "./job.ts";
import { dequeue, enqueue, freeSlot, place, wait } from "./placing.ts";
import { penalties } from "./standing.ts";
import type { DispatchState } from "./state.ts";
import { cancelAttempt, punish, schedule, unschedule } from "./telling.ts";
import type { EndCode } from "./types.ts";

/** Pause in offers to a node that said E_BUSY, or that it lacks the model or a config, ms. */
const busyPauseMs = 1_000;
/** Most reasons that a job remembers; the newest. */
const keptReasons = 24;

/**
 * How long an asynchronous job pauses after it was handed back so many times, ms: at once after the first, then 1 s and
 * twice as long each time. Nodes that refuse it for a day (their disks are full) are not to use up its attempts.
 */
function asyncPause(handBacks: number): number {
  return handBacks <= 1 ? 0 : Math.min(120_000, 1_000 * 2 ** (handBacks - 2));
}

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
  if (job.reasons.length > keptReasons) job.reasons.shift();
  if (failed) job.failures++;
  else job.handBacks++;
  if (job.pinned) {
    endJob(state, job, "INTERRUPTED", "node_lost", reason);
    return;
  }
  const { options } = state;
  const { durable } = job.spec;
  const maxAttempts = durable ? options.asyncMaxAttempts : options.maxAttempts;
  if (job.failures >= options.maxFailures || job.attempt >= maxAttempts) {
    endJob(state, job, "DEAD", "job_failed", job.reasons.join("; "));
    return;
  }
  if (!mayStillCommit) job.token = "";
  // It may wait for a day, and so would what it has of an output; a node that comes back with it sends it anew.
  const node = job.node === undefined ? undefined : state.nodes.get(job.node);
  if (durable && job.received > 0 && !(mayStillCommit && node?.connected)) {
    job.received = 0;
    state.act({ do: "restart", job: job.spec.id });
  }
  const { mono } = state.at;
  wait(state, job);
  if (!durable) job.queueDeadline = Math.min(job.deadline, mono + options.queueMs);
  const { retryMs } = options;
  const handBackMs = durable ? asyncPause(job.handBacks) : 0;
  const pause = failed ? (retryMs[Math.min(job.failures, retryMs.length) - 1] ?? 0) : handBackMs;
  job.retryAt = mono + pause;
  freeSlot(state, job);
  if (pause === 0) {
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
