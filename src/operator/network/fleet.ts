import { randomBytes } from "node:crypto";
import { type Dispatcher, request } from "undici";
import { type BackoffOptions, fullJitter, type Random } from "../../lib/backoff.ts";
import { type Clock, sleep, type Timer } from "../../lib/clock.ts";
import type { Logger } from "../../lib/logger.ts";
import type { Metrics } from "../../lib/metrics.ts";
import { type AccountKey, accountAuthorization } from "../../protocol/binding.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import { feedPingMs, parseFeedLine } from "../../protocol/feed.ts";
import { paths } from "../../protocol/http.ts";
import type { Fleet } from "../views.ts";
import { FeedLines } from "./feed-lines.ts";
import { endpointUrl, networkError } from "./source.ts";

/** Whose feed, and from where. */
export interface FeedSource {
  /** `namespace/name` of the ResultityNetwork. */
  readonly networkKey: string;
  readonly endpoints: readonly string[];
  readonly account: string;
  readonly accountKey: AccountKey;
}

/** With what a feed is followed. */
export interface FeedContext {
  readonly fleet: Fleet;
  readonly dispatcher: Dispatcher;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly metrics: Metrics;
  /** Told when the network refuses the account (401, 403), and with undefined when it takes it again. */
  readonly refused: (networkKey: string, message: string | undefined) => void;
}

/** Waits between connections, ms, with full jitter. */
export const feedBackoff: BackoffOptions = { base: 1_000, cap: 30_000 };
/** A node with 256 active models of the longest names has 70 KB. */
export const maxFeedLineBytes = 128 * 1024;
/** Without a line for this long the connection is dead: three pings have failed to come. Also the limit for the headers. */
const silenceMs = 3 * feedPingMs;
/** A connection that ends sooner than this, ms, counts as failed: a server that ends each at once is not asked in a loop. */
const livedMs = 10_000;

/**
 * Follows the fleet feed of one network until `signal` aborts: one connection at a time, to the endpoints in turn. What it
 * says goes into `fleet`. Never rejects: a line that is not understood is counted and left out, a connection that ends
 * or falls silent is made again.
 */
export async function followFeed(
  source: FeedSource,
  context: FeedContext,
  signal: AbortSignal,
): Promise<void> {
  const { fleet, clock, random, logger } = context;
  const { networkKey, endpoints } = source;
  let failures = 0;
  for (let turn = 0; !signal.aborted; turn++) {
    const endpoint = endpoints[turn % endpoints.length];
    if (endpoint === undefined) return;
    const started = clock.monotonic();
    const ended = await connection(endpoint, source, context, signal);
    fleet.setLive(networkKey, undefined);
    if (signal.aborted) return;
    const lived = ended.synced && clock.monotonic() - started >= livedMs;
    failures = lived ? 0 : failures + 1;
    // The same endpoint again where it served well.
    if (lived) turn--;
    const wait = fullJitter(failures, feedBackoff, random);
    logger.info({ network: networkKey, endpoint, why: ended.why, retryInMs: wait }, "the fleet feed ended");
    await sleep(clock, wait, signal);
  }
}

interface Ended {
  readonly why: string;
  readonly synced: boolean;
}

/** One connection from its beginning to its end. */
async function connection(
  endpoint: string,
  source: FeedSource,
  context: FeedContext,
  signal: AbortSignal,
): Promise<Ended> {
  const { clock, dispatcher, refused } = context;
  const abort = new AbortController();
  const forward = () => abort.abort();
  signal.addEventListener("abort", forward, { once: true });
  let timer: Timer | undefined;
  let silent = false;
  const heard = () => {
    timer?.cancel();
    timer = clock.setTimer(() => {
      silent = true;
      abort.abort();
    }, silenceMs);
  };
  const reader = new FeedReader(source.networkKey, context);
  try {
    heard();
    const answer = await request(endpointUrl(endpoint, paths.feed), {
      dispatcher,
      method: "GET",
      headers: { accept: "application/x-ndjson", authorization: authorization(source, clock) },
      headersTimeout: 0,
      bodyTimeout: 0,
      signal: abort.signal,
    });
    if (answer.statusCode !== 200) {
      answer.body.on("error", () => undefined).destroy();
      const why = `GET ${endpointUrl(endpoint, paths.feed)} answers ${answer.statusCode}`;
      if (answer.statusCode === 401 || answer.statusCode === 403) refused(source.networkKey, why);
      return { why, synced: false };
    }
    refused(source.networkKey, undefined);
    for await (const part of answer.body) {
      if (reader.read(Buffer.from(part))) heard();
    }
    return { why: "the service ended it", synced: reader.synced };
  } catch (error) {
    const why = silent ? `nothing heard for ${silenceMs / 1000} s` : networkError(error);
    return { why, synced: reader.synced };
  } finally {
    timer?.cancel();
    signal.removeEventListener("abort", forward);
  }
}

function authorization({ account, accountKey }: FeedSource, clock: Clock): string {
  const nonce = randomBytes(32).toString("base64url");
  return accountAuthorization(accountKey, {
    account,
    method: "GET",
    path: paths.feed,
    time: clock.now(),
    nonce,
  });
}

/** Puts the lines of one connection into the fleet. */
class FeedReader {
  readonly #networkKey: string;
  readonly #context: FeedContext;
  readonly #lines = new FeedLines(maxFeedLineBytes);
  readonly #named = new Set<string>();
  #synced = false;
  #warned = false;

  constructor(networkKey: string, context: FeedContext) {
    this.#networkKey = networkKey;
    this.#context = context;
  }

  /** True once the feed has told all. */
  get synced(): boolean {
    return this.#synced;
  }

  /**
   * Reads a piece of the stream. True where a line ended in it.
   * @throws Error where the feed says more than may be remembered.
   */
  read(bytes: Buffer): boolean {
    let any = false;
    for (const line of this.#lines.push(bytes)) {
      any = true;
      this.#line(line);
    }
    return any;
  }

  #line(text: string | undefined): void {
    const { fleet, logger, metrics } = this.#context;
    try {
      if (text === undefined)
        throw new ProtocolError("too_large", `feed line is longer than ${maxFeedLineBytes} bytes`);
      const line = parseFeedLine(text);
      switch (line.type) {
        case "node":
          if (!this.#synced) this.#named.add(line.node_id);
          fleet.put(this.#networkKey, line, text.length);
          break;
        case "synced":
          if (this.#synced) break;
          this.#synced = true;
          fleet.setLive(this.#networkKey, this.#named);
          break;
        case "ping":
          break;
        default:
          throw new ProtocolError("schema", "feed line of an unknown type");
      }
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      metrics
        .counter(
          "resultity_fleet_feed_bad_lines_total",
          "Lines of the fleet feed that were not understood.",
          ["network"],
        )
        .inc({ network: this.#networkKey });
      // Once a connection: who serves the feed must not fill the operator's log.
      if (!this.#warned)
        logger.warn(
          { network: this.#networkKey, error: error.message },
          "a line of the fleet feed was not understood; further ones are only counted",
        );
      this.#warned = true;
    }
  }
}
