import * as z from "zod/mini";
import { attemptField, bytes16Field, jobIdField } from "../../protocol/fields.ts";
import { parsePayload } from "../../protocol/frame.ts";
import { type Body, usage } from "../../protocol/messages.ts";
import { receiptSchema, sealReceipt } from "../../protocol/receipt.ts";
import { decodeUtf8 } from "../../protocol/jws.ts";
import type { SigningKey } from "../../protocol/keys.ts";

/**
 * How an attempt has ended, with all that its `result` frame says. The receipt is signed when the frame is made and not
 * before: a key rollover may come in between, and the service believes the node's current key alone.
 */
const endedSchema = z.object({
  job: jobIdField,
  attempt: attemptField,
  token: bytes16Field,
  status: z.int(),
  usage,
  receipt: receiptSchema,
});
export type Ended = z.infer<typeof endedSchema>;

/** The frame that tells the service. */
export function resultOf(
  { job, attempt, token, status, usage: tokens, receipt }: Ended,
  outputBytes: number,
  key: SigningKey,
): Body<"result"> {
  return {
    job,
    attempt,
    token,
    outcome: receipt.outcome,
    status,
    output_sha256: receipt.output_sha256,
    output_bytes: outputBytes,
    usage: tokens,
    duration_ms: receipt.duration_ms,
    receipt: sealReceipt(receipt, key),
  };
}

/** A result with its output: what a node keeps of a durable job. */
export interface KeptResult {
  readonly ended: Ended;
  readonly output: Uint8Array;
}

/** As bytes: a line of JSON, then the output. In two parts, so that a large output is not copied. */
export function encodeResult({ ended, output }: KeptResult): readonly [Uint8Array, Uint8Array] {
  return [Buffer.from(`${JSON.stringify(ended)}\n`), output];
}

/** @throws {ProtocolError} when the bytes are not those of a result. */
export function decodeResult(bytes: Buffer): KeptResult {
  const end = bytes.indexOf(0x0a);
  const ended = parsePayload(endedSchema, decodeUtf8(bytes.subarray(0, Math.max(0, end))), "kept result");
  return { ended, output: bytes.subarray(end + 1) };
}
