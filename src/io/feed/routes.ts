import type { ServerResponse } from "node:http";
import type { FastifyInstance } from "fastify";
import type { Clock, Timer } from "../../lib/clock.ts";
import type { Logger } from "../../lib/logger.ts";
import { type FeedLine, type FeedNode, feedPingMs } from "../../protocol/feed.ts";
import { paths } from "../../protocol/http.ts";
import type { AccountRequests } from "../account-requests.ts";
import type { Dispatch } from "../dispatch/dispatch.ts";
import type { KnownNode, Nodes } from "../nodes.ts";

/** What the fleet feed needs of the service. */
export interface FeedParts {
  readonly clock: Clock;
  readonly log: Logger;
  readonly accountRequests: AccountRequests;
  readonly nodes: Nodes;
  readonly dispatch: Dispatch;
}

/** A reader that leaves this much unread is cut, bytes: it comes back and gets everything anew. */
const maxUnreadBytes = 1024 * 1024;
/** Changes of one node within this time become one line, ms. */
const gatherMs = 50;
/** All feeds that are being read. */
export class Feeds {
  readonly #parts: FeedParts;
  readonly #readers = new Set<FeedReader>();

  constructor(parts: FeedParts) {
    this.#parts = parts;
  }

  get size(): number {
    return this.#readers.size;
  }

  /** Begins a feed on a response; it ends with the connection. */
  begin(account: string, response: ServerResponse): void {
    const reader = new FeedReader(account, response, this.#parts);
    this.#readers.add(reader);
    response.once("close", () => {
      reader.close();
      this.#readers.delete(reader);
    });
  }

  close(): void {
    for (const reader of this.#readers) reader.end();
  }
}

class FeedReader {
  readonly #account: string;
  readonly #response: ServerResponse;
  readonly #parts: FeedParts;
  readonly #stopWatching: () => void;
  readonly #dirty = new Set<KnownNode>();
  #gather: Timer | undefined;
  #ping: Timer;

  constructor(account: string, response: ServerResponse, parts: FeedParts) {
    this.#account = account;
    this.#response = response;
    this.#parts = parts;
    response.writeHead(200, { "content-type": "application/x-ndjson", "cache-control": "no-store" });
    const lines = [...parts.nodes.ofAccount(account)].map((node) => this.#line(node));
    this.#write([...lines, { type: "synced" }]);
    this.#stopWatching = parts.nodes.watch((node) => this.#changed(node));
    this.#ping = this.#armPing();
  }

  #armPing(): Timer {
    return this.#parts.clock.setTimer(() => {
      this.#write([{ type: "ping", time: this.#parts.clock.now() }]);
      this.#ping = this.#armPing();
    }, feedPingMs);
  }

  #changed(node: KnownNode): void {
    if (node.account !== this.#account) return;
    this.#dirty.add(node);
    this.#gather ??= this.#parts.clock.setTimer(() => {
      this.#gather = undefined;
      const lines = [...this.#dirty].map((each) => this.#line(each));
      this.#dirty.clear();
      this.#write(lines);
    }, gatherMs);
  }

  #line(node: KnownNode): FeedNode {
    const { clock, dispatch } = this.#parts;
    const until = dispatch.node(node.nodeId)?.standing.deprioritisedUntil(clock.monotonic());
    return {
      type: "node",
      node_id: node.nodeId,
      kid: node.key.kid,
      connected: node.connected,
      since: node.since,
      epoch: node.epoch,
      deprioritised_until: until === undefined ? null : Math.round(clock.now() + until - clock.monotonic()),
      banned: node.banned,
      generation: node.generation,
      revoked: node.revocation !== 0,
      conflict: node.conflictAt,
      config_applied: node.configApplied,
      models_active: [...node.modelsActive],
      ...(node.xids.length > 0 && { xids: [...node.xids] }),
      jobs_committed: node.jobsCommitted,
      work: {
        config: node.work.config,
        completed: node.work.completed,
        failed: node.work.failed,
        duration_ms: node.work.durationMs,
      },
    };
  }

  #write(lines: readonly FeedLine[]): void {
    if (this.#response.destroyed) return;
    this.#response.write(lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    // What a large fleet's first lines take is not held against a reader that has just come.
    if (this.#response.writableLength <= Math.max(maxUnreadBytes, lines.length * 2048)) return;
    this.#parts.log.warn({ account: this.#account }, "feed reader does not read; cut");
    this.#response.destroy();
  }

  end(): void {
    this.#response.end();
  }

  close(): void {
    this.#stopWatching();
    this.#ping.cancel();
    this.#gather?.cancel();
  }
}

/** `GET /v1/fleet/feed`: the network's view of an account's nodes. */
export function feedRoutes(app: FastifyInstance, parts: FeedParts, feeds: Feeds): void {
  app.get(paths.feed, (request, reply) => {
    const { url: path, headers } = request;
    const asked = parts.accountRequests.check({ method: "GET", path, authorization: headers.authorization });
    if ("refused" in asked) return reply.code(401).send({ error: asked.refused });
    reply.hijack();
    feeds.begin(asked.account, reply.raw);
    return undefined;
  });
}
