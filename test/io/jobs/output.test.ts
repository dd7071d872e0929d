import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { looksLikeEvents, Output } from "../../../src/io/jobs/output.ts";

function events(): Output {
  const output = new Output();
  output.kind = "events";
  return output;
}

const shown = (output: Output, text: string): string | undefined =>
  output.append(Buffer.from(text))?.toString();

describe("the output of an attempt", () => {
  it.each(["data: [DONE]\n\n", "data:[DONE]\n\n", "data: [DONE]\r\n\r\n", "data: [DONE]"])(
    "holds %j back until the commit, with what follows it",
    (end) => {
      const output = events();
      expect(shown(output, `data: {}\n\n${end}`)).toBe("data: {}\n\n");
      expect(shown(output, ": late\n\n")).toBeUndefined();
      expect(Buffer.concat([...output.held]).toString()).toBe(`${end}: late\n\n`);
      expect(output.bytes).toBe(`data: {}\n\n${end}: late\n\n`.length);
    },
  );

  it.each(['data: {"content":"[DONE]"}\n\n', 'data: {"content":"say data: [DONE]"}\n\n', "data: [DON\n\n"])(
    "shows %j, which only looks like it",
    (text) => {
      expect(shown(events(), text)).toBe(text);
    },
  );

  it("hashes every byte, also those that it holds back, and can be asked more than once", () => {
    const output = events();
    output.append(Buffer.from("data: é\n\n"));
    output.sha256();
    output.append(Buffer.from("data: [DONE]\n\n"));
    const all = createHash("sha256").update("data: é\n\ndata: [DONE]\n\n").digest("hex");
    expect(output.sha256()).toBe(all);
    expect(output.bytes).toBe(Buffer.byteLength("data: é\n\ndata: [DONE]\n\n"));
  });

  it("counts the pieces of text that were shown, and begins anew with another attempt", () => {
    const output = events();
    const delta = (delta: object) => `data: ${JSON.stringify({ choices: [{ index: 0, delta }] })}\n\n`;
    shown(output, delta({ role: "assistant", content: "" }) + delta({ content: "Hé" }));
    shown(output, delta({ content: 'say {"content":"x"}' }).replace('"content":', '"content": '));
    shown(output, delta({ reasoning_content: "hm" }) + delta({ tool_calls: [{ index: 0 }] }) + delta({}));
    shown(output, "data: [DONE]\n\n");
    shown(output, delta({ content: "held back" }));
    expect(output.pieces).toBe(4);
    output.restart();
    expect(output.pieces).toBe(0);
  });

  it("holds all of a whole answer back, and forgets it when another attempt begins", () => {
    const output = new Output();
    expect(shown(output, "{}")).toBeUndefined();
    output.restart();
    expect(output).toMatchObject({ bytes: 0, held: [], kind: "whole" });
    expect(output.sha256()).toBe(createHash("sha256").digest("hex"));
  });
});

it.each([
  ["data: {}", true],
  [": comment", true],
  ["event: x\ndata: y", true],
  ["\ufeffdata: x", true],
  ['{"error":{}}', false],
  ["Bad request", false],
  ["", false],
])("%j looks like events: %s", (text, expected) => {
  expect(looksLikeEvents(text)).toBe(expected);
});
