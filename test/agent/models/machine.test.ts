import { describe, expect, it } from "vitest";
import {
  busyPollMs,
  type FailureKind,
  type Life,
  type LifeEvent,
  newLife,
  stepLife,
  verifiedPollMs,
} from "../../../src/agent/models/machine.ts";

const half = () => 0.5;
const step = (life: Life, event: LifeEvent) => stepLife(life, event, half);
const failure = (kind: FailureKind, bytes = 10): LifeEvent => ({ type: "failed", kind, reason: kind, bytes });

const downloading: Life = { at: "downloading", bytes: 10, attempts: 0 };
const verifying: Life = { at: "verifying", bytes: 10, attempts: 0 };
const verified: Life = { at: "verified" };
const failed: Life = { at: "failed", bytes: 10, attempts: 3, reason: "unavailable" };

describe("the life of a model's weights", () => {
  it.each<[string, Life, LifeEvent, Partial<Life>, number | undefined]>([
    ["is found", newLife, { type: "whole" }, { at: "verified" }, verifiedPollMs],
    ["is fetched", newLife, { type: "download", bytes: 5 }, { at: "downloading", bytes: 5 }, undefined],
    ["grows", downloading, { type: "progress", bytes: 20 }, { at: "downloading", bytes: 20 }, undefined],
    ["is verified", downloading, { type: "verify", bytes: 20 }, { at: "verifying", bytes: 20 }, undefined],
    ["is whole", verifying, { type: "whole" }, { at: "verified" }, verifiedPollMs],
    ["is awaited while another agent fetches", newLife, { type: "busy" }, { at: "pending" }, busyPollMs],
    [
      "is lost",
      verified,
      { type: "gone", reason: "removed" },
      { at: "pending", reason: "removed" },
      undefined,
    ],
    [
      "hears of no progress once verified",
      verified,
      { type: "progress", bytes: 1 },
      { at: "verified" },
      undefined,
    ],
    [
      "waits out a first failure of the network",
      downloading,
      failure("unavailable"),
      { at: "downloading", attempts: 1 },
      625,
    ],
    [
      "waits out a place that is not there yet",
      newLife,
      failure("unavailable"),
      { at: "downloading", attempts: 1, reason: "unavailable" },
      625,
    ],
    [
      "calls the third one a failure",
      { ...downloading, attempts: 2 },
      failure("unavailable"),
      { at: "failed", attempts: 3 },
      2_500,
    ],
    ["tries again", failed, { type: "download", bytes: 10 }, { at: "downloading", attempts: 3 }, undefined],
    [
      "fails at once with wrong bytes",
      downloading,
      failure("wrong"),
      { at: "failed", reason: "wrong" },
      18_750,
    ],
    ["fails at once without room", newLife, failure("room"), { at: "failed", reason: "room" }, 6_250],
    ["fails at once without a folder", newLife, failure("disk"), { at: "failed", reason: "disk" }, 6_250],
  ])("%s", (_, life, event, wanted, ms) => {
    const { life: next, action } = step(life, event);
    expect(next).toMatchObject(wanted);
    expect(action).toEqual(ms === undefined ? { type: "none" } : { type: "look-in", ms });
  });

  it("forgets failures when bytes come", () => {
    const { life } = step({ ...downloading, attempts: 2 }, { type: "progress", bytes: 11 });
    expect(life).toEqual({ at: "downloading", bytes: 11, attempts: 0 });
  });

  it("waits longer after each failure, never nothing and never longer than its bound", () => {
    const bounds = { unavailable: 60_000, wrong: 600_000, room: 120_000, disk: 120_000 };
    for (const kind of ["unavailable", "wrong", "room", "disk"] as const) {
      for (const random of [() => 0, half, () => 0.999_999]) {
        let life: Life = downloading;
        for (let count = 0; count < 100; count++) {
          const { life: next, action } = stepLife(life, failure(kind), random);
          life = next;
          if (action.type !== "look-in") throw new Error("a failure is tried again");
          expect(action.ms).toBeGreaterThan(0);
          expect(action.ms).toBeLessThanOrEqual(bounds[kind]);
        }
        expect(life).toMatchObject({ at: "failed", attempts: 100 });
      }
    }
  });

  it("is verified after `whole` and after nothing else, whatever happened before", () => {
    const events: readonly LifeEvent[] = [
      { type: "busy" },
      { type: "download", bytes: 1 },
      { type: "verify", bytes: 2 },
      { type: "progress", bytes: 3 },
      failure("unavailable"),
      failure("wrong"),
      { type: "gone", reason: "removed" },
      { type: "whole" },
    ];
    let seed = 7;
    const dice = (sides: number) => {
      seed = (seed * 1_103_515_245 + 12_345) % 2 ** 31;
      return Math.floor((seed / 2 ** 31) * sides);
    };
    for (let run = 0; run < 500; run++) {
      let life = newLife;
      let whole = false;
      for (let count = 0; count < 20; count++) {
        const event = events[dice(events.length)] ?? { type: "busy" };
        life = step(life, event).life;
        whole = event.type === "whole" || (whole && event.type === "progress");
        expect(life.at === "verified", JSON.stringify([event, life])).toBe(whole);
      }
    }
  });
});
