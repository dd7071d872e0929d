import fc from "fast-check";
import { expect, it } from "vitest";
import { canonical } from "../../src/operator/hash.ts";
import { sameJson } from "../../src/operator/same.ts";

const value = fc.jsonValue({ maxDepth: 3 });

it("says what comparing the canonical texts says", () => {
  fc.assert(
    fc.property(value, value, (a, b) => {
      expect(sameJson(a, b)).toBe(canonical(a) === canonical(b));
      expect(sameJson(a, JSON.parse(canonical(a)))).toBe(true);
    }),
  );
});

it.each([
  [{ a: 1, b: undefined }, { a: 1 }, true],
  [{ a: 1 }, { a: 1, b: undefined }, true],
  [{ a: 1 }, { a: 1, b: null }, false],
  [{ a: 1, b: 2 }, { b: 2, a: 1 }, true],
  [[1, 2], [2, 1], false],
  [[], {}, false],
  [{ a: [{ b: 1 }] }, { a: [{ b: 2 }] }, false],
])("%j and %j: %s", (a, b, same) => {
  expect(sameJson(a, b)).toBe(same);
  expect(sameJson(b, a)).toBe(same);
});
