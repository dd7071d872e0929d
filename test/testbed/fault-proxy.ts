/**
 * A proxy in front of an API server that does what a test says with each request: answers in its place, loses the answer to
 * what the server has done, cuts it, holds it, or shows the past as a replica does that lags behind. HTTP/2 over TLS on
 * both sides, since that is what the operator speaks.
 */
import {
  type ClientHttp2Session,
  type ClientHttp2Stream,
  connect,
  constants,
  createSecureServer,
  type IncomingHttpHeaders,
  type OutgoingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
} from "node:http2";
import type { AddressInfo, Socket } from "node:net";
import { createAuthority } from "./certificates.ts";

/** One request, in the words of paths and RBAC. */
export interface Asked {
  readonly method: string;
  /** Path with query. */
  readonly url: string;
  /** `pods`, `resultitynodes/status`, … */
  readonly resource: string;
  /** Empty for a collection. */
  readonly name: string;
  readonly watch: boolean;
  /** A watch that begins with every object there is. */
  readonly initial: boolean;
  /** Would change something: dry runs do not count. */
  readonly write: boolean;
  readonly body: string;
  /** When it began to arrive (`performance.now()`). */
  readonly at: number;
  /** Status that the asker got; 0 = none, or none yet. */
  status: number;
}

/** What becomes of one request. */
export type Fault =
  /** The server never hears of it. `seconds`: Retry-After. */
  | { readonly do: "answer"; readonly status: number; readonly reason: string; readonly seconds?: number }
  /** The server does it; whoever asked learns the answer only where `judge` of its status says so. */
  | { readonly do: "judge"; readonly judge: (status: number) => "pass" | "lose" }
  /** The answer ends after so many bytes as if the connection had broken. */
  | { readonly do: "cut"; readonly afterBytes: number }
  /** The answer waits. */
  | { readonly do: "hold"; readonly until: Promise<unknown> };

/** The answer is lost, whatever it is. */
export const lose: Fault = { do: "judge", judge: () => "lose" };

interface Past {
  readonly bytes: Buffer;
  readonly resourceVersion: string;
}

/** A running proxy. */
export interface FaultProxy extends AsyncDisposable {
  readonly server: string;
  /** Certificate of the authority that signed the proxy's, PEM. */
  readonly ca: string;
  /** All requests so far, in order of arrival. */
  readonly log: readonly Asked[];
  /** Decides on each request; undefined = it passes. Default: all pass. */
  fault: (asked: Asked) => Fault | undefined;
  /** Writes that the server accepted. */
  accepted(): readonly Asked[];
  /** Breaks the watches of a resource, or all. */
  cutWatches(resource?: string): void;
  /** Away: connections are closed, and no new one is taken, until it is called with false. */
  away(is: boolean): void;
  /** Keeps what every watch so far would begin with now. */
  rememberPast(): Promise<void>;
  /**
   * Watches of these resources that begin anew are shown what {@link rememberPast} kept, and nothing more until `catchUp` is
   * called; then all that has happened since.
   */
  showPast(resources: readonly string[]): { readonly catchUp: () => void };
}

const authority = createAuthority("fault-proxy");
const certificate = authority.issue({ commonName: "proxy", usage: "server", hosts: ["127.0.0.1"] });

/** Starts a proxy on a free port of loopback to the API server at `target`, whose certificate `ca` signed. */
export async function startFaultProxy(target: string, ca: string): Promise<FaultProxy> {
  const log: Asked[] = [];
  const sessions = new Set<ServerHttp2Session>();
  const sockets = new Set<Socket>();
  const watches = new Map<ServerHttp2Stream, Asked>();
  const pasts = new Map<string, Past>();
  let isAway = false;
  let authorization = "";
  let past: { readonly resources: readonly string[]; readonly over: Promise<void> } | undefined;
  let upstream: ClientHttp2Session | undefined;

  const far = (): ClientHttp2Session => {
    if (upstream && !upstream.closed && !upstream.destroyed) return upstream;
    upstream = connect(target, { ca });
    upstream.on("error", () => undefined);
    return upstream;
  };

  const server = createSecureServer({ ...certificate });
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => sockets.delete(socket));
    if (isAway) socket.destroy();
  });
  server.on("session", (session) => {
    sessions.add(session);
    session.on("error", () => undefined);
    session.on("close", () => sessions.delete(session));
  });
  server.on("stream", (stream, headers) => {
    stream.on("error", () => undefined);
    const at = performance.now();
    const chunks: Buffer[] = [];
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => {
      const body = Buffer.concat(chunks);
      const asked = askedOf(headers, body.toString(), at);
      log.push(asked);
      authorization = headers.authorization ?? authorization;
      if (asked.watch) {
        watches.set(stream, asked);
        stream.on("close", () => watches.delete(stream));
      }
      handle(stream, headers, asked, body);
    });
  });

  const handle = (near: ServerHttp2Stream, headers: IncomingHttpHeaders, asked: Asked, body: Buffer) => {
    const fault = proxy.fault(asked);
    if (fault?.do === "answer") {
      asked.status = fault.status;
      refuse(near, fault);
      return;
    }
    const kept = asked.initial ? pasts.get(keyOf(asked)) : undefined;
    if (kept && past?.resources.includes(asked.resource) && !fault) {
      void replay(near, headers, asked, kept, past.over);
      return;
    }
    const request = far().request(forwarded(headers), { endStream: body.length === 0 });
    if (body.length > 0) request.end(body);
    answer(near, request, asked, fault);
  };

  /** As a replica that is behind: the state of then, and after it has caught up what came since. */
  const replay = async (
    near: ServerHttp2Stream,
    headers: IncomingHttpHeaders,
    asked: Asked,
    { bytes, resourceVersion }: Past,
    over: Promise<void>,
  ) => {
    asked.status = 200;
    near.respond({ ":status": 200, "content-type": "application/json" });
    near.write(bytes);
    await over;
    if (near.destroyed) return;
    const url = new URL(asked.url, target);
    url.searchParams.delete("sendInitialEvents");
    url.searchParams.delete("resourceVersionMatch");
    url.searchParams.set("resourceVersion", resourceVersion);
    const request = far().request({ ...forwarded(headers), ":path": `${url.pathname}${url.search}` });
    ended(near, request);
    request.pipe(near);
  };

  const proxy: FaultProxy = {
    server: "",
    ca: authority.cert,
    log,
    fault: () => undefined,
    accepted: () => log.filter(({ write, status }) => write && status >= 200 && status < 300),
    cutWatches(resource) {
      for (const [stream, asked] of watches) {
        if (resource === undefined || asked.resource === resource) broken(stream);
      }
    },
    away(is) {
      isAway = is;
      if (!is) return;
      for (const session of sessions) session.destroy();
      for (const socket of sockets) socket.destroy();
    },
    async rememberPast() {
      const latest = new Map(log.filter(({ watch }) => watch).map((asked) => [keyOf(asked), asked]));
      for (const [key, asked] of latest) {
        const url = new URL(asked.url, target);
        url.searchParams.set("sendInitialEvents", "true");
        url.searchParams.set("resourceVersionMatch", "NotOlderThan");
        url.searchParams.delete("resourceVersion");
        pasts.set(key, await firstState(far(), `${url.pathname}${url.search}`, authorization));
      }
    },
    showPast(resources) {
      const { promise, resolve } = Promise.withResolvers<void>();
      past = { resources, over: promise };
      return {
        catchUp() {
          past = undefined;
          resolve();
        },
      };
    },
    async [Symbol.asyncDispose]() {
      upstream?.destroy();
      for (const session of sessions) session.destroy();
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  return Object.assign(proxy, { server: `https://127.0.0.1:${port}` });
}

/** Passes the server's answer on, or what the fault leaves of it. */
function answer(
  near: ServerHttp2Stream,
  request: ClientHttp2Stream,
  asked: Asked,
  fault: Exclude<Fault, { do: "answer" }> | undefined,
): void {
  ended(near, request);
  request.once("response", (headers) => {
    const status = Number(headers[":status"]);
    // What the server did counts, also where nobody learns of it.
    asked.status = status;
    if (fault?.do === "judge" && fault.judge(status) === "lose") {
      request.close();
      broken(near);
      return;
    }
    const pass = () => {
      if (near.destroyed) return;
      near.respond(answerHeaders(headers));
      if (fault?.do === "cut") cutAfter(near, request, fault.afterBytes);
      else request.pipe(near);
    };
    if (fault?.do === "hold") void fault.until.then(pass);
    else pass();
  });
}

function cutAfter(near: ServerHttp2Stream, request: ClientHttp2Stream, bytes: number): void {
  let left = bytes;
  request.on("data", (chunk: Buffer) => {
    if (left <= 0) return;
    const part = chunk.subarray(0, left);
    left -= part.length;
    near.write(part, () => {
      if (left <= 0) broken(near);
    });
  });
  request.once("end", () => near.end());
}

/** When one side ends, the other does. */
function ended(near: ServerHttp2Stream, request: ClientHttp2Stream): void {
  request.on("error", () => broken(near));
  near.on("close", () => request.close(constants.NGHTTP2_CANCEL));
}

function broken(stream: ServerHttp2Stream): void {
  if (!stream.destroyed) stream.close(constants.NGHTTP2_INTERNAL_ERROR);
}

function refuse(near: ServerHttp2Stream, { status, reason, seconds }: Fault & { do: "answer" }): void {
  const body = { kind: "Status", apiVersion: "v1", status: "Failure", code: status, reason };
  near.respond({
    ":status": status,
    "content-type": "application/json",
    ...(seconds === undefined ? {} : { "retry-after": String(seconds) }),
  });
  near.end(JSON.stringify({ ...body, message: `fault injected: ${reason}` }));
}

/** Everything that a watch begins with, up to the bookmark that ends it. */
function firstState(session: ClientHttp2Session, path: string, authorization: string): Promise<Past> {
  return new Promise((resolve, reject) => {
    const request = session.request({ ":path": path, authorization, accept: "application/json" });
    let text = "";
    request.on("error", reject);
    request.on("data", (chunk: Buffer) => {
      text += chunk.toString();
      const end = text.split("\n").findIndex((line) => line.includes("k8s.io/initial-events-end"));
      const bytes = text.split("\n").slice(0, end + 1);
      const last = bytes.at(-1);
      if (end < 0 || last === undefined || text.split("\n").length <= end + 1) return;
      const bookmark: { object: { metadata: { resourceVersion: string } } } = JSON.parse(last);
      request.close(constants.NGHTTP2_CANCEL);
      const { resourceVersion } = bookmark.object.metadata;
      resolve({ bytes: Buffer.from(`${bytes.join("\n")}\n`), resourceVersion });
    });
  });
}

/** What a watch is of: its path and selectors. */
function keyOf({ url }: Asked): string {
  const { pathname, searchParams } = new URL(url, "https://x");
  return `${pathname} ${searchParams.get("labelSelector") ?? ""}`;
}

function askedOf(headers: IncomingHttpHeaders, body: string, at: number): Asked {
  const [url, method] = [headers[":path"] ?? "", headers[":method"] ?? ""];
  const { pathname, searchParams } = new URL(url, "https://x");
  const parts = pathname.split("/").slice(pathname.startsWith("/apis/") ? 4 : 3);
  const [resource = "", name = "", sub] =
    parts[0] === "namespaces" && parts.length > 2 ? parts.slice(2) : parts;
  const dryRun = searchParams.has("dryRun") || body.includes('"dryRun"');
  return {
    method,
    url,
    resource: sub === undefined ? resource : `${resource}/${sub}`,
    name,
    watch: searchParams.get("watch") === "true",
    initial: searchParams.get("sendInitialEvents") === "true",
    write: method !== "GET" && !dryRun,
    body,
    at,
    status: 0,
  };
}

/** Headers of a connection mean nothing on another one. */
const ofConnection = new Set([":scheme", ":authority", "host", "content-length", "connection"]);

function forwarded(headers: IncomingHttpHeaders): OutgoingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !ofConnection.has(name)));
}

function answerHeaders(headers: IncomingHttpHeaders): OutgoingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !ofConnection.has(name)));
}
