/**
 * `npm run faults`: runs the tests of faults and bad inputs, and prints one line for each id: what came out, how often it was
 * tried, and by which factor times were shortened. Exit code 1 when one failed, or one that is due was not tried on the
 * real component. The table is derived from the runner's report alone.
 *
 * Usage: `npm run faults [-- ID…]`, all ids by default.
 */
import { globSync, readFileSync } from "node:fs";
import { dueFaultIds, faultIds } from "../test/faults/ids.ts";
import { faultLine, faultProblems, faultTable } from "../test/faults/table.ts";
import { runVitest } from "./vitest.ts";

const asked = process.argv.slice(2);
const unknown = asked.filter((id) => !faultIds.includes(id));
if (unknown.length > 0) {
  console.error(`no such id: ${unknown.join(", ")}; they go from F01 to F47 and from B01 to B34`);
  process.exit(2);
}
const ids = asked.length > 0 ? asked : faultIds;
// Only files that name one, since loading all of them takes longer than running these.
const named = new RegExp(`\\b(${ids.join("|")})\\b`);
const files = globSync("test/**/*.test.ts").filter((path) => named.test(readFileSync(path, "utf8")));

const { report, failed } = await runVitest([...files, `--testNamePattern=${named.source}`]);
if (!report) process.exit(1);
const rows = faultTable(report, ids, dueFaultIds);
console.log(`\n${rows.map(faultLine).join("\n")}\n`);
const problems = faultProblems(rows);
for (const problem of problems) console.log(problem);
const due = rows.filter((row) => row.due);
const well = due.filter(({ outcome }) => outcome === "passed").length;
console.log(`${well} of ${due.length} due ids passed`);
process.exitCode = failed > 0 || problems.length > 0 ? 1 : 0;
