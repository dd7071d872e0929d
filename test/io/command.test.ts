import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { type Command, readArguments } from "../../src/io/admin/command.ts";
import { configWeights } from "../../src/io/admin/commands/weights.ts";
import { table } from "../../src/io/admin/table.ts";

const ban: Command = {
  name: "nodes ban",
  positionals: ["ID"],
  summary: "",
  flags: [{ name: "reason", value: "TEXT", help: "" }],
  run: () => {},
};

describe("arguments of a command", () => {
  it("may be the id of a node that begins with a dash", () => {
    const id = `-0${"A".repeat(41)}`;
    for (const argv of [
      [id, "--reason", "why"],
      ["--reason", "why", id],
      ["--reason", "why", "--", id],
    ]) {
      const args = readArguments(ban, argv, {});
      expect([args.at(0), args.get("reason")]).toEqual([id, "why"]);
    }
  });

  it("stay in their order, whichever of them begin with a dash", () => {
    const [node, kid] = [`-0${"A".repeat(41)}`, `0${"B".repeat(42)}`];
    const grant = { ...ban, positionals: ["NODE_ID", "KID"] };
    for (const ids of [
      [node, kid],
      [kid, node],
      [node, node],
    ])
      expect(readArguments(grant, [...ids, "--reason", "why"], {}).positionals).toEqual(ids);
  });

  it("are refused where a flag is not known", () => {
    expect(() => readArguments(ban, ["id", "--reasons", "why"], {})).toThrow("--reasons");
  });
});

describe("io config weights", () => {
  const dir = mkdtempSync(join(tmpdir(), "weights-"));
  afterAll(() => rmSync(dir, { recursive: true }));

  async function entryOf(...argv: readonly string[]): Promise<unknown> {
    const lines: string[] = [];
    const args = readArguments(configWeights, argv, {});
    await configWeights.run({ args, out: (line) => lines.push(line), note: () => {}, now: () => 0 });
    return JSON.parse(lines.join("\n"));
  }

  it("prints what a config says of the files of a folder", async () => {
    mkdirSync(join(dir, "good/sub"), { recursive: true });
    writeFileSync(join(dir, "good/w.bin"), "weights");
    writeFileSync(join(dir, "good/.gitattributes"), "no");
    symlinkSync("../w.bin", join(dir, "good/sub/linked"));
    const sha256 = createHash("sha256").update("weights").digest("hex");
    expect(
      await entryOf("org/m", join(dir, "good"), "--source", "https://a.test/m", "--engine", "vllm"),
    ).toEqual({
      name: "org/m",
      engines: ["vllm"],
      files: [
        { path: "sub/linked", sha256, size: 7 },
        { path: "w.bin", sha256, size: 7 },
      ],
      sources: ["https://a.test/m"],
    });
  });

  it("B25 refuses what no node would take, by name", async () => {
    mkdirSync(join(dir, "good"), { recursive: true });
    writeFileSync(join(dir, "good/w.bin"), "weights");
    mkdirSync(join(dir, "bad"));
    writeFileSync(join(dir, "bad/a b"), "");
    await expect(entryOf("m", join(dir, "bad"))).rejects.toThrow(/files\.0\.path \(a b\)/);
    await expect(entryOf("../m", join(dir, "good"))).rejects.toThrow(/name/);
    await expect(entryOf("m", join(dir, "good"), "--source", "ftp://x")).rejects.toThrow(/sources\.0/);
    await expect(entryOf("m", join(dir, "none"))).rejects.toThrow(/ENOENT/);
  });
});

it("a table shows no control characters, and its columns stay in line", () => {
  expect(table(["A", "B"], [["\u001b[31mred\n", "x"]])).toBe("A          B\n?[31mred?  x");
});
