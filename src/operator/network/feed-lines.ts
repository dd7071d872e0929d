/**
 * Cuts bytes into lines, of which none may be longer than `maxBytes`: a longer one is dropped up to its end and told once
 * as undefined, and the stream goes on. A line is decoded once it is whole.
 */
export class FeedLines {
  readonly #maxBytes: number;
  #parts: Buffer[] = [];
  #size = 0;
  #skipping = false;

  constructor(maxBytes: number) {
    this.#maxBytes = maxBytes;
  }

  /** The lines that end in `bytes`; undefined for each that was too long. Empty lines are left out. */
  *push(bytes: Buffer): Generator<string | undefined> {
    let rest = bytes;
    for (let end = rest.indexOf(10); end >= 0; end = rest.indexOf(10)) {
      this.#keep(rest.subarray(0, end));
      rest = rest.subarray(end + 1);
      if (this.#skipping) yield undefined;
      else if (this.#size > 0) yield Buffer.concat(this.#parts).toString("utf8");
      this.#parts = [];
      this.#size = 0;
      this.#skipping = false;
    }
    this.#keep(rest);
  }

  #keep(bytes: Buffer): void {
    this.#size += bytes.length;
    if (this.#size > this.#maxBytes) {
      this.#skipping = true;
      this.#parts = [];
    } else if (bytes.length > 0) this.#parts.push(bytes);
  }
}
