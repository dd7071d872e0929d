import { isAbsolute, relative } from "node:path";
import { describe, expect, it } from "vitest";
import { digestIn, foundPlaces, layoutOf, partOf } from "../../../src/agent/models/layout.ts";
import { placesOf } from "../../../src/agent/models/places.ts";
import { weightPathField } from "../../../src/protocol/config/weights.ts";

const mirrors = [
  { source: "https://hub.test", mirrors: ["http://near/hub", "file:///mnt/hub/"] },
  { source: "https://hub.test/org/big/", mirrors: ["http://big"] },
];

describe("where a file may be had", () => {
  it.each<[string, readonly string[], readonly string[]]>([
    ["at its source", ["https://other.test/m/"], ["https://other.test/m/a/b"]],
    [
      "at the mirrors of its source first, with what follows the mirrored part",
      ["https://hub.test/org/small"],
      ["http://near/hub/org/small/a/b", "file:///mnt/hub/org/small/a/b", "https://hub.test/org/small/a/b"],
    ],
    [
      "at the mirror of the longest match alone",
      ["https://hub.test/org/big"],
      ["http://big/a/b", "https://hub.test/org/big/a/b"],
    ],
    [
      "not at the mirror of a host that only begins alike",
      ["https://hub.test.evil/x"],
      ["https://hub.test.evil/x/a/b"],
    ],
    ["nowhere, if nobody says", [], []],
    ["once at a place that is named twice", ["http://a", "http://a/"], ["http://a/a/b"]],
  ])("%s", (_, sources, expected) => {
    expect(placesOf({ sources }, { path: "a/b" }, mirrors)).toEqual(expected);
  });

  it("with names that mean the same in a URL", () => {
    expect(placesOf({ sources: ["http://a"] }, { path: "x+y@z=1,2/w_1.bin" }, [])).toEqual([
      "http://a/x%2By%40z%3D1%2C2/w_1.bin",
    ]);
  });
});

describe("the folder of models", () => {
  const digest = "d".repeat(64);
  const layout = layoutOf("/models", digest);

  it("has everything of one set of weights under its digest", () => {
    for (const path of Object.values(layout)) expect(path.startsWith(`/models/sha256/${digest}`)).toBe(true);
    expect(partOf(layout, { path: "a/b", sha256: "e".repeat(64), size: 1 })).toBe(
      `/models/sha256/${digest}.parts/${"e".repeat(64)}`,
    );
    expect(foundPlaces("/models", { model: "org/m", digest, files: [], sources: [], total: 0 })).toEqual([
      `/models/sha256/${digest}`,
      "/models/org/m",
      "/models/models",
      "/models",
    ]);
  });

  it("knows what belongs to weights and what does not", () => {
    expect([digest, `${digest}.parts`].map(digestIn)).toEqual([digest, digest]);
    for (const name of [`${digest}.lock`, `${digest}.json`, "lost+found", ".probe-1"])
      expect(digestIn(name)).toBeUndefined();
  });

  it("B25 no path that a config can name leads out of it", () => {
    const parts = [
      "..",
      ".",
      "",
      "a",
      "a..",
      "..a",
      "...",
      "\u0000",
      "\\",
      "/",
      "%2e%2e",
      "~",
      "a b",
      "ä",
      "x".repeat(256),
    ];
    for (const first of parts) {
      for (const second of parts) {
        const path = `${first}/${second}`;
        if (!weightPathField.safeParse(path).success) continue;
        const inside = relative(layout.files, `${layout.files}/${path}`);
        expect(inside.split("/").includes("..") || isAbsolute(inside), path).toBe(false);
        expect(path).toMatch(/^[a.]+\/[a.]+$/);
      }
    }
  });
});
