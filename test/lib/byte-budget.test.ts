import { describe, expect, it } from "vitest";
import { ByteBudget, SharedBudget } from "../../src/lib/byte-budget.ts";

describe("a budget of bytes", () => {
  it("gives what there is and no more, and again what was given back", () => {
    const budget = new ByteBudget(10);
    expect([budget.take(6), budget.take(5), budget.take(4)]).toEqual([true, false, true]);
    budget.give(6);
    expect([budget.used, budget.take(6), budget.take(1)]).toEqual([4, true, false]);
  });

  it("counts what is held already, though it be too much", () => {
    const budget = new ByteBudget(10);
    budget.hold(15);
    expect(budget.take(1)).toBe(false);
    budget.give(15);
    expect(budget.take(10)).toBe(true);
  });
});

describe("a shared budget", () => {
  it("leaves some to others, and nobody more than there is", () => {
    const whole = new ByteBudget(10);
    const shared = new SharedBudget(whole, 6);
    const [one, two] = [shared.of("one"), shared.of("two")];
    expect([one.take(7), one.take(6), one.take(1)]).toEqual([false, true, false]);
    expect([two.take(5), two.take(4), two.take(1)]).toEqual([false, true, false]);
    expect(whole.used).toBe(10);
    one.give(6);
    // What was refused for the whole's sake counts for nobody.
    expect([two.take(2), two.take(1), shared.of("one").take(4)]).toEqual([true, false, true]);
    two.give(6);
    shared.of("one").give(4);
    expect(whole.used).toBe(0);
  });
});
