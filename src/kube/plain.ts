import { request } from "node:http";
import type { OpenAnswer } from "./answer.ts";

/** One exchange in plain HTTP/1.1, for `kubectl proxy` and other servers on loopback. */
export function openPlain(
  server: URL,
  method: string,
  path: string,
  headers: Readonly<Record<string, string>>,
  body: string | undefined,
  signal: AbortSignal,
): Promise<OpenAnswer> {
  return new Promise((resolve, reject) => {
    const exchange = request({ host: server.hostname, port: server.port || 80, method, path, headers });
    const aborted = () => {
      exchange.destroy();
      reject(signal.reason);
    };
    signal.addEventListener("abort", aborted, { once: true });
    exchange.once("response", (answer) => {
      signal.removeEventListener("abort", aborted);
      const cancel = () => {
        answer.destroy();
        exchange.destroy();
      };
      resolve({ status: answer.statusCode ?? 0, headers: answer.headers, body: answer, cancel });
    });
    exchange.on("error", (error) => {
      signal.removeEventListener("abort", aborted);
      reject(error);
    });
    if (signal.aborted) aborted();
    else exchange.end(body);
  });
}
