import { createHash } from "node:crypto";

/** Bytes tried first for one piece; JSON and base64url make it at most a third of a frame larger in ordinary text. */
const pieceBytes = 96 * 1024;
/** Most bytes of a piece as a JSON string: base64url of it and the envelope stay under a frame's 256 KiB. */
const maxEscapedBytes = 184 * 1024;

/**
 * The output of one job, kept until the service has acknowledged the result: a new session may want it from any offset
 * that it has had. UTF-8; where it is a stream of events, with their boundaries.
 */
export class JobOutput {
  #bytes: Buffer = Buffer.alloc(0);
  #size = 0;
  readonly #boundaries: number[] = [];
  readonly #hash = createHash("sha256");

  get size(): number {
    return this.#size;
  }

  /** All of it. Good until the next `append`. */
  get bytes(): Uint8Array {
    return this.#bytes.subarray(0, this.#size);
  }

  /** Output that an earlier process has kept: one piece, which may be cut anywhere between characters. */
  static of(bytes: Uint8Array): JobOutput {
    const output = new JobOutput();
    output.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    output.#size = bytes.length;
    output.#hash.update(bytes);
    if (bytes.length > 0) output.#boundaries.push(bytes.length);
    return output;
  }

  /** Appends text that ends where a piece may end. */
  append(text: string): void {
    const more = Buffer.from(text);
    if (this.#size + more.length > this.#bytes.length) {
      const grown = Buffer.allocUnsafe(Math.max(4096, 2 * this.#bytes.length, this.#size + more.length));
      this.#bytes.copy(grown, 0, 0, this.#size);
      this.#bytes = grown;
    }
    more.copy(this.#bytes, this.#size);
    this.#size += more.length;
    this.#hash.update(more);
    this.#boundaries.push(this.#size);
  }

  /** SHA-256 of everything so far, hex. */
  sha256(): string {
    return this.#hash.copy().digest("hex");
  }

  /** The text from `offset`, as much as one frame takes, ending at a boundary unless one event alone is larger. */
  piece(offset: number): { readonly data: string; readonly bytes: number } | undefined {
    if (offset >= this.#size) return undefined;
    for (let limit = pieceBytes; ; limit = Math.floor(limit / 2)) {
      const end = this.#end(offset, offset + limit);
      const data = this.#bytes.toString("utf8", offset, end);
      if (Buffer.byteLength(JSON.stringify(data)) <= maxEscapedBytes) return { data, bytes: end - offset };
    }
  }

  /** Everything as text, event by event. */
  *events(): Generator<string> {
    let from = 0;
    for (const to of this.#boundaries) {
      yield this.#bytes.toString("utf8", from, to);
      from = to;
    }
  }

  #end(offset: number, most: number): number {
    if (most >= this.#size) return this.#size;
    const boundary = this.#lastBoundary(most);
    if (boundary > offset) return boundary;
    // No boundary in reach: not inside a character (continuation bytes are 10xxxxxx).
    let end = most;
    while (end > offset + 1 && ((this.#bytes[end] ?? 0) & 0xc0) === 0x80) end--;
    return end;
  }

  #lastBoundary(most: number): number {
    let low = 0;
    let high = this.#boundaries.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#boundaries[middle] ?? 0) <= most) low = middle + 1;
      else high = middle;
    }
    return this.#boundaries[low - 1] ?? 0;
  }
}
