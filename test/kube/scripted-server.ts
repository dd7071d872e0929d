import {
  type IncomingHttpHeaders,
  type ServerHttp2Session,
  type ServerHttp2Stream,
  type Settings,
  createSecureServer,
} from "node:http2";
import type { ApiConnection } from "../../src/kube/config.ts";
import { createAuthority } from "../testbed/certificates.ts";

/** One request that arrived, and the stream to answer it on. */
export interface Exchange {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  readonly stream: ServerHttp2Stream;
  /** Answers with a JSON body and ends. */
  json(status: number, body: unknown, headers?: Record<string, string>): void;
  /** Begins a watch. */
  watch(): Watch;
}

/** A watch that is fed by hand. */
export interface Watch {
  send(type: string, object: object): void;
  /** Bytes as they are. */
  raw(bytes: string | Buffer): void;
  end(): void;
  /** Ends the stream as a broken connection does. */
  cut(): void;
}

/** An HTTP/2 server that answers as a test says. */
export interface ScriptedServer extends AsyncDisposable {
  readonly port: number;
  readonly connection: ApiConnection;
  /** Paths with query, in order of arrival, after their method. */
  readonly requests: string[];
  readonly sessions: Set<ServerHttp2Session>;
  /** Connections so far. */
  readonly accepted: () => number;
  /** Answers every request from here on. */
  answer: (exchange: Exchange) => void;
}

const authority = createAuthority("test");
const certificate = authority.issue({
  commonName: "server",
  usage: "server",
  hosts: ["127.0.0.1", "localhost"],
});

/** Starts a server on a free port of loopback. @param settings of HTTP/2, as it tells them to clients */
export async function startScriptedServer(
  answer: (exchange: Exchange) => void,
  settings: Settings = {},
): Promise<ScriptedServer> {
  const server = createSecureServer({ ...certificate, settings });
  const sessions = new Set<ServerHttp2Session>();
  const requests: string[] = [];
  let accepted = 0;
  server.on("session", (session) => {
    accepted++;
    sessions.add(session);
    session.on("error", () => undefined);
    session.on("close", () => sessions.delete(session));
  });
  server.on("stream", (stream, headers) => {
    const url = new URL(headers[":path"] ?? "/", "https://x");
    const method = headers[":method"] ?? "";
    requests.push(`${method} ${headers[":path"]}`);
    stream.on("error", () => undefined);
    const chunks: Buffer[] = [];
    stream.on("data", (chunk: Buffer) => chunks.push(chunk));
    stream.on("end", () => {
      scripted.answer({
        method,
        path: url.pathname,
        query: url.searchParams,
        headers,
        body: Buffer.concat(chunks).toString(),
        stream,
        json(status, body, more = {}) {
          stream.respond({ ":status": status, "content-type": "application/json", ...more });
          stream.end(JSON.stringify(body));
        },
        watch: () => watchOn(stream),
      });
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address ? address.port : 0;
  const scripted: ScriptedServer = {
    port,
    connection: connectionTo(port),
    requests,
    sessions,
    accepted: () => accepted,
    answer,
    async [Symbol.asyncDispose]() {
      for (const session of sessions) session.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return scripted;
}

/** A connection to the scripted server by way of `port`, where a proxy may listen. */
export function connectionTo(port: number): ApiConnection {
  return {
    server: new URL(`https://127.0.0.1:${port}`),
    namespace: undefined,
    tls: async () => ({ ca: authority.cert }),
    headers: async () => ({ authorization: "Bearer test" }),
  };
}

/** The body with which the API server refuses. */
export function status(code: number, reason: string, message: string): object {
  return { kind: "Status", apiVersion: "v1", status: "Failure", code, reason, message };
}

function watchOn(stream: ServerHttp2Stream): Watch {
  stream.respond({ ":status": 200, "content-type": "application/json" });
  return {
    send: (type, object) => void stream.write(`${JSON.stringify({ type, object })}\n`),
    raw: (bytes) => void stream.write(bytes),
    end: () => void stream.end(),
    cut: () => void stream.destroy(new Error("cut")),
  };
}
