import * as z from "zod/mini";
import { ProtocolError } from "../../protocol/codes.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import { timeField } from "../../protocol/fields.ts";
import { parsePayload } from "../../protocol/frame.ts";
import { decodeUtf8, splitJws } from "../../protocol/jws.ts";
import type { KeyId } from "../../protocol/keys.ts";
import { statementField } from "../../protocol/messages.ts";
import {
  type Countersign,
  countersignSchema,
  countersignTyp,
  type Receipt,
  receiptSchema,
  receiptTyp,
} from "../../protocol/receipt.ts";

/** One line of what is kept: a countersigned receipt, or the delegation under which the next ones are signed. */
export type KeptLine =
  | { readonly is: "receipt"; readonly countersign: string }
  | { readonly is: "delegation"; readonly delegation: Statement };

const jsonLine = z.union([
  z.object({ kept: timeField, countersign: z.string().check(z.maxLength(8192)) }),
  z.object({ kept: timeField, delegation: statementField }),
]);

/** Most characters of one line. */
export const maxLineChars = 512 * 1024;

/** A line with a receipt, its newline included. @param now wall time, ms. */
export function receiptLine(countersign: string, now: number): string {
  return `${JSON.stringify({ kept: now, countersign })}\n`;
}

/** A line with a delegation, its newline included. @param now wall time, ms. */
export function delegationLine(delegation: Statement, now: number): string {
  return `${JSON.stringify({ kept: now, delegation })}\n`;
}

/** Reads a line as it is kept, or a bare compact JWS as exports have it. @throws {ProtocolError} */
export function parseLine(text: string): KeptLine {
  if (!text.startsWith("{")) {
    splitJws(text, countersignTyp);
    return { is: "receipt", countersign: text };
  }
  if (text.length > maxLineChars) throw new ProtocolError("too_large", "the line is too long");
  const line = parsePayload(jsonLine, text, "line");
  return "delegation" in line
    ? { is: "delegation", delegation: line.delegation }
    : { is: "receipt", countersign: line.countersign };
}

/** What a countersigned receipt says, before anything in it is believed. */
export interface ClaimedReceipt {
  readonly countersign: Countersign;
  readonly receipt: Receipt;
  /** Key that claims to have countersigned. */
  readonly serviceKid: KeyId;
}

/** Takes a countersigned receipt apart without verifying it. @throws {ProtocolError} */
export function claimsOf(text: string): ClaimedReceipt {
  const outer = splitJws(text, countersignTyp);
  const countersign = parsePayload(countersignSchema, payloadText(outer.payload), "countersignature");
  const inner = splitJws(countersign.receipt, receiptTyp);
  const receipt = parsePayload(receiptSchema, payloadText(inner.payload), "receipt");
  return { countersign, receipt, serviceKid: outer.header.kid };
}

const payloadText = (payload: string): string => decodeUtf8(Buffer.from(payload, "base64url"));
