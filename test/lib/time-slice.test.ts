import { setImmediate as turn } from "node:timers/promises";
import { expect, test } from "vitest";
import { TimeSlice } from "../../src/lib/time-slice.ts";
import { FakeClock } from "./fake-clock.ts";

/** Whether timers and sockets had their turn while one waited for the end of the slice. */
async function hadTheirTurn(slice: TimeSlice): Promise<boolean> {
  let had = false;
  const next = setImmediate(() => (had = true));
  await slice.over();
  clearImmediate(next);
  return had;
}

test("a slice of time ends after so many milliseconds of work, for all who share it", async () => {
  const clock = new FakeClock();
  const slice = new TimeSlice(clock, 10);
  expect(await hadTheirTurn(slice)).toBe(false);
  clock.advance(9);
  expect(await hadTheirTurn(slice)).toBe(false);
  clock.advance(1);
  const waiting = [slice.over(), slice.over()];
  await turn();
  await Promise.all(waiting);
  expect(await hadTheirTurn(slice)).toBe(false);
});

test("whoever waited for something else has not used the slice up", async () => {
  const clock = new FakeClock();
  const slice = new TimeSlice(clock, 10);
  await slice.over();
  await turn();
  clock.advance(1000);
  expect(await hadTheirTurn(slice)).toBe(false);
  clock.advance(10);
  const waiting = slice.over();
  let over = false;
  void waiting.then(() => (over = true));
  await Promise.resolve();
  expect(over).toBe(false);
  await waiting;
});
