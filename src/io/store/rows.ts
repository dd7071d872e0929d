import type { SQLOutputValue } from "node:sqlite";
import type { JobId } from "../../protocol/fields.ts";
import type { KeyId, NodeId, PublicJwk } from "../../protocol/keys.ts";
import {
  type Attempt,
  type JobRow,
  type JobState,
  jobStates,
  type NodeRow,
  type ReceiptRow,
  StoreError,
  type Submission,
} from "./port.ts";

/** A row as SQLite gives it. */
export type Row = Record<string, SQLOutputValue>;

export const text = (row: Row, name: string): string => String(row[name]);
export const number = (row: Row, name: string): number => Number(row[name]);
const orNull = (row: Row, name: string): string | null => (row[name] === null ? null : String(row[name]));
const numberOrNull = (row: Row, name: string): number | null =>
  row[name] === null ? null : Number(row[name]);

export function jwkOf(row: Row): PublicJwk {
  return { kty: "OKP", crv: "Ed25519", x: text(row, "x") };
}

export function nodeOf(row: Row, former: NodeRow["former"]): NodeRow {
  return {
    nodeId: text(row, "node_id") as NodeId,
    kid: text(row, "kid") as KeyId,
    jwk: jwkOf(row),
    account: text(row, "account"),
    registeredAt: number(row, "registered_at"),
    httpSeq: number(row, "http_seq"),
    epoch: number(row, "epoch"),
    releaseSequence: number(row, "release_sequence"),
    generation: number(row, "generation"),
    revoked: number(row, "revoked") === 1,
    former,
    banned: orNull(row, "banned"),
    jobsCommitted: number(row, "jobs_committed"),
  };
}

function stateOf(value: string): JobState {
  const state = jobStates.find((known) => known === value);
  if (!state) throw new StoreError("corrupt", "store: a job has an unknown state");
  return state;
}

export function jobOf(row: Row): JobRow {
  const outcome = orNull(row, "outcome");
  const node = orNull(row, "node");
  return {
    id: text(row, "id") as JobId,
    consumer: text(row, "consumer"),
    model: text(row, "model"),
    stream: number(row, "stream") === 1,
    durable: number(row, "durable") === 1,
    state: stateOf(text(row, "state")),
    attempt: number(row, "attempt"),
    node: node === null ? null : (node as NodeId),
    createdAt: number(row, "created_at"),
    finishedAt: numberOrNull(row, "finished_at"),
    outcome: outcome === "completed" || outcome === "failed" ? outcome : null,
    httpStatus: numberOrNull(row, "http_status"),
    endCode: orNull(row, "end_code"),
    error: orNull(row, "error"),
    relayedBytes: number(row, "relayed_bytes"),
    promptTokens: number(row, "prompt_tokens"),
    completionTokens: number(row, "completion_tokens"),
  };
}

export function receiptOf(row: Row): ReceiptRow {
  return {
    account: text(row, "account"),
    index: number(row, "idx"),
    job: text(row, "job") as JobId,
    attempt: number(row, "attempt"),
    node: text(row, "node") as NodeId,
    countersign: text(row, "countersign"),
  };
}

export function submissionOf(row: Row): Submission {
  return {
    job: text(row, "job") as JobId,
    idempotency: orNull(row, "idempotency"),
    inputSha256: text(row, "input_sha256"),
    inputBytes: number(row, "input_bytes"),
    deadline: number(row, "deadline"),
  };
}

export function attemptOf(row: Row): Attempt {
  const reasons: unknown = JSON.parse(text(row, "reasons"));
  return {
    job: text(row, "job") as JobId,
    attempt: number(row, "attempt"),
    node: text(row, "node") as NodeId,
    token: text(row, "token"),
    failures: number(row, "failures"),
    reasons: Array.isArray(reasons) ? reasons.map(String) : [],
  };
}
