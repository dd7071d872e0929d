import { createHash } from "node:crypto";
import { maxInlineBytes } from "../../protocol/messages.ts";

/** What a client asks, byte for byte. */
export interface JobInput {
  /** Hex. */
  readonly sha256: string;
  /** Bytes. */
  readonly size: number;
  /** The input itself; undefined = it lies in the store, and is read when it is needed. */
  readonly text: string | undefined;
}

/** The input of a client that waits: in memory. */
export class HeldInput implements JobInput {
  readonly text: string;
  readonly size: number;
  #sha256: string | undefined;

  constructor(text: string) {
    this.text = text;
    this.size = Buffer.byteLength(text);
  }

  get sha256(): string {
    return (this.#sha256 ??= createHash("sha256").update(this.text).digest("hex"));
  }
}

/** Texts up to here fit into an offer however much their JSON string escapes, bytes; larger ones are measured. */
const surelyFits = 80 * 1024;
/** Most bytes of the text as a JSON string, so that base64url of the offer stays under a frame. */
const maxEscapedBytes = 190 * 1024;

/** Whether a text of `size` bytes fits into the frame of an offer. */
export function fitsOffer(text: string, size: number): boolean {
  if (size <= surelyFits) return true;
  return size <= maxInlineBytes && Buffer.byteLength(JSON.stringify(text)) <= maxEscapedBytes;
}
