import type { Readable } from "node:stream";

/** Beginning of an answer, whose body is yet to be read. */
export interface OpenAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | number | undefined>>;
  readonly body: Readable;
  /** Ends the exchange; the body then fails. */
  cancel(): void;
}
