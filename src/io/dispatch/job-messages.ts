import type { JobId } from "../../protocol/fields.ts";
import type { NodeId } from "../../protocol/keys.ts";
import type { DispatchJob } from "./job.ts";
import { endJob, handedBack, loseAttempt } from "./losing.ts";
import type { DispatchNode } from "./node.ts";
import { dequeue, freeSlot, leaseTo, sendOffer } from "./placing.ts";
import { penalties } from "./standing.ts";
import type { DispatchState } from "./state.ts";
import { cancelAttempt, punish, schedule, unschedule } from "./telling.ts";
import type { EventOf, From, LeaseRef, ResultVerdict } from "./types.ts";

/** The job that a message is about, if the fence admits it; a message of a job renews its lease. */
export function liveJob(state: DispatchState, from: From, lease: LeaseRef): DispatchJob | undefined {
  const node = speaker(state, from);
  const job = state.jobs.get(lease.job);
  if (!node || !job?.admits(from, lease)) return undefined;
  if (job.leased) {
    job.leaseUntil = state.at.mono + state.options.leaseMs;
  } else {
    // Its lease had run out, but nobody else has been offered it yet.
    dequeue(state, job, false);
    leaseTo(state, job, node);
  }
  job.state = "RUNNING";
  job.unsure = false;
  return job;
}

/** The node that speaks, if this is its newest session; frames of an older one are not heard. */
export function speaker(state: DispatchState, from: From): DispatchNode | undefined {
  const node = state.nodes.get(from.node);
  return node?.epoch === from.epoch && node.connected ? node : undefined;
}

/** Output of a job. */
export function chunkCame(
  state: DispatchState,
  { from, lease, offset, bytes, visible }: EventOf<"chunk">,
): void {
  const job = liveJob(state, from, lease);
  if (!job) return;
  if (offset > job.received) {
    punish(state, from.node, penalties.refused);
    cancelAttempt(state, job, "output has a gap");
    loseAttempt(state, job, `output has a gap at byte ${job.received}`, { failed: true });
    return;
  }
  const end = offset + bytes;
  if (end <= job.received) return;
  if (end > state.options.maxOutputBytes) {
    const limit = state.options.maxOutputBytes;
    endJob(
      state,
      job,
      job.pinned ? "INTERRUPTED" : "DEAD",
      "output_too_large",
      `output is larger than ${limit} bytes`,
    );
    return;
  }
  state.act({ do: "relay", job: job.spec.id, skip: job.received - offset });
  job.received = end;
  if (visible) job.pinned = true;
}

/** The end of a job's output: to be verified, or looked up where dispatch no longer holds the job. */
export function resultCame(state: DispatchState, { from, lease }: EventOf<"result">): void {
  if (!speaker(state, from)) return;
  const job = liveJob(state, from, lease);
  if (job) {
    job.state = "RESULT_RECEIVED";
    state.act({ do: "verify", job: job.spec.id, attempt: job.attempt });
    return;
  }
  const known = state.jobs.get(lease.job);
  if (!known) {
    state.act({ do: "look-up", to: from, job: lease.job, attempt: lease.attempt });
  } else if (!known.isCommitOf(from, lease.attempt)) {
    state.act({ do: "ack", to: from, job: lease.job, attempt: lease.attempt, status: "stale" });
  }
  // A commit on its way to the disk is acknowledged when it is there.
}

/** What verification has shown decides: commit, or the loss of the attempt. */
export function resultVerified(
  state: DispatchState,
  { job: id, attempt, verdict }: EventOf<"verified">,
): void {
  const job = state.jobs.get(id);
  if (!job || job.state !== "RESULT_RECEIVED" || job.attempt !== attempt || job.node === undefined) return;
  if (verdict.is === "sound") {
    commitJob(state, job, job.node);
    return;
  }
  refuseResult(state, job, job.node, verdict);
}

function commitJob(state: DispatchState, job: DispatchJob, nodeId: NodeId): void {
  const { mono } = state.at;
  const took = mono - job.offeredAt;
  state.nodes.get(nodeId)?.observeLatency(took, mono);
  state.fleetLatency = state.fleetLatency === 0 ? took : state.fleetLatency * 0.95 + took * 0.05;
  job.state = "COMMITTED";
  unschedule(state, job);
  state.act({ do: "commit", job: job.spec.id, attempt: job.attempt, node: nodeId });
  freeSlot(state, job);
}

function refuseResult(
  state: DispatchState,
  job: DispatchJob,
  nodeId: NodeId,
  verdict: Exclude<ResultVerdict, { is: "sound" }>,
): void {
  const status = verdict.is === "refused" ? "refused" : "stale";
  const node = state.nodes.get(nodeId);
  if (node) {
    const to = { node: nodeId, epoch: node.epoch };
    state.act({ do: "ack", to, job: job.spec.id, attempt: job.attempt, status });
  }
  if (verdict.is === "refused") {
    punish(state, nodeId, penalties.refused);
    loseAttempt(state, job, `result refused: ${verdict.reason}`, { failed: true });
  } else {
    handedBack(state, job, nodeId, verdict.code, verdict.reason);
  }
}

/** The commit is on the disk: now, and not before, its node may forget the result. */
export function commitDurable(state: DispatchState, id: JobId): void {
  const job = state.jobs.get(id);
  if (job?.state !== "COMMITTED") return;
  job.state = "CONFIRMED";
  state.jobs.delete(id);
  const node = job.node === undefined ? undefined : state.nodes.get(job.node);
  if (!node) return;
  const to = { node: node.id, epoch: node.epoch };
  state.act({ do: "ack", to, job: id, attempt: job.attempt, status: "committed" });
}

/** A node hands a job back. */
export function nackCame(state: DispatchState, { from, lease, code, reason }: EventOf<"nack">): void {
  if (!speaker(state, from)) return;
  const job = state.jobs.get(lease.job);
  if (job?.admits(from, lease)) handedBack(state, job, from.node, code, reason);
}

/** An attempt of an asynchronous job is on the disk: its node is told, if it is still there. */
export function attemptKept(state: DispatchState, id: JobId, attempt: number): void {
  const job = state.jobs.get(id);
  if (job?.state !== "OFFERED" || job.attempt !== attempt || job.leaseUntil !== Infinity) return;
  const node = job.node === undefined ? undefined : state.nodes.get(job.node);
  if (!node?.connected || !node.resumed) {
    loseAttempt(state, job, "its node went before it was offered", { failed: false });
    return;
  }
  job.unsure = false;
  job.offeredAt = state.at.mono;
  job.leaseUntil = state.at.mono + state.options.leaseMs;
  job.attemptUntil = state.at.mono + state.options.asyncAttemptMs + state.options.leaseMs;
  schedule(state, job);
  sendOffer(state, job, node);
}

/** A heartbeat's leases; those that are no longer the node's are named in the answer. */
export function renewed(state: DispatchState, { from, leases }: EventOf<"renew">): void {
  if (!speaker(state, from)) return;
  const lost = leases.filter(
    (lease) => !liveJob(state, from, lease) && !state.jobs.get(lease.job)?.isCommitOf(from, lease.attempt),
  );
  state.act({ do: "lost", to: from, leases: lost.map(({ job, attempt }) => ({ job, attempt })) });
}
