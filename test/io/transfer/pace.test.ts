import { request } from "node:http";
import { fastify, type FastifyInstance } from "fastify";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { cutSlowBodies, pace, pacedStream } from "../../../src/io/transfer/pace.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { until } from "../../testbed/until.ts";

let app: FastifyInstance;
let clock: FakeClock;
let url: string;
let taken: number;

beforeEach(async () => {
  clock = new FakeClock();
  app = fastify();
  cutSlowBodies(app, clock);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("*", (_request, payload, parsed) => {
    payload.on("data", (piece: Buffer) => (taken += piece.length));
    payload.once("end", () => parsed(null));
  });
  app.post("/", (_request, reply) => reply.send("ok"));
  taken = 0;
  url = await app.listen({ host: "127.0.0.1", port: 0 });
});
afterEach(() => app.close());

/** A request that has begun, and how it ends. */
function sending(length: number) {
  const sent = request(url, { method: "POST", headers: { "content-type": "x/y", "content-length": length } });
  const end = new Promise<string>((resolve) => {
    sent.once("error", () => resolve("cut"));
    sent.once("response", (response) => resolve(String(response.resume().statusCode)));
  });
  sent.flushHeaders();
  return { sent, end };
}

describe("a request's body", () => {
  it("that stalls is cut", async () => {
    const { sent, end } = sending(1_000);
    sent.write("x");
    await until("the first byte", () => taken === 1, { intervalMs: 5 });
    clock.advance(pace.everyMs - 1);
    expect(sent.destroyed).toBe(false);
    clock.advance(1);
    expect(await end).toBe("cut");
    expect(clock.pending).toBe(0);
  });

  it("that comes fast enough is read, however large, until the longest time that one may take", async () => {
    const { sent, end } = sending(100 * pace.bytes);
    // What comes with the head is no part of the first time.
    await until("the head", () => clock.pending === 1, { intervalMs: 5 });
    for (let times = 1; times < pace.wholeMs / pace.everyMs; times++) {
      sent.write(Buffer.alloc(pace.bytes));
      await until("a piece", () => taken === times * pace.bytes, { intervalMs: 5 });
      clock.advance(pace.everyMs);
    }
    expect(sent.destroyed).toBe(false);
    sent.write(Buffer.alloc(pace.bytes));
    await until("the last piece", () => taken === (pace.wholeMs / pace.everyMs) * pace.bytes, {
      intervalMs: 5,
    });
    clock.advance(pace.everyMs);
    expect(await end).toBe("cut");
  });

  it("that has come whole is watched no more", async () => {
    const { sent, end } = sending(1);
    sent.end("x");
    expect(await end).toBe("200");
    expect(clock.pending).toBe(0);
  });
});

describe("a paced stream", () => {
  const bytes = Buffer.from(Array.from({ length: 300_000 }, (_, at) => at % 251));

  it("gives every byte, and is watched no more at its end", async () => {
    const parts: Buffer[] = [];
    for await (const part of pacedStream(bytes, clock)) parts.push(part as Buffer);
    expect(Buffer.concat(parts).equals(bytes)).toBe(true);
    expect(clock.pending).toBe(0);
  });

  it("that is not read is cut", async () => {
    const stream = pacedStream(bytes, clock);
    const failed = new Promise<Error>((resolve) => stream.once("error", resolve));
    clock.advance(pace.everyMs);
    expect((await failed).message).toBe("the reader is too slow");
    expect(clock.pending).toBe(0);
  });
});
