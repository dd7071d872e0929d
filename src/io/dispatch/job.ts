import type { AgendaEntry } from "./agenda.ts";
import type { Due } from "./state.ts";
import type { NodeId } from "../../protocol/keys.ts";
import type { JobState } from "../store/port.ts";
import type { From, JobSpec, LeaseRef } from "./types.ts";

/** A job that is not over, as dispatch holds it. Times are monotonic ms. */
export class DispatchJob {
  readonly spec: JobSpec;
  readonly submittedAt: number;
  /** End of the whole job, and of its waiting. */
  readonly deadline: number;
  queueDeadline: number;
  state: JobState = "QUEUED";
  /** Number of the current attempt; 0 = never offered. Only grows. */
  attempt = 0;
  /** Attempts that failed by the node's fault. */
  failures = 0;
  /** Node and process of the current attempt. */
  node: NodeId | undefined;
  instance = "";
  /** The current attempt's fencing token; "" = the attempt has been given up, nothing of it is believed. */
  token = "";
  /** Whether the node holds the lease; an attempt whose lease ran out may still commit until the next is offered. */
  leased = false;
  leaseUntil = 0;
  offeredAt = 0;
  /** When the current attempt is given up; its node was told to do that a lease's time earlier. */
  attemptUntil = Infinity;
  /**
   * Whether the node may have never been told of the current attempt: it is on its way to the disk, or it is from before
   * a restart and has not been heard of since.
   */
  unsure = false;
  /** Times that it was handed back without a failure. */
  handBacks = 0;
  /** Bytes of the current attempt's output. */
  received = 0;
  /** Bytes of this attempt have been shown to the client: no other attempt can follow. */
  pinned = false;
  /** Whether it is in its model's queue (not: waiting for its retry). */
  queued = false;
  /** When it goes back into the queue after a failed attempt. */
  retryAt = 0;
  /** Its one entry in the agenda, at or before the time at which something is due. */
  entry: AgendaEntry<Due> | undefined;
  readonly tried = new Set<NodeId>();
  /** Why each attempt ended. */
  readonly reasons: string[] = [];

  /** @param queueMs longest wait. @param jobMs longest life. */
  constructor(spec: JobSpec, submittedAt: number, queueMs: number, jobMs: number) {
    this.spec = spec;
    this.submittedAt = submittedAt;
    this.deadline = submittedAt + jobMs;
    this.queueDeadline = Math.min(this.deadline, submittedAt + queueMs);
  }

  /** When to look at the job next: end of waiting, retry, lease or deadline, whichever is first. */
  get nextDue(): number {
    if (this.state === "QUEUED") {
      return Math.min(this.queueDeadline, this.queued ? Infinity : this.retryAt, this.deadline);
    }
    const attempt = Math.min(this.attemptUntil, this.deadline);
    return this.leased ? Math.min(this.leaseUntil, attempt) : attempt;
  }

  /** The fence: whether something that `from` says under this lease is about the current attempt. Reads no clock. */
  admits(from: From, lease: Omit<LeaseRef, "job">): boolean {
    return (
      this.token !== "" &&
      this.token === lease.token &&
      this.attempt === lease.attempt &&
      this.node === from.node &&
      (this.state === "OFFERED" || this.state === "RUNNING" || this.state === "QUEUED")
    );
  }

  /** Whether the job's commit, on its way to the disk, is that of this node's attempt. */
  isCommitOf(from: From, attempt: number): boolean {
    return this.state === "COMMITTED" && this.attempt === attempt && this.node === from.node;
  }
}
