/**
 * `npm run check`: types, lint with type information, format, generated files, import arrows. Each step prints one
 * line; the output of a step appears only when it fails. Exit code 1 if any failed.
 */
import { spawnSync } from "node:child_process";

const steps: readonly { name: string; command: readonly string[] }[] = [
  { name: "types", command: ["tsc", "--noEmit"] },
  { name: "lint", command: ["oxlint", "--type-aware", "--deny-warnings"] },
  {
    name: "format",
    command: ["biome", "ci", "--colors=off", "--linter-enabled=false", "--assist-enabled=false", "."],
  },
  { name: "generated files", command: ["node", "scripts/generate.ts", "--check"] },
  { name: "import arrows", command: ["node", "scripts/arrows.ts"] },
];

let failed = 0;
for (const step of steps) {
  const started = performance.now();
  const [file = "", ...args] = step.command;
  const run = spawnSync(file, args, { encoding: "utf8", env: { ...process.env, NO_COLOR: "1" } });
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const ok = run.status === 0;
  console.log(`${ok ? "ok  " : "FAIL"} ${step.name} (${seconds} s)`);
  if (!ok) {
    failed++;
    console.log(run.stdout, run.stderr, run.error ? run.error.message : "");
  }
}
process.exitCode = failed === 0 ? 0 : 1;
