/**
 * `npm run kubelet:suite -- process|real`: the kubelet's specification on one kubelet, row by row. Exit code 1 when a
 * row fails, 2 when this machine cannot run that kubelet.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type KubeletName, kubeletNames } from "./kubelet/under-test.ts";

interface Report {
  readonly testResults: readonly {
    readonly message?: string;
    readonly assertionResults: readonly {
      readonly status: string;
      readonly title: string;
      readonly duration?: number | null;
      readonly failureMessages?: readonly string[];
    }[];
  }[];
}

const wanted = process.argv[2];
if (!isKubeletName(wanted)) {
  console.error(`usage: npm run kubelet:suite -- ${kubeletNames.join("|")}`);
  process.exit(64);
}
process.exitCode = await runSuite(wanted);

async function runSuite(kubelet: KubeletName): Promise<number> {
  const folder = mkdtempSync(join(tmpdir(), "kubelet-suite-report-"));
  const output = join(folder, "report.json");
  const started = performance.now();
  const file = `test/testbed/kubelet/${kubelet}.test.ts`;
  const child = spawn(
    "vitest",
    ["run", "--project", "kubelet", "--reporter=json", `--outputFile.json=${output}`, file],
    { stdio: ["ignore", "ignore", "inherit"] },
  );
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => child.kill(signal));
  await new Promise((resolve) => child.on("exit", resolve));
  try {
    const report: Report = JSON.parse(readFileSync(output, "utf8"));
    return printed(report, kubelet, (performance.now() - started) / 1_000);
  } catch (thrown) {
    console.error(`no report of the suite: ${String(thrown)}`);
    return 1;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Prints a line per row, and returns the exit code. */
function printed(report: Report, kubelet: KubeletName, seconds: number): number {
  const rows = report.testResults.flatMap((file) => file.assertionResults);
  const marks: Readonly<Record<string, string>> = { passed: "ok  ", failed: "FAIL" };
  for (const row of rows) {
    console.log(
      `${marks[row.status] ?? "skip"} ${((row.duration ?? 0) / 1_000).toFixed(1).padStart(5)} s  ${row.title}`,
    );
    for (const message of row.failureMessages ?? []) console.log(message.replaceAll(/^/gm, "       "));
  }
  for (const file of report.testResults) if (file.message) console.log(file.message);
  const count = (status: string) => rows.filter((row) => row.status === status).length;
  const [passed, failed] = [count("passed"), count("failed")];
  console.log(`kubelet ${kubelet}: ${passed} rows passed, ${failed} failed, in ${seconds.toFixed(0)} s`);
  if (failed > 0) return 1;
  return passed === 0 ? 2 : 0;
}

function isKubeletName(name: string | undefined): name is KubeletName {
  return kubeletNames.some((each) => each === name);
}
