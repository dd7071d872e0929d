import { Agent as HttpAgent, type IncomingMessage, request as httpRequest } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import type { Http } from "../ports.ts";
import type { ProxyEnv } from "./transport.ts";

/**
 * HTTP by Node's own client, which costs less memory than a second one would. What goes to loopback, that is to the
 * engine, never takes a proxy; its connections are given up after 2 s, before the engine does so just as a request is on
 * its way (uvicorn and Node close idle ones after 5 s).
 */
export function nodeHttp(proxyEnv: ProxyEnv): Http {
  // The time-out of an agent is that of its idle connections; requests have none.
  const options = { keepAlive: true, maxFreeSockets: 16, timeout: 30_000 };
  const local = new HttpAgent({ ...options, timeout: 2_000 });
  const plain = new HttpAgent({ ...options, proxyEnv });
  const secure = new HttpsAgent({ ...options, proxyEnv });
  return {
    request({ method, url, headers, body }, handlers) {
      const { protocol, hostname } = new URL(url);
      const agent = protocol === "https:" ? secure : hostname.startsWith("127.") ? local : plain;
      const send = protocol === "https:" ? httpsRequest : httpRequest;
      const sent = send(url, {
        method,
        agent,
        headers: { ...headers, ...(body !== undefined && { "content-length": Buffer.byteLength(body) }) },
      });
      let over = false;
      let paused = false;
      let answer: IncomingMessage | undefined;
      const end = (act: () => void) => {
        if (over) return;
        over = true;
        act();
      };
      sent.on("error", (error) => end(() => handlers.failed(error)));
      sent.on("response", (response) => {
        if (over) return;
        answer = response;
        handlers.head({ status: response.statusCode ?? 0, headers: response.headers });
        response.on("data", (bytes: Buffer) => {
          if (!over) handlers.data(bytes);
        });
        // Listening for data has set it flowing.
        if (paused) response.pause();
        response.on("end", () =>
          end(() => {
            if (response.complete) handlers.end();
            else handlers.failed(new Error("the connection was cut in mid-answer"));
          }),
        );
        response.on("error", (error) => end(() => handlers.failed(error)));
      });
      sent.end(body);
      return {
        abort() {
          over = true;
          sent.destroy();
        },
        pause() {
          paused = true;
          answer?.pause();
        },
        resume() {
          paused = false;
          answer?.resume();
        },
      };
    },
  };
}
