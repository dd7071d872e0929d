import type { EndCode } from "../dispatch/types.ts";

/** Why a client gets no answer, in the terms of its API. */
export interface JobFailure {
  readonly code: EndCode | "unavailable";
  readonly message: string;
}

/** What a client is told for each code. */
export const failureMessages: Readonly<Record<JobFailure["code"], string>> = {
  node_lost: "the node that was answering was lost; what was sent so far is incomplete",
  no_capacity: "no node was free for this model in time",
  job_failed: "the request failed on several nodes",
  timeout: "the request took longer than a request may",
  output_too_large: "the answer is larger than an answer may be",
  cancelled: "the request was cancelled",
  unavailable: "the request was given up",
};

/** The client of an asynchronous job: nobody waits, the answer goes to the store. */
export const nobody: JobClient = {
  events: () => true,
  end: () => {},
  answer: () => {},
  fail: () => {},
};

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
