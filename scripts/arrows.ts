/**
 * The rooms of `src` and who may import whom. A module may import its own room, the rooms listed for it, and
 * packages. Types count: a type that points the wrong way is a dependency too.
 *
 * Usage: `node scripts/arrows.ts [root]`, root defaulting to the repository. Prints each wrong import; exit code 1 if
 * there is one.
 */
import { globSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";

/** Room → rooms that it may import beside itself. */
export const arrows: Readonly<Record<string, readonly string[]>> = {
  lib: [],
  protocol: ["lib"],
  api: ["lib"],
  kube: ["lib"],
  operator: ["kube", "api", "protocol", "lib"],
  agent: ["protocol", "lib"],
  io: ["protocol", "lib"],
  cli: ["operator", "kube", "api", "protocol", "lib"],
  cmd: ["operator", "agent", "io", "cli", "kube", "api", "protocol", "lib"],
};

/** Rooms that must be pure: no I/O and no clock of their own. `node:crypto` alone of Node's modules. */
const pureRooms = new Set(["protocol"]);

/** Of the operator, the command line may use only what observes and plans. */
const cliMayImport = /^operator\/[^/]+\/(observe|plan)\.ts$/;

const importPattern =
  /(?:^|[\s;}])(?:import|export)\s+(?:[^"';]*?\sfrom\s+)?["']([^"']+)["']|import\(\s*["']([^"']+)["']\s*\)/g;

/** One import that the arrows forbid. */
export interface WrongImport {
  readonly file: string;
  readonly imported: string;
  readonly why: string;
}

/** Reads every module under `<root>/src` and returns the imports that point the wrong way. */
export function wrongImports(root: string): WrongImport[] {
  const src = join(root, "src");
  const wrong: WrongImport[] = [];
  for (const path of globSync("**/*.ts", { cwd: src })) {
    const file = path.split(sep).join("/");
    const room = file.split("/")[0] ?? "";
    const allowed = arrows[room];
    if (!allowed) {
      wrong.push({
        file,
        imported: "",
        why: `${room} is no room; the rooms are ${Object.keys(arrows).join(", ")}`,
      });
      continue;
    }
    const text = readFileSync(join(src, path), "utf8");
    for (const match of text.matchAll(importPattern)) {
      const specifier = match[1] ?? match[2] ?? "";
      if (!specifier.startsWith(".")) {
        if (specifier.startsWith("node:") && specifier !== "node:crypto" && isPure(room, file)) {
          wrong.push({
            file,
            imported: specifier,
            why: `${room} is pure: I/O and clocks come in as arguments`,
          });
        }
        continue;
      }
      const target = relative(src, resolve(src, dirname(path), specifier))
        .split(sep)
        .join("/");
      const targetRoom = target.split("/")[0] ?? "";
      if (targetRoom === room) continue;
      if (!allowed.includes(targetRoom)) {
        wrong.push({
          file,
          imported: target,
          why: `${room} may import ${allowed.join(", ") || "nothing of ours"}`,
        });
      } else if (room === "cli" && targetRoom === "operator" && !cliMayImport.test(target)) {
        wrong.push({
          file,
          imported: target,
          why: "cli may import only observe.ts and plan.ts of the operator",
        });
      }
    }
  }
  return wrong;
}

function isPure(room: string, file: string): boolean {
  return pureRooms.has(room) || file.endsWith("/plan.ts");
}

if (import.meta.main) {
  const wrong = wrongImports(resolve(process.argv[2] ?? join(import.meta.dirname, "..")));
  for (const { file, imported, why } of wrong) console.log(`src/${file} imports ${imported}: ${why}`);
  process.exitCode = wrong.length === 0 ? 0 : 1;
}
