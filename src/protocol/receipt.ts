import { createHash } from "node:crypto";
import * as z from "zod/mini";
import { ProtocolError } from "./codes.ts";
import {
  attemptField,
  bytes32Field,
  countField,
  digestField,
  durationField,
  jobIdField,
  modelField,
  nameField,
  nodeIdField,
  sha256Field,
  timeField,
} from "./fields.ts";
import { parsePayload } from "./frame.ts";
import { type KeyOrKeys, signJws, splitJws, verifyJws } from "./jws.ts";
import type { SigningKey, VerifyKey } from "./keys.ts";

/** `typ` of a receipt as the node signs it, and of the service's countersignature. */
export const receiptTyp = "rn1.receipt";
export const countersignTyp = "rn1.countersign";

/** What a data centre earns by: one job that a node has done, in the node's words. */
export const receiptSchema = z.object({
  network: nameField,
  job: jobIdField,
  attempt: attemptField,
  node_id: nodeIdField,
  /** Account of the node, which earns. */
  account: nameField,
  /** Account of the client, which pays. */
  consumer: nameField,
  model: modelField,
  config_digest: digestField,
  input_sha256: sha256Field,
  output_sha256: sha256Field,
  prompt_tokens: countField,
  completion_tokens: countField,
  duration_ms: durationField,
  outcome: z.enum(["completed", "failed"]),
  time: timeField,
});
export type Receipt = z.infer<typeof receiptSchema>;

/**
 * The service's signature over a node's receipt, and its place in the account's chain: `prev` is the hash of the
 * account's countersignature before this one (32 zero bytes for the first), so none can be taken out later.
 */
export const countersignSchema = z.object({
  receipt: z.string().check(z.maxLength(4096)),
  account: nameField,
  index: z.int().check(z.minimum(1)),
  prev: bytes32Field,
  /** Tokens that the service counts: what the node claims, bounded by the bytes that the service sent it and relayed. */
  metered: z.object({ prompt_tokens: countField, completion_tokens: countField }),
  committed_at: timeField,
});
export type Countersign = z.infer<typeof countersignSchema>;

/** `prev` of the first countersignature of an account. */
export const chainStart = Buffer.alloc(32).toString("base64url");

/** Hash of a countersignature, as the next one's `prev`. */
export function chainHash(countersign: string): string {
  return createHash("sha256").update(countersign).digest("base64url");
}

/** Signs a receipt with the node's key. */
export function sealReceipt(receipt: Receipt, key: SigningKey): string {
  return signJws(receiptTyp, JSON.stringify(receipt), key);
}

/**
 * @param keys those that the node has or had: a receipt stays good when its key is rolled over.
 * @throws {ProtocolError}
 */
export function openReceipt(text: string, keys: KeyOrKeys): Receipt {
  return parsePayload(receiptSchema, verifyJws(splitJws(text, receiptTyp), keys), "receipt");
}

/** Countersigns with the service's key. */
export function sealCountersign(countersign: Countersign, key: SigningKey): string {
  return signJws(countersignTyp, JSON.stringify(countersign), key);
}

/** @throws {ProtocolError} */
export function openCountersign(text: string, service: VerifyKey): Countersign {
  return parsePayload(
    countersignSchema,
    verifyJws(splitJws(text, countersignTyp), service),
    "countersignature",
  );
}

/**
 * Verifies an account's chain from its first countersignature.
 * @throws {ProtocolError} `sequence` where a link is missing or out of order.
 */
export function verifyChain(chain: readonly string[], service: VerifyKey): readonly Countersign[] {
  let prev = chainStart;
  return chain.map((text, at) => {
    const link = openCountersign(text, service);
    if (link.index !== at + 1 || link.prev !== prev)
      throw new ProtocolError("sequence", `receipt ${at + 1} does not follow the one before it`);
    prev = chainHash(text);
    return link;
  });
}
