import { describe, expect, it } from "vitest";
import { compare, median, pairs, quantile, reached, table } from "../bench/figures.ts";

describe("figures of a bench", () => {
  it("run both arms in turns, so that neither has the better half", async () => {
    const order: string[] = [];
    const arm = (name: string) => () => {
      order.push(name);
      return Promise.resolve({});
    };
    await pairs(3, arm("a"), arm("b"));
    expect(order.join("")).toBe("abbaab");
  });

  it("are the median of the pairs' ratios, not the ratio of medians", () => {
    const of = (...values: number[]) => values.map((ms) => ({ ms }));
    const figure = compare({ ours: of(1, 10, 100), peer: of(1, 20, 25) }, "ms", {
      name: "latency",
      unit: "ms",
      against: "peer",
      target: { at: "most", ratio: 0.9 },
    });
    expect(figure).toMatchObject({ ours: 10, peer: 20, ratio: 1, range: [0.5, 4] });
    expect(reached(figure)).toBe(false);
    expect(table([figure])).toContain(
      "| latency | 10.0 ms | 20.0 ms (peer) | 1.00 (0.50 to 4.00) | ≤ 0.9: missed |",
    );
  });

  it("take the middle of an even number, and the tail of many", () => {
    expect(median([4, 1, 3, 2])).toBe(2.5);
    const hundred = Array.from({ length: 100 }, (_, at) => at);
    expect(quantile(hundred, 0.99)).toBe(99);
    expect(quantile([], 0.5)).toBeNaN();
  });
});
