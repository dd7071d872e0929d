/**
 * `npm test`: every test of the repository. The last line is `N passed, N failed[, N skipped]`, counted from the
 * runner's report. Arguments are handed to vitest (`npm test -- test/protocol`).
 *
 * A run of everything also fails when a fault that is due has no test (test/faults/ids.ts).
 *
 * With `CI` set a skip is a failure: there the optional parts (real engine, real kubelet) are installed first, so a
 * skip means that something was not tried.
 */
import { dueFaultIds, faultIds } from "../test/faults/ids.ts";
import { faultTable, untriedFaults } from "../test/faults/table.ts";
import { runVitest } from "./vitest.ts";

const started = performance.now();
const args = process.argv.slice(2);
const { report, passed, failed, skipped } = await runVitest(args);

for (const name of skipped) console.log(`skipped: ${name}`);
const strict = process.env["CI"] === "true" && skipped.length > 0;
if (strict) console.log("a skip in CI is a failure: everything optional is installed there");
const whole = args.length === 0 && report !== undefined;
const untried = whole ? untriedFaults(faultTable(report, faultIds, dueFaultIds)) : [];
for (const problem of untried) console.log(problem);
console.log(`took ${((performance.now() - started) / 1000).toFixed(0)} s`);
console.log(
  `${passed} passed, ${failed + untried.length} failed${skipped.length > 0 ? `, ${skipped.length} skipped` : ""}`,
);
process.exitCode = failed > 0 || untried.length > 0 || passed === 0 || strict ? 1 : 0;
