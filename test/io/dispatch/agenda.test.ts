import fc from "fast-check";
import { expect, it } from "vitest";
import { Agenda } from "../../../src/io/dispatch/agenda.ts";
import { FairQueue } from "../../../src/io/dispatch/fair-queue.ts";
import { jobId } from "./floor.ts";

it("an agenda gives what is due in the order of time, without what was taken back", () => {
  fc.assert(
    fc.property(fc.array(fc.record({ at: fc.nat(100), back: fc.boolean() })), (entries) => {
      const agenda = new Agenda<number>();
      const added = entries.map(({ at }, index) => agenda.add(at, index));
      entries.forEach(({ back }, index) => {
        const entry = added[index];
        if (back && entry) agenda.remove(entry);
      });
      const taken: number[] = [];
      for (let next = agenda.take(100); next !== undefined; next = agenda.take(100)) taken.push(next);
      const times = taken.map((index) => entries[index]?.at ?? -1);
      expect(times).toEqual([...times].sort((a, b) => a - b));
      expect(taken.length).toBe(entries.filter(({ back }) => !back).length);
      expect(agenda.size).toBe(0);
    }),
  );
});

it("nothing is taken before its time", () => {
  const agenda = new Agenda<string>();
  agenda.add(5, "later");
  expect(agenda.take(4)).toBeUndefined();
  expect(agenda.next).toBe(5);
  expect(agenda.take(5)).toBe("later");
});

it("a job that was offered before goes first in its consumer's line", () => {
  const queue = new FairQueue();
  queue.push("a", jobId(1), false);
  queue.push("a", jobId(2), true);
  expect(queue.peek()?.job).toBe(jobId(2));
  queue.remove("a", jobId(2), true);
  expect(queue.peek()?.job).toBe(jobId(1));
  queue.remove("a", jobId(1), true);
  expect(queue.size).toBe(0);
});
