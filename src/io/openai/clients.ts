import type { ServerResponse } from "node:http";
import type { Clock, Timer } from "../../lib/clock.ts";
import type { JobClient, JobFailure } from "../jobs/client.ts";
import { type ApiError, errorText } from "./errors.ts";

/** A client that leaves this much unread is taken to be gone, bytes. */
const maxUnreadBytes = 4 * 1024 * 1024;
/** Silence after which a waiting stream gets a comment, ms: proxies cut what is silent for long. */
const keepAliveMs = 10_000;

/** Called with the HTTP status of each answer. */
export type OnAnswer = (status: number) => void;

/** What a client is told where there is no answer. */
export function failureError({ code, message }: JobFailure): ApiError {
  const base = { type: "server_error", param: null, code, message } as const;
  switch (code) {
    case "no_capacity":
    case "unavailable":
      return { ...base, status: 503, retryAfter: 5 };
    case "timeout":
      return { ...base, status: 504 };
    case "node_lost":
    case "job_failed":
    case "output_too_large":
    case "cancelled":
      return { ...base, status: 502 };
    default:
      return code satisfies never;
  }
}

/** Sends an error in OpenAI's form, before anything else has been sent. */
export function sendError(response: ServerResponse, error: ApiError): void {
  const text = errorText(error);
  response.writeHead(error.status, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(text),
    ...(error.retryAfter === undefined ? {} : { "retry-after": String(error.retryAfter) }),
  });
  response.end(text);
}

/** A client that waits for one whole answer. */
export class PlainClient implements JobClient {
  readonly #response: ServerResponse;
  readonly #onAnswer: OnAnswer;

  constructor(response: ServerResponse, onAnswer: OnAnswer) {
    this.#response = response;
    this.#onAnswer = onAnswer;
  }

  events(): boolean {
    // A plain answer is held back until it is whole.
    return true;
  }

  end(rest: readonly Buffer[]): void {
    this.answer(200, rest);
  }

  answer(status: number, body: readonly Buffer[]): void {
    this.#onAnswer(status);
    sendWhole(this.#response, status, body);
  }

  fail(failure: JobFailure): void {
    const error = failureError(failure);
    this.#onAnswer(error.status);
    if (!this.#response.destroyed && !this.#response.headersSent) sendError(this.#response, error);
  }
}

function sendWhole(response: ServerResponse, status: number, body: readonly Buffer[]): void {
  if (response.destroyed || response.headersSent) return;
  const [only] = body;
  const bytes = body.length === 1 && only ? only : Buffer.concat(body);
  response.writeHead(status, { "content-type": "application/json", "content-length": bytes.length });
  response.end(bytes);
}

/** A client that reads a stream of server-sent events. */
export class StreamClient implements JobClient {
  readonly #response: ServerResponse;
  readonly #onAnswer: OnAnswer;
  readonly #clock: Clock;
  #timer: Timer;
  #lastWrite: number;

  constructor(response: ServerResponse, clock: Clock, onAnswer: OnAnswer) {
    this.#response = response;
    this.#clock = clock;
    this.#onAnswer = onAnswer;
    this.#lastWrite = clock.monotonic();
    this.#timer = clock.setTimer(() => this.#keepAlive(), keepAliveMs);
  }

  #keepAlive(): void {
    if (this.#response.destroyed) return;
    const silent = this.#clock.monotonic() - this.#lastWrite;
    if (silent >= keepAliveMs) {
      this.#begin();
      this.#write(": keep-alive\n\n");
    }
    this.#timer = this.#clock.setTimer(
      () => this.#keepAlive(),
      silent >= keepAliveMs ? keepAliveMs : keepAliveMs - silent,
    );
  }

  #begin(): void {
    if (this.#response.headersSent) return;
    this.#onAnswer(200);
    this.#response.writeHead(200, {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache",
      // From the first byte on another attempt would be a second answer.
      "x-should-retry": "false",
      // Proxies that collect answers would turn the stream into one late block.
      "x-accel-buffering": "no",
    });
  }

  #write(data: Buffer | string): void {
    this.#lastWrite = this.#clock.monotonic();
    this.#response.write(data);
  }

  events(data: Buffer): boolean {
    if (this.#response.destroyed) return true;
    this.#begin();
    this.#write(data);
    if (this.#response.writableLength <= maxUnreadBytes) return true;
    this.#response.destroy();
    return false;
  }

  end(rest: readonly Buffer[]): void {
    this.#timer.cancel();
    if (this.#response.destroyed) return;
    this.#begin();
    this.#response.end(Buffer.concat(rest));
  }

  answer(status: number, body: readonly Buffer[]): void {
    this.#timer.cancel();
    if (!this.#response.headersSent) {
      this.#onAnswer(status);
      sendWhole(this.#response, status, body);
      return;
    }
    // Keep-alives have begun the stream already: the engine's error becomes its last event.
    if (!this.#response.destroyed)
      this.#response.end(
        `data: ${Buffer.concat(body)
          .toString()
          .replaceAll(/[\r\n]+/g, " ")}\n\n`,
      );
  }

  fail(failure: JobFailure): void {
    this.#timer.cancel();
    if (this.#response.destroyed) return;
    const error = failureError(failure);
    if (this.#response.headersSent) {
      this.#response.end(`data: ${errorText(error)}\n\n`);
      return;
    }
    this.#onAnswer(error.status);
    sendError(this.#response, error);
  }
}
