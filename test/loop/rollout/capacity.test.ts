import { describe, expect, it } from "vitest";
import { Capacity } from "./capacity.ts";

const serving = { available: true, moving: false };
const told = { available: true, moving: true };
const out = { available: false, moving: true };
const dark = { available: false, moving: false };
const second = 1_000;

/** Ten nodes in service, of which two may be missing. */
function pool(): Capacity {
  const capacity = new Capacity({ size: 10, maxUnavailable: 2 });
  for (let at = 0; at < 10; at++) capacity.see(`n${at}`, serving, 0);
  capacity.begin();
  return capacity;
}

describe("what of a pool is in service", () => {
  it("is content with a roll of as many as may be missing", () => {
    const capacity = pool();
    for (let at = 0; at < 10; at += 2) {
      for (const view of [told, out, serving]) {
        capacity.see(`n${at}`, view, at);
        capacity.see(`n${at + 1}`, view, at);
      }
    }
    expect(capacity.problems).toEqual([]);
    expect([capacity.lowest, capacity.mostByOperator, capacity.mostByFault]).toEqual([8, 2, 0]);
  });

  it("names the node that left when too many were out, and the one that was told to", () => {
    const capacity = pool();
    for (const name of ["n0", "n1", "n2"]) capacity.see(name, told, 1);
    expect(capacity.problems).toEqual(["n2 was told to go at 1: with it 3 are away or go, 2 may"]);
    for (const name of ["n0", "n1", "n2"]) capacity.see(name, out, 2);
    expect(capacity.problems.at(-1)).toBe("n2 left at 2: the operator has 3 nodes out of service, 2 may be");
    expect(capacity.lowest).toBe(7);
  });

  it("counts apart what a fault took, which leaves no room as soon as it can be known", () => {
    const capacity = pool();
    capacity.see("n0", told, 0);
    capacity.fault(["n8", "n9"], 0);
    // The API still shows them as they were; who was told before goes.
    capacity.see("n8", serving, 1);
    capacity.see("n0", out, second);
    expect([capacity.lowest, capacity.mostByOperator, capacity.mostByFault]).toEqual([7, 1, 2]);
    capacity.see("n8", dark, 5 * second);
    capacity.see("n9", dark, 5 * second);
    expect(capacity.problems).toEqual([]);
    capacity.see("n1", told, 6 * second);
    expect(capacity.problems).toEqual([]);
    capacity.see("n2", told, 8 * second);
    expect(capacity.problems).toEqual(["n2 was told to go at 8000: with it 5 are away or go, 2 may"]);
  });

  it("counts as the operator's what leaves after a fault is over", () => {
    const capacity = pool();
    capacity.fault(["n0", "n1"], 0);
    capacity.see("n0", dark, 1);
    // It is back, and then the API tells that it was away.
    for (const view of [serving, dark]) capacity.see("n1", view, 2);
    capacity.over(["n0", "n1"], 3);
    expect(capacity.departures).toEqual([]);
    for (const name of ["n0", "n1", "n2"]) capacity.see(name, serving, 4);
    for (const name of ["n0", "n1", "n2"]) capacity.see(name, out, 5);
    expect(capacity.mostByOperator).toBe(3);
    expect(capacity.departures.map(({ name }) => name)).toEqual(["n0", "n1", "n2"]);
    expect(capacity.problems).toContain("n2 left at 5: the operator has 3 nodes out of service, 2 may be");
  });

  it("names who left without being told to move", () => {
    const capacity = pool();
    capacity.see("n0", dark, 7);
    expect(capacity.problems).toEqual(["n0 left at 7 though it was not told to move"]);
  });
});
