import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { type WebSocket, WebSocketServer } from "ws";
import { paths } from "../../protocol/http.ts";
import { maxFrameBytes, subprotocol } from "../../protocol/messages.ts";
import type { IoMetrics } from "../metrics.ts";
import type { Sessions } from "./sessions.ts";
import type { Wire } from "./wire.ts";

/** A WebSocket as the wire of a session. */
export function wsWire(ws: WebSocket): Wire {
  // `ws` has closed the connection with the right code by then (1009, 1007); "close" follows.
  ws.on("error", () => {});
  return {
    hear(listener) {
      ws.on("message", (data: Buffer, isBinary) =>
        listener.message(isBinary ? undefined : data.toString("latin1")),
      );
      ws.on("close", (code) => listener.closed(code));
    },
    send: (text) => ws.send(text),
    close: (code, reason) => ws.close(code, reason),
    terminate: () => ws.terminate(),
    get buffered() {
      return ws.bufferedAmount;
    },
  };
}

/** Takes upgrades of the HTTP server and makes WebSockets of them. */
export class Upgrades {
  readonly #sessions: Sessions;
  readonly #metrics: IoMetrics;
  readonly #server = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: maxFrameBytes,
    // What comes in crumbs costs many times its size, and strangers may send it; nobody honest cuts a frame so small.
    maxFragments: 1_024,
    maxBufferedChunks: 4_096,
    clientTracking: false,
    handleProtocols: (offered) => (offered.has(subprotocol) ? subprotocol : false),
  });

  constructor(sessions: Sessions, metrics: IoMetrics) {
    this.#sessions = sessions;
    this.#metrics = metrics;
  }

  /** Takes an upgrade. In order: path, subprotocol, then what {@link Sessions.refusal} asks. */
  take(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    const ip = request.socket.remoteAddress ?? "";
    const path = request.url?.split("?")[0];
    if (path !== paths.session) return this.#refuse(socket, 404, "Not Found", "path");
    const offered = request.headers["sec-websocket-protocol"]?.split(",").map((name) => name.trim());
    if (!offered?.includes(subprotocol)) return this.#refuse(socket, 400, "Bad Request", "subprotocol");
    const why = this.#sessions.refusal(ip);
    if (why === "rate") return this.#refuse(socket, 429, "Too Many Requests", why);
    if (why === "opening") return this.#refuse(socket, 503, "Service Unavailable", why);
    this.#server.handleUpgrade(request, socket, head, (ws) => this.#sessions.begin(wsWire(ws), ip));
  }

  #refuse(socket: Duplex, status: number, text: string, why: string): void {
    this.#metrics.refusedUpgrades.inc({ why });
    const retry = status === 400 || status === 404 ? "" : "Retry-After: 5\r\n";
    socket.on("error", () => {});
    // The HTTP server no longer looks after this connection: a peer that never closes its half would keep it for ever.
    socket.once("finish", () => socket.destroy());
    socket.end(`HTTP/1.1 ${status} ${text}\r\nConnection: close\r\nContent-Length: 0\r\n${retry}\r\n`);
  }
}
