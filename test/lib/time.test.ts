import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { fullJitter } from "../../src/lib/backoff.ts";
import { sleep } from "../../src/lib/clock.ts";
import { CodedError, messageOf } from "../../src/lib/errors.ts";
import { FakeClock } from "./fake-clock.ts";

describe("fullJitter", () => {
  it("stays under its cap and under base·2ⁿ for every attempt", () => {
    fc.assert(
      fc.property(fc.nat(5000), fc.double({ min: 0, max: 0.999999, noNaN: true }), (attempt, random) => {
        const wait = fullJitter(attempt, { base: 1000, cap: 64_000 }, () => random);
        expect(wait).toBeGreaterThanOrEqual(0);
        expect(wait).toBeLessThan(Math.min(64_000, 1000 * 2 ** Math.min(attempt, 52)) + 1);
      }),
    );
  });
});

describe("sleep", () => {
  it("ends when its time has come and not before", async () => {
    const clock = new FakeClock();
    let done = false;
    const slept = sleep(clock, 100).then(() => (done = true));
    await clock.advanceAsync(99);
    expect(done).toBe(false);
    await clock.advanceAsync(1);
    await slept;
    expect(done).toBe(true);
  });

  it("ends at once when aborted and leaves no timer behind", async () => {
    const clock = new FakeClock();
    const abort = new AbortController();
    const slept = sleep(clock, 100, abort.signal);
    abort.abort();
    await slept;
    expect(clock.pending).toBe(0);
  });
});

describe("messageOf", () => {
  it("names causes", () => {
    const error = new CodedError("E_X", "cannot read config", { cause: new Error("ENOENT") });
    expect(messageOf(error)).toBe("cannot read config: ENOENT");
    expect(messageOf("text")).toBe("text");
  });
});
