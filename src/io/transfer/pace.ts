import { Readable } from "node:stream";
import type { FastifyInstance } from "fastify";
import type { Clock, Timer } from "../../lib/clock.ts";

/** A body must bring (or take) so much in each such time, and be whole within the last. */
export const pace = { bytes: 256 * 1024, everyMs: 30_000, wholeMs: 5 * 60_000 } as const;

/** Cuts the connection of every request whose body comes too slowly, or stalls: it would hold its memory for nothing. */
export function cutSlowBodies(app: FastifyInstance, clock: Clock): void {
  app.addHook("onRequest", ({ raw }, _reply, go) => {
    const { "content-length": length, "transfer-encoding": encoding } = raw.headers;
    if (length !== undefined || encoding !== undefined) {
      // What the socket has read, headers and all: it is looked at, not listened to, so nothing flows because of it.
      const watch = new Pace(
        clock,
        () => raw.socket.bytesRead,
        () => raw.destroy(),
      );
      const over = () => watch.stop();
      raw.once("end", over).once("close", over);
    }
    go();
  });
}

/** Bytes as a stream in pieces, each when the one before has been taken; a reader that is too slow has it destroyed. */
export function pacedStream(bytes: Buffer, clock: Clock): Readable {
  let at = 0;
  const stream = new Readable({
    highWaterMark: 1,
    read() {
      const piece = bytes.subarray(at, at + 64 * 1024);
      at += piece.length;
      this.push(piece.length > 0 ? piece : null);
    },
  });
  const watch = new Pace(
    clock,
    () => at,
    () => stream.destroy(new Error("the reader is too slow")),
  );
  stream.once("close", () => watch.stop());
  return stream;
}

/** Watches that a count of bytes grows. */
class Pace {
  readonly #clock: Clock;
  readonly #count: () => number;
  readonly #cut: () => void;
  readonly #end: number;
  #last: number;
  #timer: Timer;

  constructor(clock: Clock, count: () => number, cut: () => void) {
    this.#clock = clock;
    this.#count = count;
    this.#cut = cut;
    this.#end = clock.monotonic() + pace.wholeMs;
    this.#last = count();
    this.#timer = this.#arm();
  }

  stop(): void {
    this.#timer.cancel();
  }

  #arm(): Timer {
    return this.#clock.setTimer(() => {
      const count = this.#count();
      if (count - this.#last < pace.bytes || this.#clock.monotonic() >= this.#end) return this.#cut();
      this.#last = count;
      this.#timer = this.#arm();
    }, pace.everyMs);
  }
}
