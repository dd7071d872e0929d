import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Report } from "../test/faults/table.ts";
import { needs } from "./needs.ts";

/** What a run of the tests has come to. */
export interface Run {
  /** Undefined when the runner wrote none. */
  readonly report: Report | undefined;
  readonly passed: number;
  readonly failed: number;
  /** Tests and files that did not run, with the reason where there is one. */
  readonly skipped: readonly string[];
}

/** Runs vitest with `args`, without the files for which this machine lacks something, and counts by its report. */
export async function runVitest(args: readonly string[]): Promise<Run> {
  const skipped: string[] = [];
  const exclude: string[] = [];
  for (const { what, files, missing } of needs) {
    const reason = await missing();
    if (reason === undefined) continue;
    exclude.push(...files.map((file) => `--exclude=${file}`));
    skipped.push(`${files.join(", ")}: no ${what}: ${reason}`);
  }
  const folder = mkdtempSync(join(tmpdir(), "resultity-test-"));
  const reportPath = join(folder, "report.json");
  const reporters = ["--reporter=default", "--reporter=json", `--outputFile.json=${reportPath}`];
  const child = spawn("vitest", ["run", ...reporters, ...exclude, ...args], { stdio: "inherit" });
  const hand = (signal: NodeJS.Signals) => child.kill(signal);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, hand);
  const code = await new Promise<number>((resolve) => child.on("exit", (status) => resolve(status ?? 1)));

  let report: Report | undefined;
  let passed = 0;
  let failed = 0;
  try {
    report = JSON.parse(readFileSync(reportPath, "utf8")) as Report;
    for (const file of report.testResults) {
      // A file that could not be loaded has no tests of its own, and must not read as "none failed".
      if (file.status === "failed" && file.assertionResults.every((test) => test.status !== "failed"))
        failed++;
      for (const test of file.assertionResults) {
        if (test.status === "passed") passed++;
        else if (test.status === "failed") failed++;
        else skipped.push(test.fullName);
      }
    }
  } catch (error) {
    console.error(`no test report: ${String(error)}`);
    failed++;
  }
  if (code !== 0 && failed === 0) failed++;
  rmSync(folder, { recursive: true, force: true });
  return { report, passed, failed, skipped };
}
