import type { NackCode } from "../../protocol/codes.ts";
import type { ConfigDigest, JobId } from "../../protocol/fields.ts";
import type { NodeId } from "../../protocol/keys.ts";
import type { Payload, Report } from "../../protocol/messages.ts";
import type { JobState } from "../store/port.ts";

/**
 * The vocabulary of dispatch: what can happen to it (events) and what it wants done (actions). Times: `mono` in ms of a
 * monotonic clock, for every deadline; `wall` in ms since the epoch, for what others have written (config expiry).
 */

/** The moment at which an event happens. */
export interface Instant {
  readonly mono: number;
  readonly wall: number;
}

/** What a client asks for. */
export interface JobSpec {
  readonly id: JobId;
  readonly consumer: string;
  readonly model: string;
  readonly stream: boolean;
  /** Asynchronous: nobody waits on a connection, it outlives this process, its attempts are on the disk before offers. */
  readonly durable: boolean;
}

/** The newest attempt of a job that a restarted service finds. */
export interface RestoredAttempt {
  readonly attempt: number;
  readonly node: NodeId;
  /** Account of the node. */
  readonly account: string;
  readonly token: string;
  readonly failures: number;
  readonly reasons: readonly string[];
}

/** How a job's message names its lease. */
export interface LeaseRef {
  readonly job: JobId;
  readonly attempt: number;
  readonly token: string;
}

/** Who says something about a job: a session of a node. Frames of an older session are not heard. */
export interface From {
  readonly node: NodeId;
  readonly epoch: number;
}

export type DispatchEvent =
  | { readonly on: "submit"; readonly job: JobSpec }
  /**
   * An asynchronous job that a restarted service finds, `lifeMs` before its deadline. Its node, which may hold it or its
   * result, has a while to come back.
   */
  | {
      readonly on: "restore";
      readonly job: JobSpec;
      readonly lifeMs: number;
      readonly attempt: RestoredAttempt | null;
    }
  /** Answer to the action `keep-attempt`: it is on the disk. */
  | { readonly on: "attempt-kept"; readonly job: JobId; readonly attempt: number }
  /** The job's input cannot be had any more. */
  | { readonly on: "spoiled"; readonly job: JobId; readonly reason: string }
  /** The client is gone, or the service gives the job up. */
  | { readonly on: "abandon"; readonly job: JobId; readonly reason: string }
  | {
      readonly on: "open";
      readonly from: From;
      readonly account: string;
      /** Random id of the agent's process. */
      readonly instance: string;
    }
  /** `orderly`: it said goodbye. */
  | { readonly on: "close"; readonly from: From; readonly orderly: boolean }
  | { readonly on: "report"; readonly from: From; readonly report: Report }
  | { readonly on: "renew"; readonly from: From; readonly leases: readonly LeaseRef[] }
  | {
      readonly on: "resume";
      readonly from: From;
      readonly jobs: Payload<"resume">["jobs"];
      readonly last: boolean;
      /** Of those that dispatch no longer holds, the ones that the store knows as committed by this attempt: receipts. */
      readonly committed: ReadonlyMap<JobId, string>;
    }
  | { readonly on: "accept"; readonly from: From; readonly lease: LeaseRef }
  | {
      readonly on: "chunk";
      readonly from: From;
      readonly lease: LeaseRef;
      readonly offset: number;
      readonly bytes: number;
      /** The client sees these bytes at once: from then on the attempt is pinned. */
      readonly visible: boolean;
    }
  | { readonly on: "result"; readonly from: From; readonly lease: LeaseRef }
  /** Answer to the action `verify`. */
  | {
      readonly on: "verified";
      readonly job: JobId;
      readonly attempt: number;
      readonly verdict: ResultVerdict;
    }
  /** The commit of a job has reached the disk. */
  | { readonly on: "durable"; readonly job: JobId }
  | {
      readonly on: "nack";
      readonly from: From;
      readonly lease: LeaseRef;
      readonly code: NackCode;
      readonly reason: string;
    }
  | { readonly on: "release"; readonly allowed: readonly Allowed[] }
  | { readonly on: "ban"; readonly node: NodeId; readonly banned: boolean }
  /** Time has passed; `nextDue` said when. */
  | { readonly on: "tick" };

/** An event of one kind. */
export type EventOf<K extends DispatchEvent["on"]> = Extract<DispatchEvent, { readonly on: K }>;

/** A config that nodes may run, and until when (wall time, ms). */
export interface Allowed {
  readonly digest: ConfigDigest;
  readonly expires: number;
}

/**
 * What checking a result has shown. `sound`: it may be committed. `retry`: honest, but no answer for a client (the
 * engine failed). `refused`: it contradicts what was relayed, or its receipt is not sound.
 */
export type ResultVerdict =
  | { readonly is: "sound" }
  | { readonly is: "retry"; readonly code: NackCode; readonly reason: string }
  | { readonly is: "refused"; readonly reason: string };

/** Why a job ended without a result; the client's error has it as `code`. */
export type EndCode =
  | "node_lost"
  | "no_capacity"
  | "job_failed"
  | "timeout"
  | "cancelled"
  | "output_too_large";

export type DispatchAction =
  /** Of an asynchronous job: the attempt is to be on the disk before its node hears of it. */
  | {
      readonly do: "keep-attempt";
      readonly job: JobId;
      readonly attempt: number;
      readonly node: NodeId;
      readonly token: string;
      readonly failures: number;
      readonly reasons: readonly string[];
    }
  | {
      readonly do: "offer";
      readonly to: From;
      readonly job: JobId;
      readonly attempt: number;
      readonly token: string;
      readonly deadlineMs: number;
    }
  | {
      readonly do: "cancel";
      readonly to: From;
      readonly job: JobId;
      readonly attempt: number;
      readonly reason: string;
    }
  /** The chunk just given continues the output; its first `skip` bytes are known already. */
  | { readonly do: "relay"; readonly job: JobId; readonly skip: number }
  /** The output so far, of which nothing was relayed, is void: another attempt begins. */
  | { readonly do: "restart"; readonly job: JobId }
  | { readonly do: "verify"; readonly job: JobId; readonly attempt: number }
  /** The one commit of the job. */
  | { readonly do: "commit"; readonly job: JobId; readonly attempt: number; readonly node: NodeId }
  | {
      readonly do: "ack";
      readonly to: From;
      readonly job: JobId;
      readonly attempt: number;
      readonly status: "committed" | "stale" | "refused";
    }
  /** A result for a job that dispatch no longer holds: the store knows its fate. */
  | { readonly do: "look-up"; readonly to: From; readonly job: JobId; readonly attempt: number }
  | {
      readonly do: "verdict";
      readonly to: From;
      readonly jobs: Payload<"verdict">["jobs"];
      readonly last: boolean;
    }
  | {
      readonly do: "lost";
      readonly to: From;
      readonly leases: readonly { readonly job: JobId; readonly attempt: number }[];
    }
  /** The job ended without a commit. */
  | {
      readonly do: "end";
      readonly job: JobId;
      readonly state: JobState;
      readonly code: EndCode;
      readonly reason: string;
    }
  /** What the network shows of a node has changed. */
  | { readonly do: "node-changed"; readonly node: NodeId };

/** Intervals and bounds of dispatch. */
export interface DispatchOptions {
  /** Life of a lease that nobody renews. Default 30,000. */
  readonly leaseMs: number;
  /** What is left of the lease of a job with nothing relayed, once its node's session has closed. Default 10,000. */
  readonly disconnectGraceMs: number;
  /** Waits before attempt 2, 3, 4. Default 1, 5, 30 s. */
  readonly retryMs: readonly number[];
  /** Failed attempts after which a job is DEAD. Default 3. */
  readonly maxFailures: number;
  /** Attempts of any outcome (a busy or draining node hands back without failing). Default 20. */
  readonly maxAttempts: number;
  /** Longest wait in the queue before the first offer, and in all. Default 60 s. */
  readonly queueMs: number;
  /** Longest life of a job. Default 10 min. */
  readonly jobMs: number;
  /** Most queued jobs: of all, and of one consumer. Default 1024, 512. */
  readonly maxQueued: number;
  readonly maxQueuedPerConsumer: number;
  /** Age at which a report no longer counts. Default 3 heartbeats. */
  readonly freshMs: number;
  /** Most bytes of one job's output. Default 32 MiB. */
  readonly maxOutputBytes: number;
  /** Longest life of an asynchronous job, all of which it may wait. Default 24 h. */
  readonly asyncJobMs: number;
  /**
   * Longest time of one attempt at an asynchronous job: an engine that hangs is not to hold it for its whole life.
   * Default 1 h.
   */
  readonly asyncAttemptMs: number;
  /** Attempts of any outcome of an asynchronous job; the protocol's field ends at 1000. Default 1000. */
  readonly asyncMaxAttempts: number;
  /** How long the attempts of restored jobs wait for their nodes. Default 45,000. */
  readonly restoreGraceMs: number;
}

export const dispatchDefaults: DispatchOptions = {
  leaseMs: 30_000,
  disconnectGraceMs: 10_000,
  retryMs: [1_000, 5_000, 30_000],
  maxFailures: 3,
  maxAttempts: 20,
  queueMs: 60_000,
  jobMs: 600_000,
  maxQueued: 1024,
  maxQueuedPerConsumer: 512,
  freshMs: 30_000,
  maxOutputBytes: 32 * 1024 * 1024,
  asyncJobMs: 86_400_000,
  asyncAttemptMs: 3_600_000,
  asyncMaxAttempts: 1_000,
  restoreGraceMs: 45_000,
};
