import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { describe, expect, it } from "vitest";
import { ByteBudget } from "../../../src/lib/byte-budget.ts";
import { AnswerError, AnswerReader } from "../../../src/agent/jobs/answer.ts";

const events = { "content-type": "text/event-stream; charset=utf-8" };
const delta = (content: string) =>
  `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content } }] })}\n\n`;
const done = "data: [DONE]\n\n";

function read(
  stream: boolean,
  status: number,
  headers: Record<string, string>,
  ...parts: string[]
): AnswerReader {
  const reader = new AnswerReader(stream, 1_000, new ByteBudget(1e9));
  reader.head({ status, headers });
  for (const part of parts) reader.data(Buffer.from(part));
  reader.end();
  return reader;
}

const kindOf = (act: () => void): string => {
  try {
    act();
  } catch (thrown) {
    if (thrown instanceof AnswerError) return thrown.kind;
    throw thrown;
  }
  return "none";
};

describe("AnswerReader", () => {
  it("takes token counts from the last event that has them", () => {
    const usage = `data: ${JSON.stringify({ choices: [], usage: { prompt_tokens: 3, completion_tokens: 2, total_tokens: 5 } })}\n\n`;
    const reader = read(true, 200, events, delta("a"), delta("b"), usage, done);
    expect(reader.usage()).toEqual({ prompt_tokens: 3, completion_tokens: 2 });
  });

  it("counts relayed deltas when the engine gives no counts, and invents nothing else", () => {
    const role = `data: ${JSON.stringify({ choices: [{ delta: { role: "assistant", content: "" } }] })}\n\n`;
    const reader = read(true, 200, events, role, delta("a"), delta("b"), ": keep-alive\n\n", done);
    expect(reader.usage()).toEqual({ prompt_tokens: 0, completion_tokens: 2 });
  });

  it("takes counts of a plain answer, and none that are no counts", () => {
    const plain = (usage: unknown) => read(false, 200, {}, JSON.stringify({ usage })).usage();
    expect(plain({ prompt_tokens: 1, completion_tokens: 4 })).toEqual({
      prompt_tokens: 1,
      completion_tokens: 4,
    });
    for (const wrong of [null, { prompt_tokens: -1, completion_tokens: 1 }, { prompt_tokens: "1" }, []])
      expect(plain(wrong)).toEqual({ prompt_tokens: 0, completion_tokens: 0 });
  });

  it("passes on a refusal 4xx as it is, whether or not it is JSON", () => {
    const reader = read(true, 400, { "content-type": "text/plain" }, "no such parameter");
    expect([...reader.output.events()].join("")).toBe("no such parameter");
    expect(reader.status).toBe(400);
  });

  it("tells an engine that is full or lacks the model from one that is broken", () => {
    const head = (status: number) =>
      kindOf(() => new AnswerReader(false, 9, new ByteBudget(1e9)).head({ status, headers: {} }));
    expect([429, 404, 500, 503, 302, 101, 400].map(head)).toEqual([
      "busy",
      "model",
      "engine",
      "engine",
      "engine",
      "engine",
      "none",
    ]);
  });

  it.each([
    ["a streamed request without events", true, {}, ["{}"]],
    ["a stream without [DONE]", true, events, [delta("a")]],
    ["events that are not JSON", true, events, ["data: garbage\n\n", done]],
    ["a plain answer that is not JSON", false, {}, ["\u0000\u0001{]"]],
    ["a plain answer over the limit", false, {}, ['"', "x".repeat(1_000), '"']],
    ["a stream over the limit", true, events, [delta("x".repeat(500)), delta("x".repeat(500)), done]],
    ["an event without an end", true, events, ["data: ", "x".repeat(1024 * 1024 + 1)]],
  ] as const)("F22 refuses %s", (_, stream, headers, parts) => {
    expect(kindOf(() => void read(stream, 200, headers, ...parts))).toBe("engine");
  });

  it("F22 leaves memory to the other jobs: what all hold together is bounded, and given back", () => {
    const budget = new ByteBudget(300);
    const holder = new AnswerReader(true, 1_000, budget);
    holder.head({ status: 200, headers: events });
    holder.data(Buffer.from(delta("x".repeat(150))));
    const other = new AnswerReader(false, 1_000, budget);
    other.head({ status: 200, headers: {} });
    expect(kindOf(() => void other.data(Buffer.alloc(150)))).toBe("busy");
    other.release();
    holder.release();
    expect(budget.used).toBe(0);
  });

  it("counts what the ends of events take: an engine cannot fill the memory with events of one byte", () => {
    const budget = new ByteBudget(100_000);
    const reader = new AnswerReader(true, 100_000, budget);
    reader.head({ status: 200, headers: events });
    expect(kindOf(() => reader.data(Buffer.alloc(50_000, "\n")))).toBe("busy");
    reader.release();
    expect(budget.used).toBe(0);
  });

  it("F22 takes little more memory for an answer in crumbs, one byte each, than for its bytes", () => {
    setFlagsFromString("--expose-gc");
    const collect = runInNewContext("gc") as () => void;
    const reader = new AnswerReader(false, 1e9, new ByteBudget(1e9));
    reader.head({ status: 200, headers: {} });
    collect();
    const before = process.memoryUsage().heapUsed;
    for (let at = 0; at < 1_000_000; at++) reader.data(Buffer.from("1"));
    collect();
    expect(process.memoryUsage().heapUsed - before).toBeLessThan(12_000_000);
    expect(() => reader.end()).toThrow(/not JSON/);
  });

  it("F22 takes no more time for a long event in crumbs than for its bytes", () => {
    const reader = new AnswerReader(true, 1e9, new ByteBudget(1e9));
    reader.head({ status: 200, headers: events });
    const long = delta("x".repeat(500_000));
    for (const byte of long) reader.data(Buffer.from(byte));
    reader.data(Buffer.from(done));
    reader.end();
    expect(reader.output.size).toBe(long.length + done.length);
  }, 8_000);

  it("takes a last event that lacks its blank line", () => {
    const reader = read(true, 200, events, delta("a"), "data: [DONE]");
    expect([...reader.output.events()].join("")).toBe(`${delta("a")}data: [DONE]`);
  });

  it("keeps characters whole that arrive in pieces, and replaces bytes that are none", () => {
    const reader = new AnswerReader(true, 1_000, new ByteBudget(1e9));
    reader.head({ status: 200, headers: events });
    const bytes = Buffer.from(delta("é😀") + done);
    for (const byte of bytes) reader.data(Uint8Array.of(byte));
    reader.end();
    expect([...reader.output.events()].join("")).toBe(delta("é😀") + done);

    const broken = new AnswerReader(false, 1_000, new ByteBudget(1e9));
    broken.head({ status: 200, headers: {} });
    broken.data(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]));
    broken.end();
    expect([...broken.output.events()].join("")).toBe('{"\uFFFD":1}');
  });
});
