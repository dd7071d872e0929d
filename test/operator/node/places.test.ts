import { describe, expect, test } from "vitest";
import { noImagePolicy, nextPlace, placesOf, refusalOf } from "../../../src/operator/node/places.ts";

const digest = `@sha256:${"1".repeat(64)}`;
const image = `hub.test:5000/team/vllm${digest}`;

describe("where an image is pulled from", () => {
  test.each([
    ["no mirror", [], []],
    ["another registry's mirror", [{ source: "other.test", mirrors: ["m.test"] }], []],
    ["a name that only begins alike", [{ source: "hub.test:5000/te", mirrors: ["m.test"] }], []],
    ["a registry", [{ source: "hub.test:5000", mirrors: ["m.test/hub"] }], ["m.test/hub/team/vllm"]],
    [
      "a slash at the end",
      [{ source: "hub.test:5000/", mirrors: ["m.test/hub/"] }],
      ["m.test/hub/team/vllm"],
    ],
    ["the whole name", [{ source: "hub.test:5000/team/vllm", mirrors: ["m.test/x"] }], ["m.test/x"]],
    [
      "the longest source, and all its mirrors in order",
      [
        { source: "hub.test:5000", mirrors: ["far.test"] },
        { source: "hub.test:5000/team", mirrors: ["a.test", "b.test/t"] },
      ],
      ["a.test/vllm", "b.test/t/vllm"],
    ],
  ])("%s", (_name, mirrors, names) => {
    const places = placesOf(image, { ...noImagePolicy, mirrors });
    expect(places).toEqual([...names.map((name) => `${name}${digest}`), image]);
    const tried = [places[0]];
    for (let next = nextPlace(places[0], places); next; next = nextPlace(next, places)) tried.push(next);
    expect(tried).toEqual(places);
  });

  test("a place that is no longer one is left for the first", () => {
    expect(nextPlace(`gone.test/x${digest}`, [image])).toBe(image);
  });
});

describe("which images may run", () => {
  test.each([
    ["nothing said", [], [], undefined],
    ["the registry is allowed", ["hub.test:5000"], [], undefined],
    ["another one is", ["other.test"], [], "lists other.test only"],
    ["a name that only begins alike is", ["hub.test:5000/team/vl"], [], "only"],
    ["the registry is allowed, the team denied", ["hub.test:5000"], ["hub.test:5000/team"], "denied"],
    ["another team is denied", [], ["hub.test:5000/others"], undefined],
  ])("%s", (_name, allowed, denied, refusal) => {
    const told = refusalOf(image, { ...noImagePolicy, allowed, denied });
    if (refusal === undefined) expect(told).toBeUndefined();
    else expect(told).toContain(refusal);
  });
});
