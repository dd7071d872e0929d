import { createHash } from "node:crypto";
import { maxInlineBytes } from "../../protocol/messages.ts";

/** What a client asks, byte for byte. */
export interface JobInput {
  /** Hex. */
  readonly sha256: string;
  /** Bytes. */
  readonly size: number;
  /** The input itself, where it may fit into an offer. */
  readonly text: string | undefined;
  /** The input itself, where it does not. Neither of the two: it lies in the store, and is read when it is needed. */
  readonly bytes?: Buffer | undefined;
}

/** The input of a client that waits: in memory. */
export class HeldInput implements JobInput {
  readonly text: string | undefined;
  readonly bytes: Buffer | undefined;
  readonly size: number;
  #sha256: string | undefined;

  /** @param text the same as `body`. */
  constructor(body: Buffer, text: string) {
    this.size = body.length;
    const fits = fitsOffer(text, this.size);
    this.text = fits ? text : undefined;
    this.bytes = fits ? undefined : body;
  }

  get sha256(): string {
    return (this.#sha256 ??= createHash("sha256")
      .update(this.bytes ?? this.text ?? "")
      .digest("hex"));
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
