import { PassThrough, type Readable } from "node:stream";
import { KubeError, type RequestContext, phrase } from "./errors.ts";

/** Beginning of an answer, whose body is yet to be read. */
export interface OpenAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | number | undefined>>;
  readonly body: Readable;
  /** Ends the exchange; the body then fails. */
  cancel(): void;
}

/**
 * Reads a whole body. With events and not with `for await`, since Node's iterator takes an HTTP/2 stream that the server has
 * closed for broken, though its data waits to be read.
 */
export function readText(answer: OpenAnswer, maxBytes: number, context: RequestContext): Promise<string> {
  const { body } = answer;
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let size = 0;
    body.on("data", (chunk: Buffer) => {
      size += chunk.length;
      if (size <= maxBytes) chunks.push(chunk);
      else {
        const message = `${phrase(context)}: the answer is longer than ${maxBytes} bytes`;
        reject(new KubeError("TooLarge", message, context));
        answer.cancel();
      }
    });
    body.once("end", () => resolve(Buffer.concat(chunks).toString("utf8")));
    body.once("error", reject);
    body.once("close", () => reject(new Error("the answer was cut")));
    if (body.destroyed) reject(new Error("the answer was cut"));
  });
}

/** The body for an iterator: a stream of our own, for the reason given at {@link readText}. */
export function iterable(answer: OpenAnswer): OpenAnswer {
  const { body } = answer;
  const own = new PassThrough();
  // Who iterates is told by the iterator; this is for a body that nobody came to read.
  own.on("error", () => undefined);
  body.once("error", (error) => own.destroy(error));
  body.once("close", () => {
    if (!body.readableEnded) own.destroy(new Error("the answer was cut"));
  });
  own.once("close", () => answer.cancel());
  if (body.destroyed) own.destroy(new Error("the answer was cut"));
  else body.pipe(own);
  // Node ends a stream that we cancel as if the server had ended it: the reader has to know the difference.
  const cancel = () => {
    own.destroy(new Error("given up by the caller"));
    answer.cancel();
  };
  return { ...answer, body: own, cancel };
}
