import type { ConfigDigest, JobId } from "../../protocol/fields.ts";
import type { KeyId, NodeId, PublicJwk } from "../../protocol/keys.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import { CodedError } from "../../lib/errors.ts";

/**
 * What the service must not forget. Everything that a request needs is held in memory from {@link Store.load} on; the
 * store is where it becomes durable, and where what is over is looked up. Two implementations pass one conformance
 * suite (`test/io/store`): SQLite in a worker thread, and memory for tests.
 */

/** A registered node. */
export interface NodeRow {
  readonly nodeId: NodeId;
  /** Current key. */
  readonly kid: KeyId;
  readonly jwk: PublicJwk;
  readonly account: string;
  /** Wall time, ms. */
  readonly registeredAt: number;
  /** Last accepted `seq` of the HTTP envelope. */
  readonly httpSeq: number;
  /** Number of the newest session; 0 = none yet. */
  readonly epoch: number;
  /** Newest release that the node has known. */
  readonly releaseSequence: number;
  /** Of the newest grant that counted; 0 = none. */
  readonly generation: number;
  /** Its account has made the key void. */
  readonly revoked: boolean;
  /** Keys that it had before, oldest first, each with the generation in which it was the node's. */
  readonly former: readonly { readonly jwk: PublicJwk; readonly generation: number }[];
  /** Why it is banned; null = it is not. */
  readonly banned: string | null;
  /** Committed jobs since registration. */
  readonly jobsCommitted: number;
}

/** States of a job (DESIGN §8). */
export const jobStates = [
  "QUEUED",
  "OFFERED",
  "RUNNING",
  "RESULT_RECEIVED",
  "COMMITTED",
  "CONFIRMED",
  "CANCELLED",
  "EXPIRED",
  "INTERRUPTED",
  "DEAD",
] as const;
export type JobState = (typeof jobStates)[number];

/** States that a job does not leave, but for COMMITTED → CONFIRMED. */
export const terminalStates: ReadonlySet<JobState> = new Set([
  "COMMITTED",
  "CONFIRMED",
  "CANCELLED",
  "EXPIRED",
  "INTERRUPTED",
  "DEAD",
]);

/** A job as it is kept: no prompt, no answer. */
export interface JobRow {
  readonly id: JobId;
  readonly consumer: string;
  readonly model: string;
  readonly stream: boolean;
  /** Asynchronous: it has a {@link Submission}, and outlives the service's process. */
  readonly durable: boolean;
  readonly state: JobState;
  /** 0 = never offered. */
  readonly attempt: number;
  /** Node of the current or last attempt. */
  readonly node: NodeId | null;
  /** Wall times, ms. */
  readonly createdAt: number;
  readonly finishedAt: number | null;
  readonly outcome: "completed" | "failed" | null;
  /** HTTP status of the engine's answer, once committed. */
  readonly httpStatus: number | null;
  /** Why it ended without an answer, in the client API's terms. */
  readonly endCode: string | null;
  /** For people: why it ended as it did, with the reasons of each attempt; null where it committed. */
  readonly error: string | null;
  /** Bytes of output relayed to the client. */
  readonly relayedBytes: number;
  /** Tokens that count (bounded by what was relayed). */
  readonly promptTokens: number;
  readonly completionTokens: number;
}

/** One link of an account's chain of countersigned receipts. */
export interface ReceiptRow {
  readonly account: string;
  /** From 1, without gaps. */
  readonly index: number;
  readonly job: JobId;
  readonly attempt: number;
  readonly node: NodeId;
  /** Compact JWS. */
  readonly countersign: string;
}

/** What is kept of an asynchronous job beside its row. */
export interface Submission {
  readonly job: JobId;
  /** SHA-256 (hex) of the client's `Idempotency-Key`; null = none was sent. Unique within a consumer. */
  readonly idempotency: string | null;
  /** SHA-256 (hex) and size of the input. */
  readonly inputSha256: string;
  readonly inputBytes: number;
  /** Wall time at which the job expires, ms. */
  readonly deadline: number;
}

/** An attempt of an asynchronous job. It is on the disk before its node is offered the job. */
export interface Attempt {
  readonly job: JobId;
  readonly attempt: number;
  readonly node: NodeId;
  /** The attempt's fencing token. */
  readonly token: string;
  /** Attempts before that failed by their nodes' fault. */
  readonly failures: number;
  /** Why attempts before ended. */
  readonly reasons: readonly string[];
}

/** An asynchronous job that is not over. */
export interface UnfinishedJob {
  readonly row: JobRow;
  readonly submission: Submission;
  /** The newest attempt; null = it was never offered. */
  readonly attempt: Attempt | null;
}

/** What a body is of its job. */
export const bodyPurposes = ["input", "output"] as const;
export type BodyPurpose = (typeof bodyPurposes)[number];

/** One thing to be kept. */
export type Change =
  /** A new node, without former keys. Changes nothing when the node is there; fails when the key is another node's. */
  | { readonly put: "node"; readonly row: NodeRow }
  /** The node's key from now on; a greater generation lifts a revocation. Fails when it is another node's key. */
  | {
      readonly put: "node-key";
      readonly nodeId: NodeId;
      readonly kid: KeyId;
      readonly jwk: PublicJwk;
      readonly generation: number;
    }
  | { readonly put: "revoke"; readonly nodeId: NodeId }
  | {
      readonly put: "epoch";
      readonly nodeId: NodeId;
      readonly epoch: number;
      readonly releaseSequence: number;
    }
  | { readonly put: "http-seq"; readonly nodeId: NodeId; readonly seq: number }
  | { readonly put: "ban"; readonly nodeId: NodeId; readonly reason: string | null }
  /** `key`: 32 bytes, base64url. Fails when the account exists. */
  | { readonly put: "account"; readonly id: string; readonly key: string }
  | { readonly put: "apikey"; readonly sha256: string; readonly consumer: string; readonly createdAt: number }
  /** Never changes a job that is in a terminal state. */
  | { readonly put: "job"; readonly row: JobRow }
  /** Fails when the job has one, or the consumer has used the idempotency key for another job. After the job's row. */
  | { readonly put: "submission"; readonly submission: Submission }
  /** The job is OFFERED. Never changes a job that is in a terminal state, nor goes back to an earlier attempt. */
  | { readonly put: "attempt"; readonly attempt: Attempt }
  /** Bytes as the service has encrypted them. */
  | {
      readonly put: "body";
      readonly job: JobId;
      readonly purpose: BodyPurpose;
      readonly bytes: Uint8Array;
    }
  /** Tells one key of the bodies from another without giving it away. */
  | { readonly put: "data-key"; readonly check: string }
  /** COMMITTED → CONFIRMED. */
  | { readonly put: "confirmed"; readonly job: JobId }
  /** Fails when the job has a receipt or the index is taken; counts the node's commits. */
  | { readonly put: "receipt"; readonly row: ReceiptRow }
  | { readonly put: "root"; readonly version: number; readonly statement: Statement }
  | { readonly put: "delegation"; readonly statement: Statement }
  | { readonly put: "release"; readonly sequence: number; readonly statement: Statement }
  | { readonly put: "snapshot"; readonly digest: ConfigDigest; readonly text: string };

/** All that is held in memory while the service runs. */
export interface Kept {
  readonly nodes: readonly NodeRow[];
  readonly accounts: readonly { readonly id: string; readonly key: string }[];
  readonly apiKeys: readonly { readonly sha256: string; readonly consumer: string }[];
  /** Ends of the accounts' receipt chains. */
  readonly chains: readonly {
    readonly account: string;
    readonly index: number;
    readonly countersign: string;
  }[];
  /** Newest. */
  readonly root: Statement | null;
  readonly delegation: Statement | null;
  readonly release: Statement | null;
  readonly snapshots: readonly { readonly digest: ConfigDigest; readonly text: string }[];
  /** Asynchronous jobs that are not over, oldest first. */
  readonly unfinished: readonly UnfinishedJob[];
  /** Of the key with which bodies are encrypted; null = none yet. */
  readonly dataKey: string | null;
}

/** What a list of jobs is narrowed to. Newest first. */
export interface JobFilter {
  readonly state?: JobState | undefined;
  readonly consumer?: string | undefined;
  readonly durable?: boolean | undefined;
  /** Only those that come after this job; nothing, if there is no such job. */
  readonly after?: JobId | undefined;
  /** Default 100, at most 10,000. */
  readonly limit?: number | undefined;
}

/** Everything that is kept of a job but its bodies. */
export interface KeptJob {
  readonly row: JobRow;
  readonly receipt: ReceiptRow | null;
  /** Null for a synchronous job. */
  readonly submission: Submission | null;
}

/** `conflict`: a change contradicts what is kept. `unavailable`: the store cannot be written or read now. `corrupt`: its content is not what this version writes. */
export type StoreErrorCode = "conflict" | "unavailable" | "corrupt";
export class StoreError extends CodedError<StoreErrorCode> {}

/** Durable memory of the service. */
export interface Store {
  /** Everything that is held in memory. */
  load(): Promise<Kept>;
  /**
   * Keeps `changes`, all or none, after all earlier writes. Resolves when they survive a power loss.
   * While the disk refuses, it goes on trying: `healthy` is false meanwhile.
   * @throws {StoreError} `conflict`; nothing of this write was kept.
   */
  write(changes: readonly Change[]): Promise<void>;
  /** False while writes do not get through. */
  readonly healthy: boolean;
  /**
   * Synchronous jobs that were under way when the service last ended become CANCELLED with `error`: their clients are
   * gone. Resolves to how many.
   */
  cancelUnfinished(now: number, error: string): Promise<number>;
  jobs(filter: JobFilter): Promise<readonly JobRow[]>;
  job(id: JobId): Promise<KeptJob | undefined>;
  /** The job for which a consumer has used an idempotency key. */
  submitted(consumer: string, idempotency: string): Promise<KeptJob | undefined>;
  /** A job's input or output, as it was written. */
  body(job: JobId, purpose: BodyPurpose): Promise<Uint8Array | undefined>;
  /** An account's receipts from `from` (1 = first), at most `limit`, in order. */
  receipts(account: string, from: number, limit: number): Promise<readonly ReceiptRow[]>;
  /** Forgets terminal jobs that ended before `before` (wall time, ms), and their bodies. Receipts stay. Resolves to how many. */
  prune(before: number): Promise<number>;
  /** Writes what is pending and closes. What the disk goes on refusing meanwhile is given up: `unavailable`. */
  close(): Promise<void>;
}
