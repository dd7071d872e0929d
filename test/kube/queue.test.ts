import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { WorkQueue } from "../../src/kube/queue.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { FakeClock } from "../lib/fake-clock.ts";

function make(random = () => 0.5) {
  const clock = new FakeClock();
  const metrics = new Metrics();
  const queue = new WorkQueue({ name: "q", clock, random, metrics });
  return { clock, metrics, queue };
}

describe("WorkQueue", () => {
  it("holds a key once, in the order of its first add, with the reasons for it", async () => {
    const { queue } = make();
    queue.add("b", "created");
    queue.add("a");
    queue.add("b", "updated");
    queue.add("b", "updated");
    expect(queue.length).toBe(2);
    expect(await queue.get()).toMatchObject({ key: "b", reasons: ["created", "updated"] });
    expect(await queue.get()).toMatchObject({ key: "a", reasons: [] });
  });

  it("never gives out a key that is worked on, and gives it out again when it was added meanwhile", async () => {
    const { queue } = make();
    queue.add("a");
    await queue.get();
    queue.add("a", "again");
    expect(queue.length).toBe(0);
    queue.done("a");
    expect(await queue.get()).toMatchObject({ key: "a", reasons: ["again"] });
    queue.done("a");
    expect(queue.idle).toBe(true);
  });

  it("wakes one waiting worker per key, and none that has given up", async () => {
    const { queue } = make();
    const gone = new AbortController();
    const leaves = queue.get(gone.signal);
    const works = queue.get();
    queue.add("a");
    gone.abort();
    const [first, second] = [await leaves, await Promise.race([works, nextTurn()])];
    expect([first?.key, second?.key].filter(Boolean)).toEqual(["a"]);
  });

  it("adds later what is to be added later, the earliest wish counting", async () => {
    const { queue, clock } = make();
    queue.addAfter("a", 1000);
    queue.addAfter("a", 100);
    queue.addAfter("a", 5000);
    clock.advance(99);
    expect(queue.length).toBe(0);
    clock.advance(1);
    expect(queue.length).toBe(1);
    expect(clock.pending).toBe(0);
  });

  it("holds a key only until it is given out for another reason", async () => {
    const { queue, clock } = make();
    queue.hold("a", 100);
    queue.add("a");
    await queue.get();
    queue.done("a");
    clock.advance(1000);
    expect(queue.length).toBe(0);
    queue.hold("a", 100, ["look again", "and a second time"]);
    clock.advance(100);
    expect(await queue.get()).toMatchObject({ key: "a", reasons: ["look again", "and a second time"] });
  });

  it("holds a key until the earliest of several times, none of which is left once it was given out", async () => {
    const { queue, clock } = make();
    queue.hold("a", 1000, ["late"]);
    queue.hold("a", 100, ["soon"]);
    queue.hold("a", 5000, ["later"]);
    clock.advance(100);
    expect(await queue.get()).toMatchObject({ key: "a", reasons: ["later", "soon"] });
    queue.done("a");
    expect(clock.pending).toBe(0);
  });

  it("brings what is under way to its end before more is begun, and lets others have every fourth turn", async () => {
    const { queue } = make();
    const turn = async (underWay: boolean) => {
      const item = await queue.get();
      if (item) queue.done(item.key, underWay);
      return item?.key;
    };
    for (const key of ["a", "b", "c", "d", "e"]) queue.add(key);
    for (const key of ["a", "b", "c", "d"]) expect(await turn(true)).toBe(key);
    for (const key of ["f", "g", "d", "c", "b", "a"]) queue.add(key);
    const order: (string | undefined)[] = [];
    while (queue.length > 0) order.push(await turn(false));
    expect(order).toEqual(["d", "c", "b", "e", "a", "f", "g"]);
    // Ended: they wait their turn like all others.
    for (const key of ["h", "a"]) queue.add(key);
    expect([await turn(false), await turn(false)]).toEqual(["h", "a"]);
    expect(queue.idle).toBe(true);
  });

  it("waits twice as long with each failure, from 5 ms to 60 s, and little again once forgotten", () => {
    for (const [random, factor] of [
      [0, 0.5],
      [0.999999, 1],
    ] as const) {
      const { queue } = make(() => random);
      const waits = Array.from({ length: 18 }, () => queue.addRateLimited("a"));
      waits.forEach((wait, n) => {
        const full = Math.min(60_000, 5 * 2 ** n);
        expect(wait).toBeGreaterThanOrEqual(full * factor - 3);
        expect(wait).toBeLessThanOrEqual(full);
      });
      expect(queue.failures("a")).toBe(18);
      queue.forget("a");
      expect(queue.addRateLimited("a")).toBeLessThanOrEqual(5);
      expect(queue.addRateLimited("b", undefined, 7000)).toBe(7000);
    }
  });

  it("ends every wait when it is shut down, and takes nothing more", async () => {
    const { queue, clock } = make();
    const waiting = queue.get();
    queue.addAfter("later", 10);
    queue.shutDown();
    queue.add("a");
    expect(await waiting).toBeUndefined();
    expect(await queue.get()).toBeUndefined();
    expect(clock.pending).toBe(0);
  });

  it("tells depth and adds under client-go's names", async () => {
    const { queue, metrics } = make();
    queue.add("a");
    queue.add("a");
    queue.add("b");
    const text = await metrics.text();
    expect(text).toContain('workqueue_depth{name="q",controller="q"} 2');
    expect(text).toContain('workqueue_adds_total{name="q",controller="q"} 2');
  });

  it("tells how long the keys that are worked on now have been so, also when none ever ends", async () => {
    const { queue, clock, metrics } = make();
    queue.add("a");
    queue.add("b");
    await queue.get();
    clock.advance(2000);
    await queue.get();
    clock.advance(1000);
    const gauges = async () =>
      Object.fromEntries(
        (await metrics.text())
          .split("\n")
          .filter((line) => /^workqueue_(unfinished|longest)/.test(line))
          .map((line) => [line.slice(0, line.indexOf("{")), Number(line.split(" ")[1])]),
      );
    const of = (unfinished: number, longest: number) => ({
      workqueue_unfinished_work_seconds: unfinished,
      workqueue_longest_running_processor_seconds: longest,
    });
    expect(await gauges()).toEqual(of(4, 3));
    queue.done("a");
    expect(await gauges()).toEqual(of(1, 1));
    queue.shutDown();
    expect(await gauges()).toEqual(of(0, 0));
  });

  it("loses no key and works on none twice at once, whatever the order of calls", async () => {
    const call = fc.record({
      do: fc.constantFrom("add", "after", "limited", "take", "done", "advance"),
      key: fc.constantFrom("a", "b", "c"),
      underWay: fc.boolean(),
      ms: fc.integer({ min: 0, max: 200 }),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(call, { maxLength: 60 }), async (calls) => {
        const { queue, clock } = make();
        const wanted = new Set<string>();
        const working = new Set<string>();
        for (const { do: what, key, ms, underWay } of calls) {
          if (what === "add") queue.add(key);
          if (what === "after") queue.addAfter(key, ms);
          if (what === "limited") queue.addRateLimited(key);
          if (what === "add" || what === "after" || what === "limited") wanted.add(key);
          if (what === "advance") clock.advance(ms);
          if (what === "take" && queue.length > 0) {
            const item = await queue.get();
            expect(item && working.has(item.key)).toBe(false);
            if (item) working.add(item.key);
            if (item) wanted.delete(item.key);
          }
          if (what === "done" && working.delete(key)) queue.done(key, underWay);
        }
        for (const key of working) queue.done(key);
        clock.advance(120_000);
        while (queue.length > 0) {
          const item = await queue.get();
          if (item) wanted.delete(item.key);
          if (item) queue.done(item.key);
        }
        expect([...wanted]).toEqual([]);
      }),
    );
  });
});

async function nextTurn(): Promise<undefined> {
  await new Promise((resolve) => setImmediate(resolve));
  return undefined;
}
