import { createHash } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { ConfigDigest } from "../../../src/protocol/fields.ts";
import { freePort } from "../../testbed/ports.ts";

/** One open fleet feed. */
export interface OpenFeed {
  readonly authorization: string;
  readonly closed: Promise<void>;
  /** Sends a line; an object as JSON, a string as it is. */
  line(line: object | string): void;
  end(): void;
}

/** An IO service that serves what the test puts there, right or wrong. */
export interface ScriptedIo {
  readonly url: string;
  /** `GET <path> <status>` of each request that was answered. */
  readonly log: string[];
  root: string | undefined;
  release: string | undefined;
  readonly snapshots: Map<string, Buffer>;
  /** Answers instead of everything else; returns false for what it leaves to the script. */
  intercept: ((request: IncomingMessage, response: ServerResponse) => boolean) | undefined;
  readonly feeds: OpenFeed[];
  /** Status of the feed; 200 by default. */
  feedStatus: number;
  put(digest: ConfigDigest, bytes: Buffer): void;
  /** Ends every connection and stops listening; `start` listens again on the same port. */
  stop(): Promise<void>;
  start(): Promise<void>;
  [Symbol.asyncDispose](): Promise<void>;
}

/** @param at where it listens, also after it was stopped for a while; default a free port of the loopback. */
export async function startScriptedIo(at?: { host: string; port: number }): Promise<ScriptedIo> {
  const where = at ?? { host: "127.0.0.1", port: await freePort() };
  const server = createServer((request, response) => {
    response.on("finish", () => io.log.push(`GET ${request.url} ${response.statusCode}`));
    if (io.intercept?.(request, response)) return;
    const url = request.url ?? "";
    const digest = /^\/v1\/config\/snapshots\/(.*)$/.exec(url)?.[1];
    if (url === "/v1/config/root") tagged(request, response, io.root);
    else if (url === "/v1/config/release") tagged(request, response, io.release);
    else if (digest !== undefined) answer(response, io.snapshots.get(digest));
    else if (url === "/v1/fleet/feed") openFeed(request, response);
    else answer(response, undefined);
  });
  const openFeed = (request: IncomingMessage, response: ServerResponse) => {
    response.writeHead(io.feedStatus, { "content-type": "application/x-ndjson" });
    if (io.feedStatus !== 200) {
      response.end();
      return;
    }
    response.flushHeaders();
    const closed = new Promise<void>((resolve) => response.on("close", resolve));
    io.feeds.push({
      authorization: request.headers.authorization ?? "",
      closed,
      line: (line) => response.write(typeof line === "string" ? line : `${JSON.stringify(line)}\n`),
      end: () => response.end(),
    });
  };
  const listen = () =>
    new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(where.port, where.host, resolve);
    });
  await listen();
  const stop = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  const io: ScriptedIo = {
    url: `http://${where.host}:${where.port}`,
    log: [],
    root: undefined,
    release: undefined,
    snapshots: new Map(),
    intercept: undefined,
    feeds: [],
    feedStatus: 200,
    put: (digest, bytes) => void io.snapshots.set(digest, bytes),
    stop,
    start: listen,
    [Symbol.asyncDispose]: stop,
  };
  return io;
}

function tagged(request: IncomingMessage, response: ServerResponse, body: string | undefined): void {
  const etag =
    body === undefined ? undefined : `"${createHash("sha256").update(body).digest("hex").slice(0, 16)}"`;
  if (etag !== undefined && request.headers["if-none-match"] === etag) {
    response.writeHead(304, { etag }).end();
    return;
  }
  if (etag !== undefined) response.setHeader("etag", etag);
  answer(response, body);
}

function answer(response: ServerResponse, body: string | Buffer | undefined): void {
  response.writeHead(body === undefined ? 404 : 200).end(body ?? "not found");
}
