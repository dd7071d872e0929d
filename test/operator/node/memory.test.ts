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

  it("knows what an agent must have read: what changed what it applies, in this very pod", () => {
    const memories = new NodeMemories(new FakeClock());
    expect(memories.mustRead("n", "pod")).toBeUndefined();
    memories.ordered("n", "pod", 5, true);
    expect(memories.mustRead("n", "pod")).toBe(4);
    memories.ordered("n", "pod", 6);
    memories.ordered("n", "pod", 7, true);
    expect(memories.mustRead("n", "pod")).toBe(6);
    expect(memories.mustRead("n", "another")).toBeUndefined();
  });

  it("keeps no place in the queue of a pool for a node that is gone", () => {
    const memories = new NodeMemories(new FakeClock());
    memories.awaitRoom("pool", "a");
    memories.awaitRoom("pool", "b");
    memories.forget("a");
    expect([memories.nextForRoom("pool"), memories.nextForRoom("pool")]).toEqual(["b", undefined]);
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
