/**
 * `npm test`: every test of the repository. The last line is `N passed, N failed[, N skipped]`, counted from the
 * runner's report. Arguments are handed to vitest (`npm test -- test/protocol`).
 *
 * With `CI` set a skip is a failure: there the optional parts (real engine, real kubelet) are installed first, so a
 * skip means that something was not tried.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { needs } from "./needs.ts";

interface Report {
  testResults: {
    name: string;
    status: string;
    message?: string;
    assertionResults: { status: string; fullName: string }[];
  }[];
}

const skips: string[] = [];
const exclude: string[] = [];
for (const { what, files, missing } of needs) {
  const reason = await missing();
  if (reason === undefined) continue;
  exclude.push(...files.map((file) => `--exclude=${file}`));
  skips.push(`${files.join(", ")}: no ${what}: ${reason}`);
}

const folder = mkdtempSync(join(tmpdir(), "resultity-test-"));
const reportPath = join(folder, "report.json");
const started = performance.now();
const child = spawn(
  "vitest",
  [
    "run",
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${reportPath}`,
    ...exclude,
    ...process.argv.slice(2),
  ],
  { stdio: "inherit" },
);
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
const code = await new Promise<number>((resolve) => child.on("exit", (status) => resolve(status ?? 1)));

let passed = 0;
let failed = 0;
try {
  const report = JSON.parse(readFileSync(reportPath, "utf8")) as Report;
  for (const file of report.testResults) {
    // A file that could not be loaded has no tests of its own, and must not read as "none failed".
    if (file.status === "failed" && file.assertionResults.every((test) => test.status !== "failed")) failed++;
    for (const test of file.assertionResults) {
      if (test.status === "passed") passed++;
      else if (test.status === "failed") failed++;
      else skips.push(test.fullName);
    }
  }
} catch (error) {
  console.error(`no test report: ${String(error)}`);
  failed++;
}
if (code !== 0 && failed === 0) failed++;
rmSync(folder, { recursive: true, force: true });

for (const name of skips) console.log(`skipped: ${name}`);
const strict = process.env["CI"] === "true" && skips.length > 0;
if (strict) console.log("a skip in CI is a failure: everything optional is installed there");
console.log(`took ${((performance.now() - started) / 1000).toFixed(0)} s`);
console.log(`${passed} passed, ${failed} failed${skips.length > 0 ? `, ${skips.length} skipped` : ""}`);
process.exitCode = failed > 0 || passed === 0 || strict ? 1 : 0;
