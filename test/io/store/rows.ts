import type { Attempt, JobRow, NodeRow, ReceiptRow, Submission } from "../../../src/io/store/port.ts";
import type { JobId } from "../../../src/protocol/fields.ts";
import { generateKey, importPrivateKey, type NodeId } from "../../../src/protocol/keys.ts";

/** Rows that tests of stores write, complete but for what a test says of them. */

export const accountKey = "k".repeat(43);

export const jobId = (at: number): JobId => `job-${String(at).padStart(8, "0")}` as JobId;

/** A node of the account `acme`, with a fresh key. */
export function node(change: Partial<NodeRow> = {}): NodeRow {
  const key = importPrivateKey(generateKey());
  return {
    nodeId: String(key.kid) as NodeId,
    kid: key.kid,
    jwk: key.jwk,
    account: "acme",
    registeredAt: 5,
    httpSeq: 0,
    epoch: 0,
    releaseSequence: 0,
    generation: 0,
    revoked: false,
    former: [],
    banned: null,
    jobsCommitted: 0,
    ...change,
  };
}

/** A job that waits, made at the wall time `at`. */
export function job(at: number, change: Partial<JobRow> = {}): JobRow {
  return {
    id: jobId(at),
    consumer: "someone",
    model: "m",
    stream: false,
    durable: false,
    state: "QUEUED",
    attempt: 0,
    node: null,
    createdAt: at,
    finishedAt: null,
    outcome: null,
    httpStatus: null,
    endCode: null,
    error: null,
    relayedBytes: 0,
    promptTokens: 0,
    completionTokens: 0,
    ...change,
  };
}

/** What is kept of the asynchronous job `at` beside its row. */
export function submission(at: number, change: Partial<Submission> = {}): Submission {
  return {
    job: jobId(at),
    idempotency: null,
    inputSha256: "a".repeat(64),
    inputBytes: 7,
    deadline: at + 1_000,
    ...change,
  };
}

/** An attempt at the job `at`. */
export function attempt(at: number, number: number, change: Partial<Attempt> = {}): Attempt {
  return {
    job: jobId(at),
    attempt: number,
    node: "n".repeat(43) as NodeId,
    token: `token-${number}`,
    failures: 0,
    reasons: [],
    ...change,
  };
}

/** The receipt at `index` of the account `acme`, for the job of the same number. */
export function receipt(index: number, nodeId: NodeId, change: Partial<ReceiptRow> = {}): ReceiptRow {
  return {
    account: "acme",
    index,
    job: jobId(index),
    attempt: 1,
    node: nodeId,
    countersign: `c${index}`,
    ...change,
  };
}
