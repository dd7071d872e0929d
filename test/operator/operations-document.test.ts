/** docs/operations.md speaks of what there is: metrics, flags, reasons and files by their names. */
import { existsSync, globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { networkReasons, nodeReasons, poolReasons } from "../../src/api/v1alpha1/conditions.ts";

const root = join(import.meta.dirname, "../..");
const read = (path: string) => readFileSync(join(root, path), "utf8");
const document = read("docs/operations.md");
const source = globSync("src/**/*.ts", { cwd: root }).map(read).join("\n");

test("its metrics are those of the code, and none of the operator's is left out", () => {
  const named = document.match(
    /\b(workqueue|controller_runtime|rest_client|reflector|leader|resultity)_[a-z_]+/g,
  );
  expect([...new Set(named)].filter((name) => !source.includes(`"${name}"`))).toEqual([]);
  const operator = globSync("src/{kube,operator}/**/*.ts", { cwd: root }).map(read).join("\n");
  const made = operator.match(
    /"(workqueue|controller_runtime|rest_client|reflector|leader|resultity)_[a-z_]+"/g,
  );
  expect(made?.map((name) => name.slice(1, -1)).filter((name) => !document.includes(name))).toEqual([]);
});

test("the operator's flags are all there", () => {
  const flags = read("src/cmd/operator.ts").match(/^ {2}--\S+/gm) ?? [];
  expect(flags.length).toBeGreaterThan(4);
  expect(flags.map((flag) => flag.trim()).filter((flag) => !document.includes(flag))).toEqual([]);
});

test("reasons are spelt as objects have them, and files are where it says", () => {
  const reasons = new Set<string>([...networkReasons, ...nodeReasons, ...poolReasons]);
  const conditions = document.slice(document.indexOf("## What each condition means"));
  const table = conditions.slice(0, conditions.indexOf("## The network's side"));
  const types = new Set(table.match(/^\| \w+ \| `(\w+)`/gm)?.map((row) => row.split("`")[1] ?? "") ?? []);
  const words = table.match(/`[A-Z][A-Za-z]+`/g)?.map((word) => word.slice(1, -1)) ?? [];
  const known = (word: string) =>
    reasons.has(word) || types.has(word) || ["True", "False", "Unknown", "Ready", "NODE"].includes(word);
  expect(words.filter((word) => !known(word))).toEqual([]);
  for (const path of document.match(/manifests\/[\w/.-]+\.yaml/g) ?? [])
    expect(existsSync(join(root, path)), path).toBe(true);
});
