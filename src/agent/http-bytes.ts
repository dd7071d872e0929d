import type { Clock } from "../lib/clock.ts";
import type { Http, HttpHead, HttpRequest } from "./ports.ts";

/** A whole answer. */
export interface HttpAnswerBytes extends HttpHead {
  readonly body: Buffer;
}

/**
 * Sends a request and collects its answer.
 *
 * @param limits `maxBytes` of the body, `timeoutMs` for all of it.
 * @throws Error when the answer fails, is larger or takes longer; the message names the URL.
 */
export function requestBytes(
  http: Http,
  clock: Clock,
  request: HttpRequest,
  limits: { readonly maxBytes: number; readonly timeoutMs: number },
): Promise<HttpAnswerBytes> {
  const what = `${request.method} ${request.url}`;
  return new Promise((resolve, reject) => {
    let head: HttpHead | undefined;
    let size = 0;
    const parts: Uint8Array[] = [];
    const give = (error: Error) => {
      timer.cancel();
      exchange.abort();
      reject(error);
    };
    const timer = clock.setTimer(
      () => give(new Error(`${what}: no answer within ${limits.timeoutMs} ms`)),
      limits.timeoutMs,
    );
    const exchange = http.request(request, {
      head: (answer) => (head = answer),
      data(bytes) {
        size += bytes.length;
        if (size > limits.maxBytes)
          give(new Error(`${what}: answer is larger than ${limits.maxBytes} bytes`));
        else parts.push(bytes);
      },
      end() {
        timer.cancel();
        if (head) resolve({ ...head, body: Buffer.concat(parts) });
        else reject(new Error(`${what}: ended without an answer`));
      },
      failed(error) {
        timer.cancel();
        reject(new Error(what, { cause: error }));
      },
    });
  });
}
