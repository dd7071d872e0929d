import type { Dispatcher } from "undici";
import { request } from "undici";
import type { Clock } from "../../lib/clock.ts";
import { CodedError, messageOf } from "../../lib/errors.ts";

/** `unreachable`: no answer in time. `refused`: an answer that is no success. `too_large`: an answer over its bound. */
export type SourceErrorCode = "unreachable" | "refused" | "too_large";

/** The IO service did not give what was asked for. */
export class SourceError extends CodedError<SourceErrorCode> {
  /** HTTP status, where there was an answer. */
  readonly status: number | undefined;

  constructor(
    code: SourceErrorCode,
    message: string,
    options: ErrorOptions & { readonly status?: number } = {},
  ) {
    super(code, message, options);
    this.status = options.status;
  }
}

/** One GET. */
export interface Asked {
  /** Base URL of the IO service, as the spec has it. */
  readonly endpoint: string;
  /** From `/v1` on. */
  readonly path: string;
  /** Longest answer in bytes. */
  readonly maxBytes: number;
  /** ETag of the answer that is known: where it still holds, the answer is undefined. */
  readonly etag?: string | undefined;
  readonly signal: AbortSignal;
}

/** A whole answer. */
export interface Answer {
  readonly bytes: Buffer;
  readonly etag: string | undefined;
}

/** Total time of one GET, ms. */
export const fetchTimeoutMs = 5_000;

/** URL of a path at an endpoint, which may or may not end in a slash. */
export function endpointUrl(endpoint: string, path: string): string {
  return `${endpoint.replace(/\/+$/, "")}${path}`;
}

/**
 * GETs something of an IO service, whole and within its bounds. Redirects count as refusals: the address is the user's.
 *
 * @returns undefined where the answer is still the one of `etag` (304).
 * @throws {SourceError}
 */
export async function fetchFrom(
  asked: Asked,
  { dispatcher, clock }: { readonly dispatcher: Dispatcher; readonly clock: Clock },
): Promise<Answer | undefined> {
  const url = endpointUrl(asked.endpoint, asked.path);
  const deadline = new AbortController();
  const timer = clock.setTimer(() => deadline.abort(), fetchTimeoutMs);
  try {
    const answer = await request(url, {
      dispatcher,
      method: "GET",
      headers: {
        accept: "application/json",
        ...(asked.etag === undefined ? {} : { "if-none-match": asked.etag }),
      },
      signal: AbortSignal.any([asked.signal, deadline.signal]),
    });
    if (answer.statusCode === 304 && asked.etag !== undefined) {
      await answer.body.dump();
      return undefined;
    }
    if (answer.statusCode !== 200) {
      answer.body.on("error", () => undefined).destroy();
      throw new SourceError("refused", `GET ${url} answers ${answer.statusCode}`, {
        status: answer.statusCode,
      });
    }
    const etag = answer.headers["etag"];
    return {
      bytes: await readBounded(answer.body, asked.maxBytes, url),
      etag: typeof etag === "string" ? etag : undefined,
    };
  } catch (error) {
    if (error instanceof SourceError) throw error;
    asked.signal.throwIfAborted();
    const why = deadline.signal.aborted ? `no answer within ${fetchTimeoutMs / 1000} s` : networkError(error);
    throw new SourceError("unreachable", `GET ${url}: ${why}`, { cause: error });
  } finally {
    timer.cancel();
  }
}

async function readBounded(
  body: Dispatcher.ResponseData["body"],
  maxBytes: number,
  url: string,
): Promise<Buffer> {
  const parts: Buffer[] = [];
  let size = 0;
  for await (const part of body) {
    const bytes = Buffer.from(part);
    size += bytes.length;
    if (size > maxBytes)
      throw new SourceError("too_large", `GET ${url}: the answer is larger than ${maxBytes} bytes`);
    parts.push(bytes);
  }
  return Buffer.concat(parts);
}

/** What a connection failed of, in few and stable words: conditions repeat it. */
export function networkError(error: unknown): string {
  if (error instanceof Error && "code" in error && typeof error.code === "string") {
    return error.message === "" ? error.code : error.message;
  }
  return messageOf(error);
}
