import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { EventCutter, eventData } from "../../../src/agent/jobs/events.ts";

/** Events and a remainder as they come out when the bytes arrive in pieces cut at `cuts`. */
function cut(text: string, cuts: readonly number[]): { events: string[]; rest: string } {
  const bytes = Buffer.from(text);
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const cutter = new EventCutter();
  const at = [0, ...[...cuts].map((c) => c % (bytes.length + 1)).sort((a, b) => a - b), bytes.length];
  const events: string[] = [];
  for (const [index, from] of at.slice(0, -1).entries()) {
    events.push(...cutter.push(decoder.decode(bytes.subarray(from, at[index + 1]), { stream: true })));
  }
  return { events, rest: cutter.rest };
}

describe("EventCutter", () => {
  const events = [
    'data: {"a":"é"}\n\n',
    "data: 😀\r\n\r\n",
    ": comment\n\n",
    "event: x\rdata: y\r\r",
    "data: ł\n\r\n",
  ];

  it("gives the same whole events however the bytes were cut, in the middle of characters too", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(200), { maxLength: 12 }), (cuts) => {
        const text = `${events.join("")}data: unfinished`;
        const seen = cut(text, cuts);
        expect(seen.events.join("") + seen.rest).toBe(text);
        // A CRLF after a blank line may come with the next event when it was cut between CR and LF.
        expect(seen.events.map((event) => event.trim()).filter(Boolean)).toEqual(events.map((e) => e.trim()));
        expect(seen.rest.trimStart()).toBe("data: unfinished");
      }),
    );
  });

  it("holds a CR at the end back until it is known whether LF follows", () => {
    const cutter = new EventCutter();
    expect(cutter.push("data: a\r\n\r")).toEqual([]);
    expect(cutter.push("\n")).toEqual(["data: a\r\n\r\n"]);
  });
});

describe("eventData", () => {
  it("joins data lines and ignores the rest", () => {
    expect(eventData("event: x\ndata: a\ndata:b\nid: 1\n\n")).toBe("a\nb");
    expect(eventData(": keep-alive\n\n")).toBe("");
  });
});
