import { PassThrough } from "node:stream";
import { fastify } from "fastify";
import { describe, expect, it } from "vitest";
import { ByteBudget } from "../../../src/lib/byte-budget.ts";
import { BodyError, collectBody, smallBody } from "../../../src/io/transfer/body.ts";

const most = 1_000_000;

/** What `collectBody` fails with. */
async function failure(collected: Promise<unknown>): Promise<string> {
  try {
    await collected;
  } catch (error) {
    if (error instanceof BodyError) return error.code;
    throw error;
  }
  return "none";
}

describe("a body that is collected", () => {
  it.each([11, undefined])(
    "is whole, and its memory is counted until it is released (length %s)",
    async (length) => {
      const budget = new ByteBudget(most);
      const stream = new PassThrough();
      const collected = collectBody(stream, budget, { length, most });
      expect(budget.used).toBe(length ?? 0);
      stream.write("hello ");
      stream.end("world");
      const body = await collected;
      expect(body.bytes.toString()).toBe("hello world");
      expect(budget.used).toBeGreaterThanOrEqual(11);
      body.release();
      body.release();
      expect(budget.used).toBe(0);
    },
  );

  it("is refused before its first byte when it says that it is too large, or more than there is memory for", async () => {
    const budget = new ByteBudget(most);
    const tooLarge = new PassThrough();
    expect(await failure(collectBody(tooLarge, budget, { length: most + 1, most }))).toBe("too_large");
    budget.hold(most - 10);
    expect(await failure(collectBody(new PassThrough(), budget, { length: 11, most }))).toBe("busy");
    expect(budget.used).toBe(most - 10);
    expect(tooLarge.listenerCount("data")).toBe(0);
  });

  it("of unknown length is refused once it is, the rest flows on unread, and its memory is free", async () => {
    const budget = new ByteBudget(10 * most);
    const stream = new PassThrough();
    const collected = failure(collectBody(stream, budget, { length: undefined, most }));
    stream.write(Buffer.alloc(most));
    stream.write(Buffer.alloc(1));
    expect(await collected).toBe("too_large");
    expect(budget.used).toBe(0);
    for (let n = 0; n < 20; n++) stream.write(Buffer.alloc(100_000));
    stream.end();
    await new Promise<void>((resolve) => stream.once("end", resolve));
  });

  it.each([6, undefined])("keeps none of the pieces in which it came (length %s)", async (length) => {
    const stream = new PassThrough();
    const budget = new ByteBudget(most);
    const collected = collectBody(stream, budget, { length, most });
    const pieces = ["a", "b", "c", "d", "e", "f"].map((text) => Buffer.from(text));
    for (const piece of pieces) {
      stream.write(piece);
      await new Promise((resolve) => setImmediate(resolve));
      piece.fill("-");
    }
    stream.end();
    expect((await collected).bytes.toString()).toBe("abcdef");
  });

  it("of unknown length never takes more than one body may", async () => {
    const budget = new ByteBudget(10 * most);
    const stream = new PassThrough();
    const collected = collectBody(stream, budget, { length: undefined, most });
    for (let at = 0; at < most; at += 50_000) stream.write(Buffer.alloc(50_000, at / 50_000));
    stream.end();
    const { bytes } = await collected;
    expect([bytes.length, bytes[most - 1], budget.used]).toEqual([most, 19, most]);
  });

  it.each([10, undefined])("that is cut is none, and its memory is free (length %s)", async (length) => {
    const budget = new ByteBudget(most);
    const stream = new PassThrough();
    const collected = failure(collectBody(stream, budget, { length, most }));
    stream.write("12345");
    stream.destroy();
    expect(await collected).toBe("cut");
    expect(budget.used).toBe(0);
    expect(await failure(collectBody(stream, budget, { length, most }))).toBe("cut");
  });

  it("that ends before its length is none", async () => {
    const stream = new PassThrough();
    stream.end("12345");
    expect(await failure(collectBody(stream, new ByteBudget(most), { length: 10, most }))).toBe("cut");
  });
});

it("a small body is read up to its limit, and no body that nobody asks for", async () => {
  const app = fastify();
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("x/y", smallBody(6));
  app.post("/", ({ body }) => (Buffer.isBuffer(body) ? body.toString() : "none"));
  const post = async (body: string, type = "x/y") => {
    const request = { method: "POST", url: "/", headers: { "content-type": type }, body } as const;
    const { statusCode, payload } = await app.inject(request);
    return statusCode === 200 ? payload : statusCode;
  };
  expect(await post("abcdef")).toBe("abcdef");
  expect(await post("abcdefg")).toBe(413);
  expect(await post("{}", "application/json")).toBe(415);
  await app.close();
});
