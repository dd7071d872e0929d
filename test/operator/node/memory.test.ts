import { describe, expect, it } from "vitest";
import { NodeMemories } from "../../../src/operator/node/memory.ts";
import { FakeClock } from "../../lib/fake-clock.ts";

describe("what the node controller remembers", () => {
  it("waits longer after each pod that ended, up to five minutes, until one was ready", () => {
    const clock = new FakeClock();
    const memories = new NodeMemories(clock);
    const waits = Array.from({ length: 9 }, () => {
      memories.podFailed("n");
      return memories.recreateInMs("n");
    });
    expect(waits.slice(0, 3)).toEqual([5_000, 10_000, 20_000]);
    expect(waits.at(-1)).toBe(300_000);
    clock.advance(300_000);
    expect(memories.recreateInMs("n")).toBe(0);
    memories.podReady("n");
    memories.podFailed("n");
    expect(memories.recreateInMs("n")).toBe(5_000);
  });

  it("gives the turn of a group to one node, for as long as the caches may lag", () => {
    const clock = new FakeClock();
    const memories = new NodeMemories(clock);
    memories.claim("pool", "a");
    expect(memories.claimedByOther("pool", "a")).toBe(false);
    expect(memories.claimedByOther("pool", "b")).toBe(true);
    clock.advance(15_000);
    expect(memories.claimedByOther("pool", "b")).toBe(false);
  });
});
