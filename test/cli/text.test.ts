import { describe, expect, it } from "vitest";
import { plainScreen, terminal } from "../../src/cli/text/screen.ts";
import { table } from "../../src/cli/text/table.ts";
import { ago, duration, expiry, shortDigest, shortened, shortImage } from "../../src/cli/text/words.ts";

const digest = `sha256:${"0123456789abcdef".repeat(4)}`;

describe("a table", () => {
  const rows = [
    ["chat-0", "", "", { text: "False", tone: "unwell" as const }, "the image cannot be pulled"],
    ["a", "host-1", "", "True", "AllWell"],
  ];
  const heading = ["NAME", "HOST", "ENGINE", "READY", "WHY"];

  it("aligns its columns, shows what is missing, and leaves out a column that has nothing", () => {
    expect(table(heading, rows, plainScreen).split("\n")).toEqual([
      "NAME    HOST    READY  WHY",
      "chat-0  -       False  the image cannot be pulled",
      "a       host-1  True   AllWell",
    ]);
  });

  it("cuts the last column at the edge of a screen, and no other", () => {
    expect(table(heading, rows, terminal(40, { colours: false })).split("\n")[1]).toBe(
      "chat-0  -       False  the image cannot…",
    );
    const narrow = table(heading, rows, terminal(10, { colours: false })).split("\n")[1];
    expect(narrow).toBe("chat-0  -       False  the image canno…");
  });

  it("is as wide in colours as without", () => {
    const escape = String.fromCharCode(27);
    const coloured = table(heading, rows, terminal(200, { colours: true }));
    expect(coloured).toContain(`${escape}[31mFalse${escape}[0m  the image`);
    expect(coloured.replaceAll(new RegExp(`${escape}\\[\\d+m`, "g"), "").replaceAll(/ +$/gm, "")).toBe(
      table(heading, rows, plainScreen),
    );
  });
});

describe("words", () => {
  it.each([
    [-5, "0s"],
    [119_999, "119s"],
    [120_000, "2m"],
    [7_200_000, "2h"],
    [172_800_000, "2d"],
  ])("tells %d ms as %s", (ms, text) => {
    expect(duration(ms)).toBe(text);
  });

  it("tells times against now, and nothing of no time", () => {
    const now = Date.parse("2026-01-02T00:00:00Z");
    expect([ago("2026-01-01T00:00:00Z", now), ago(undefined, now)]).toEqual(["24h", ""]);
    expect(expiry("2026-01-05T00:00:00Z", now)).toBe("in 3d");
    expect(expiry("2026-01-01T23:59:00Z", now)).toBe("expired 60s ago");
  });

  it("shortens digests where they stand", () => {
    expect([shortDigest(digest), shortDigest(undefined)]).toEqual(["0123456789ab", ""]);
    expect(shortImage(`registry.example/engine:1@${digest}`)).toBe("0123456789ab");
    expect(shortImage("engine:1")).toBe("engine:1");
    expect(shortened(`from ${digest} to ${digest}: sha256:short`)).toBe(
      "from 0123456789ab to 0123456789ab: sha256:short",
    );
  });
});
