import { describe, expect, it } from "vitest";
import { type Command, readArguments } from "../../src/io/admin/command.ts";
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

it("a table shows no control characters, and its columns stay in line", () => {
  expect(table(["A", "B"], [["\u001b[31mred\n", "x"]])).toBe("A          B\n?[31mred?  x");
});
