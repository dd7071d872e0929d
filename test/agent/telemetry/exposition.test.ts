import { describe, expect, it } from "vitest";
import { readSamples } from "../../../src/agent/telemetry/exposition.ts";

const read = (text: string) => readSamples(text, new Set(["a", "n:b"]));

describe("readSamples", () => {
  it.each([
    ["without labels", "a 1", [{ name: "a", labels: {}, value: 1 }]],
    ["with a timestamp", "a 1.5e3 1700000000000", [{ name: "a", labels: {}, value: 1500 }]],
    [
      "with labels and a comma at the end",
      'n:b{x="1",y="2",} 3',
      [{ name: "n:b", labels: { x: "1", y: "2" }, value: 3 }],
    ],
    [
      "with escapes",
      String.raw`a{x="q\"b\\c\nd,}"} 1`,
      [{ name: "a", labels: { x: 'q"b\\c\nd,}' }, value: 1 }],
    ],
    ["empty braces", "a{} 2", [{ name: "a", labels: {}, value: 2 }]],
  ])("reads a sample %s", (_, text, samples) => {
    expect(read(`# HELP a something\n${text}\n`)).toEqual(samples);
  });

  it.each(["c 1", "a NaN", "a +Inf", "a", "a{x=1} 2", "# a 1", "a 1 2 3"])("passes over %s", (text) => {
    expect(read(text)).toEqual([]);
  });
});
