import { type ClientHttp2Session, type ClientHttp2Stream, constants } from "node:http2";
import { type Clock, sleep, systemClock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { type Logger, silentLogger } from "../lib/logger.ts";
import { Metrics } from "../lib/metrics.ts";
import type { ApiConnection } from "./config.ts";
import { KubeError, type RequestContext, type Status, errorOfStatus, phrase } from "./errors.ts";
import { type OpenAnswer, iterable, readText } from "./answer.ts";
import { openPlain } from "./plain.ts";
import { Slots } from "./slots.ts";
import { type SessionTiming, defaultTiming, openSession } from "./session.ts";

/** One request to the API server. */
export interface Request {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** Path and query, from `/api` or `/apis` on. */
  readonly path: string;
  /** What the request is about, for messages and metrics. */
  readonly context: RequestContext;
  readonly body?: string;
  readonly contentType?: string;
  /** Total time with all retries, in milliseconds; for a stream the time until it begins. Default 30 s. */
  readonly timeout?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Not to wait behind other requests: for the Lease, on which all of them depend. */
  readonly urgent?: boolean | undefined;
  /** Called each time that it is about to be sent, after all waiting; what it throws takes the place of the answer. */
  readonly permit?: (() => void) | undefined;
  /** Longest answer in bytes. Default 32 MiB. */
  readonly maxBytes?: number;
  /** Whether it may be sent again after 429 or 503 with Retry-After. Default: GET only. */
  readonly idempotent?: boolean;
}

/** Parts of a {@link Transport}. */
export interface TransportOptions {
  readonly connection: ApiConnection;
  /** `resultity-operator/1.2.3`. */
  readonly userAgent: string;
  readonly clock?: Clock;
  readonly logger?: Logger;
  readonly metrics?: Metrics;
  readonly timing?: Partial<SessionTiming>;
  /** Requests at once, watches not counted; the others wait. Default 64. */
  readonly maxInFlight?: number;
}

const defaultTimeout = 30_000;
const defaultMaxBytes = 32 << 20;
const retries = 3;
const longestRetryAfter = 10_000;

/**
 * HTTP to one API server over one HTTP/2 connection, made on first use and made anew when it dies or has no room for another
 * stream. Every failure is a {@link KubeError}. A plain `http://` server (kubectl proxy) is spoken to in HTTP/1.1.
 */
export class Transport {
  readonly #connection: ApiConnection;
  readonly #userAgent: string;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #timing: SessionTiming;
  readonly #slots: Slots;
  readonly #requests;
  readonly #durations;
  readonly #warned = new Set<string>();
  #session: Promise<ClientHttp2Session> | undefined;
  /** All that are not closed yet, and how many streams each has open. */
  readonly #sessions = new Map<ClientHttp2Session, number>();
  #closed = false;

  constructor(options: TransportOptions) {
    this.#connection = options.connection;
    this.#userAgent = options.userAgent;
    this.#clock = options.clock ?? systemClock;
    this.#logger = options.logger ?? silentLogger;
    this.#timing = { ...defaultTiming, ...options.timing };
    this.#slots = new Slots(options.maxInFlight ?? 64);
    const metrics = options.metrics ?? new Metrics();
    this.#requests = metrics.counter(
      "rest_client_requests_total",
      "Requests to the API server by HTTP status; `<error>` where there was no answer.",
      ["code", "method", "host"],
    );
    this.#durations = metrics.histogram(
      "rest_client_request_duration_seconds",
      "Time until the API server had answered in full; for watches until they began.",
      [0.005, 0.02, 0.1, 0.5, 2, 8, 30],
      ["verb", "host"],
    );
  }

  /** Sends a request and reads the whole answer as text. Rejects with {@link KubeError} unless the status is 2xx. */
  async request(request: Request): Promise<string> {
    return this.#deadlined(request, async (signal) => {
      if (!request.urgent) await this.#slots.acquire(signal);
      try {
        return await this.#retried(request, signal, (answer) =>
          readText(answer, request.maxBytes ?? defaultMaxBytes, request.context),
        );
      } finally {
        if (!request.urgent) this.#slots.release();
      }
    });
  }

  /**
   * Sends a request and resolves with the body as it arrives, once the server has answered 2xx. The stream ends when the
   * server ends it, and fails when the connection dies or `signal` aborts.
   */
  async stream(request: Request): Promise<OpenAnswer> {
    const answer = await this.#deadlined(request, (signal) =>
      this.#retried({ ...request, idempotent: false }, signal, (answer) => Promise.resolve(iterable(answer))),
    );
    const { signal } = request;
    const cancel = () => answer.cancel();
    if (signal?.aborted) cancel();
    signal?.addEventListener("abort", cancel, { once: true });
    answer.body.once("close", () => signal?.removeEventListener("abort", cancel));
    return answer;
  }

  /** Ends the connection and everything on it. */
  close(): void {
    this.#closed = true;
    for (const session of this.#sessions.keys()) session.destroy();
  }

  /** Runs `work` under the request's timeout and signal, and makes its failure a KubeError with context. */
  async #deadlined<R>(request: Request, work: (signal: AbortSignal) => Promise<R>): Promise<R> {
    const { context, signal, timeout = defaultTimeout } = request;
    const abort = new AbortController();
    const forward = () =>
      abort.abort(new KubeError("Aborted", `${phrase(context)}: given up by the caller`, context));
    if (signal?.aborted) forward();
    signal?.addEventListener("abort", forward, { once: true });
    const timer = this.#clock.setTimer(() => {
      // The connection may be half open. Pings will tell; the next request need not wait for them.
      this.#retire();
      abort.abort(
        new KubeError("Timeout", `${phrase(context)}: no answer within ${timeout / 1000} s`, context),
      );
    }, timeout);
    const started = this.#clock.monotonic();
    const host = this.#connection.server.host;
    try {
      const result = await work(abort.signal);
      this.#durations.observe((this.#clock.monotonic() - started) / 1000, { verb: context.verb, host });
      return result;
    } catch (thrown) {
      if (abort.signal.reason instanceof KubeError) throw abort.signal.reason;
      throw thrown;
    } finally {
      timer.cancel();
      signal?.removeEventListener("abort", forward);
    }
  }

  async #retried<R>(
    request: Request,
    signal: AbortSignal,
    read: (answer: OpenAnswer) => Promise<R>,
  ): Promise<R> {
    const { context, idempotent = request.method === "GET" } = request;
    let fresh = false;
    for (let attempt = 0; ; attempt++) {
      try {
        return await this.#once(request, signal, fresh, read);
      } catch (thrown) {
        const error = asKubeError(thrown, context);
        if (signal.aborted || attempt >= retries) throw error;
        if (error.status === 401 && !fresh) {
          fresh = true;
          this.#retire();
          continue;
        }
        const asked = error.status === 429 || error.status === 503 ? error.retryAfter : undefined;
        if (!idempotent || asked === undefined) throw error;
        await sleep(this.#clock, Math.min(asked, longestRetryAfter), signal);
        if (signal.aborted) throw error;
      }
    }
  }

  async #once<R>(
    request: Request,
    signal: AbortSignal,
    fresh: boolean,
    read: (answer: OpenAnswer) => Promise<R>,
  ): Promise<R> {
    const { method, context } = request;
    const host = this.#connection.server.host;
    let answer: OpenAnswer;
    try {
      answer = await this.#open(request, signal, fresh);
    } catch (thrown) {
      this.#requests.inc({ code: "<error>", method, host });
      throw thrown;
    }
    this.#requests.inc({ code: answer.status, method, host });
    this.#warn(answer, context);
    const cancel = () => answer.cancel();
    if (signal.aborted) cancel();
    signal.addEventListener("abort", cancel, { once: true });
    try {
      if (answer.status >= 200 && answer.status < 300) return await read(answer);
      const text = await readText(answer, 1 << 20, context).catch(() => "");
      throw errorOfStatus(answer.status, statusOf(text), context, retryAfterOf(answer));
    } finally {
      signal.removeEventListener("abort", cancel);
    }
  }

  async #open(request: Request, signal: AbortSignal, fresh: boolean): Promise<OpenAnswer> {
    const { method, path, body, contentType = "application/json" } = request;
    const { server } = this.#connection;
    const headers: Record<string, string> = {
      accept: "application/json",
      "user-agent": this.#userAgent,
      ...(await this.#connection.headers({ fresh })),
    };
    if (body !== undefined) {
      headers["content-type"] = contentType;
      headers["content-length"] = String(Buffer.byteLength(body));
    }
    const fullPath = `${server.pathname.replace(/\/$/, "")}${path}`;
    if (server.protocol === "http:") {
      request.permit?.();
      return openPlain(server, method, fullPath, headers, body, signal);
    }
    let attempt = 0;
    for (;;) {
      const opening = this.#connected();
      const session = await abortable(opening, signal);
      // Its `close` event, which makes us forget it, may be yet to come.
      if ((session.destroyed || session.closed) && this.#session === opening) this.#session = undefined;
      // A full one would let us wait until a watch ends. It lives on until its last stream has ended.
      else if (this.#isFull(session)) {
        if (this.#session === opening) this.#retire();
        continue;
      }
      request.permit?.();
      try {
        const stream = session.request(
          { ":method": method, ":path": fullPath, ...headers },
          { endStream: body === undefined },
        );
        this.#count(session, stream);
        if (body !== undefined) stream.end(body);
        return await begun(stream, signal);
      } catch (thrown) {
        // The server said which streams it never looked at: those may be sent again, whatever they ask for.
        if (attempt++ < retries && !signal.aborted && neverProcessed(thrown)) continue;
        throw thrown;
      }
    }
  }

  /** Whether the server allows no more streams on it than there are: 100 for kube-apiserver. */
  #isFull(session: ClientHttp2Session): boolean {
    const most = session.remoteSettings?.maxConcurrentStreams ?? Number.POSITIVE_INFINITY;
    // A server that allows none at all is told by its refusals.
    return (this.#sessions.get(session) ?? 0) >= Math.max(1, most);
  }

  #count(session: ClientHttp2Session, stream: ClientHttp2Stream): void {
    const add = (by: number) => {
      const streams = this.#sessions.get(session);
      if (streams !== undefined) this.#sessions.set(session, streams + by);
    };
    add(1);
    stream.once("close", () => add(-1));
  }

  #connected(): Promise<ClientHttp2Session> {
    if (this.#closed) throw new KubeError("Unavailable", "the connection to the API server was closed by us");
    if (this.#session) return this.#session;
    const opening = openSession(this.#connection, this.#clock, this.#timing);
    this.#session = opening;
    const forget = () => {
      if (this.#session === opening) this.#session = undefined;
    };
    const opened = (session: ClientHttp2Session) => {
      this.#sessions.set(session, 0);
      // Streams that are open go on until they end; new ones go to a new connection.
      session.once("goaway", forget);
      session.once("close", () => {
        this.#sessions.delete(session);
        forget();
      });
      if (session.destroyed || session.closed) forget();
      if (this.#closed) session.destroy();
    };
    void opening.then(opened, forget);
    return opening;
  }

  /** Lets the connection end with its streams, and the next request make a new one, with today's certificates. */
  #retire(): void {
    const retired = this.#session;
    this.#session = undefined;
    retired?.then(
      (session) => session.close(),
      () => undefined,
    );
  }

  #warn(answer: OpenAnswer, context: RequestContext): void {
    const { warning } = answer.headers;
    if (warning === undefined) return;
    const text = String(warning).slice(0, 1000);
    // Each once: the API server repeats a warning for every object that earns it.
    if (this.#warned.has(text) || this.#warned.size >= 100) return;
    this.#warned.add(text);
    this.#logger.warn({ ...context, warning: text }, "the API server warns");
  }
}

/** Resolves when the answer's headers are there. */
function begun(stream: ClientHttp2Stream, signal: AbortSignal): Promise<OpenAnswer> {
  return new Promise((resolve, reject) => {
    const cancel = () => stream.close(constants.NGHTTP2_CANCEL);
    const settled = () => signal.removeEventListener("abort", aborted);
    const aborted = () => {
      cancel();
      reject(signal.reason);
    };
    if (signal.aborted) {
      aborted();
      stream.on("error", () => undefined);
      return;
    }
    signal.addEventListener("abort", aborted, { once: true });
    stream.once("response", (headers) => {
      settled();
      resolve({ status: Number(headers[":status"]), headers, body: stream, cancel });
    });
    // Stays for the life of the stream: who reads the body is told by its iterator.
    stream.on("error", (error) => {
      settled();
      reject(error);
    });
    stream.once("close", () => {
      settled();
      const refused = stream.rstCode === constants.NGHTTP2_REFUSED_STREAM;
      reject(refused ? new RefusedStream() : new Error("the connection closed before an answer"));
    });
  });
}

class RefusedStream extends Error {
  readonly code = "ERR_REFUSED_STREAM";
}

function neverProcessed(thrown: unknown): boolean {
  if (!(thrown instanceof Error) || !("code" in thrown)) return false;
  const { code, message } = thrown;
  return (
    code === "ERR_REFUSED_STREAM" ||
    code === "ERR_HTTP2_GOAWAY_SESSION" ||
    code === "ERR_HTTP2_INVALID_SESSION" ||
    (code === "ERR_HTTP2_STREAM_ERROR" && message.includes("NGHTTP2_REFUSED_STREAM"))
  );
}

function statusOf(text: string): Status {
  try {
    const body: Status | null = JSON.parse(text);
    if (body?.kind === "Status") return body;
  } catch {
    // Not the API server's own words (a proxy's page): the HTTP status has to do.
  }
  return { message: text.slice(0, 200).trim() };
}

/** Retry-After in milliseconds. The API server sends seconds; the date form of RFC 9110 §10.2.3 is not read. */
function retryAfterOf(answer: OpenAnswer): number | undefined {
  const value = Number(answer.headers["retry-after"]);
  return Number.isFinite(value) && value >= 0 ? value * 1000 : undefined;
}

function asKubeError(thrown: unknown, context: RequestContext): KubeError {
  if (thrown instanceof KubeError) {
    if (thrown.verb) return thrown;
    return new KubeError(thrown.code, `${phrase(context)}: ${thrown.message}`, {
      ...context,
      cause: thrown.cause,
    });
  }
  return new KubeError("Unavailable", `${phrase(context)}: ${messageOf(thrown)}`, {
    ...context,
    cause: thrown,
  });
}

function abortable<R>(work: Promise<R>, signal: AbortSignal): Promise<R> {
  if (signal.aborted) return Promise.reject(signal.reason);
  return new Promise((resolve, reject) => {
    const aborted = () => reject(signal.reason);
    signal.addEventListener("abort", aborted, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", aborted));
  });
}
