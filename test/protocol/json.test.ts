import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseJson } from "../../src/protocol/json.ts";
import { expectCode } from "./errors.ts";

describe("parseJson", () => {
  it("agrees with JSON.parse on every value that a message could hold", () => {
    const safeKey = fc.string().filter((key) => key !== "__proto__" && key !== "constructor");
    const { value } = fc.letrec((tie) => ({
      value: fc.oneof(
        { maxDepth: 4 },
        fc.string(),
        fc.integer(),
        fc.boolean(),
        fc.constant(null),
        fc.array(tie("value"), { maxLength: 4 }),
        fc.dictionary(safeKey, tie("value"), { maxKeys: 4, noNullPrototype: true }),
      ),
    }));
    fc.assert(
      fc.property(value, fc.nat(3), (json, indent) => {
        const text = JSON.stringify(json, null, indent);
        expect(parseJson(text)).toEqual(JSON.parse(text));
      }),
      { numRuns: 500 },
    );
  });

  it.each([
    ["B09 duplicate keys", '{"a":1,"a":2}'],
    ["B09 duplicate keys, one of them escaped", '{"a":1,"\\u0061":2}'],
    ["B09 duplicate keys in a nested object", '{"x":[{"b":1, "b" : 2}]}'],
    ["B10 __proto__", '{"__proto__":{"admin":true}}'],
    ["B10 constructor, escaped", '{"\\u0063onstructor":1}'],
    ["B11 nested 200,000 deep", "[".repeat(200_000)],
    ["B12 400,001 elements", `[${"1,".repeat(400_000)}1]`],
    ["B13 200,000 unknown keys", `{${Array.from({ length: 200_000 }, (_, at) => `"k${at}":1`).join(",")}}`],
    ["B15 a lone surrogate", '{"a":"\\ud800"}'],
    ["B15 a lone surrogate in a key", '[{"\\uDC00x":1}]'],
    ["B15 a pair the wrong way round", '["\\ude00\\ud83d"]'],
    ["an unterminated string", '{"a":"b'],
    ["a string that ends in a backslash", '{"a":"b\\"'],
    ["nothing", ""],
    ["two values", "1 2"],
  ])("refuses %s", (_name, text) => {
    const started = performance.now();
    const error = expectCode("malformed", () => parseJson(text));
    expect(error.message.length).toBeLessThan(100);
    expect(performance.now() - started).toBeLessThan(1000);
  });

  it("takes whole surrogate pairs, and half ones where it is told to", () => {
    expect(parseJson('["\\ud83d\\ude00"]')).toEqual(["😀"]);
    expect(parseJson('["\\ud800"]', { halfPairs: true })).toEqual(["\ud800"]);
  });

  it("takes equal keys in sibling objects and keys that only look equal inside strings", () => {
    expect(parseJson('[{"a":"\\"a\\":"},{"a":"a"}]')).toEqual([{ a: '"a":' }, { a: "a" }]);
  });
});
