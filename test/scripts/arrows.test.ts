import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { wrongImports } from "../../scripts/arrows.ts";

const folders: string[] = [];
afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

/** A source tree with the given modules, path under `src` → text. */
function tree(modules: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), "arrows-"));
  folders.push(root);
  for (const [path, text] of Object.entries(modules)) {
    const file = join(root, "src", path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
  return root;
}

describe("import arrows", () => {
  it("hold in this repository", () => {
    expect(wrongImports(join(import.meta.dirname, "../.."))).toEqual([]);
  });

  it.each([
    ["agent → kube", "agent/x.ts", 'import { Client } from "../kube/client.ts";'],
    ["protocol → agent, type only", "protocol/x.ts", 'import type { A } from "../agent/a.ts";'],
    ["lib → protocol, re-export", "lib/x.ts", 'export { a } from "../protocol/a.ts";'],
    ["io → operator, dynamic", "io/x.ts", 'const m = await import("../operator/m.ts");'],
    [
      "operator → agent over several lines",
      "operator/node/x.ts",
      'import {\n  a,\n  b,\n} from "../../agent/a.ts";',
    ],
    ["protocol → node:fs", "protocol/x.ts", 'import { readFileSync } from "node:fs";'],
    ["a plan → node:fs", "operator/pool/plan.ts", 'import { readFileSync } from "node:fs";'],
    ["cli → the operator's executor", "cli/x.ts", 'import { e } from "../operator/node/execute.ts";'],
    ["a room that is none", "helpers/x.ts", ""],
  ])("refuse %s", (_name, path, text) => {
    expect(wrongImports(tree({ [path]: text }))).toHaveLength(1);
  });

  it.each([
    ["operator → kube", "operator/x.ts", 'import { c } from "../kube/client.ts";'],
    ["cli → the operator's planner", "cli/x.ts", 'import { p } from "../operator/node/plan.ts";'],
    ["protocol → node:crypto", "protocol/x.ts", 'import { sign } from "node:crypto";'],
    ["a package", "agent/x.ts", 'import WebSocket from "ws";'],
  ])("allow %s", (_name, path, text) => {
    expect(wrongImports(tree({ [path]: text }))).toEqual([]);
  });
});
