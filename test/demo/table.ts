import type { Outcome } from "./scenario.ts";

/** Prints what happened as one table, and each problem on a line of its own. */
export function printTable({ phases, jobs, streamed, problems }: Outcome, seconds: number): void {
  const rows: [string, string, string][] = [
    ...phases.map(({ name, seconds: took, detail }): [string, string, string] => [
      name,
      `${took.toFixed(1)} s`,
      detail,
    ]),
    [
      "completions",
      `${jobs.answered} of ${jobs.asked}`,
      `${streamed} streamed; ${jobs.retried.length} were retried on another node, unseen`,
    ],
    [
      "lost, doubled",
      `${jobs.lost.length}, ${jobs.doubled.length}`,
      "client, store and engine logs compared by job id",
    ],
    [
      "all",
      `${seconds.toFixed(0)} s`,
      problems.length === 0 ? "everything reconciles" : `${problems.length} problems`,
    ],
  ];
  const widths = [0, 1].map((column) => Math.max(...rows.map((row) => row[column]?.length ?? 0)));
  console.log();
  for (const [name, figure, detail] of rows) {
    console.log(`  ${name.padEnd(widths[0] ?? 0)}  ${figure.padStart(widths[1] ?? 0)}  ${detail}`);
  }
  for (const problem of problems) console.log(`  PROBLEM: ${problem}`);
  console.log();
}
