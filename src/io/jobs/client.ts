import type { EndCode } from "../dispatch/types.ts";

/** Why a client gets no answer, in the terms of its API. */
export interface JobFailure {
  readonly code: EndCode | "unavailable";
  readonly message: string;
}

/** Whoever asked for a job. Calls come in order; after `answer`, `end` or `fail` there is none. */
export interface JobClient {
  /** A piece of a stream of events. False: it does not read, the job is to be given up. */
  events(data: Buffer): boolean;
  /** The stream is complete; `rest` is what was held back. */
  end(rest: readonly Buffer[]): void;
  /** The whole answer. */
  answer(status: number, body: readonly Buffer[]): void;
  /** There will be no (further) answer. */
  fail(failure: JobFailure): void;
}
