import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import { WebSocket } from "ws";
import { messageOf } from "../../lib/errors.ts";
import { maxFrameBytes, subprotocol } from "../../protocol/messages.ts";
import type { Transport } from "../ports.ts";

/** Proxy settings as in the environment: `HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`. */
export type ProxyEnv = Readonly<Record<string, string | undefined>>;

const connectTimeoutMs = 10_000;

/** WebSockets by `ws`: no compression, frames bounded. */
export function wsTransport(proxyEnv: ProxyEnv): Transport {
  // A proxy is entered by CONNECT, which only the TLS agent does; plain ws:// is for loopback and tests.
  const secure = new HttpsAgent({ proxyEnv });
  const plain = new HttpAgent();
  return {
    dial(url, handlers) {
      const socket = new WebSocket(url, [subprotocol], {
        perMessageDeflate: false,
        maxPayload: maxFrameBytes,
        handshakeTimeout: connectTimeoutMs,
        followRedirects: false,
        agent: url.startsWith("wss:") ? secure : plain,
      });
      let why = "";
      socket.on("open", () => handlers.opened());
      socket.on("message", (data, binary) => {
        // With the default binaryType a message is one Buffer.
        handlers.message(binary || !Buffer.isBuffer(data) ? undefined : data.toString("utf8"));
      });
      socket.on("error", (error) => (why = messageOf(error)));
      socket.on("close", (code, reason) => handlers.closed(code, reason.toString("utf8") || why));
      return {
        send: (text) => socket.send(text),
        close: (code, reason) => socket.close(code, reason),
        terminate: () => socket.terminate(),
        get buffered() {
          return socket.bufferedAmount;
        },
      };
    },
  };
}
