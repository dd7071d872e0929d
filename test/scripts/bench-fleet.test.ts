import { describe, expect, it } from "vitest";
import { idealSeconds } from "../bench/fleet/roll.ts";

describe("the ideal window of a roll", () => {
  it("gives a place to the next node as soon as it is free, in the order in which they go", () => {
    expect(idealSeconds([3, 3, 3, 3], 2)).toBe(6);
    expect(idealSeconds([1, 5, 1, 1, 1], 2)).toBe(5);
    expect(idealSeconds([1, 1, 5], 2)).toBe(6);
  });

  it("lasts as long as the longest where all may go at once", () => {
    expect(idealSeconds([2, 7, 3], 5)).toBe(7);
  });
});
