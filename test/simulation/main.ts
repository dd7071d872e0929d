import { parseArgs } from "node:util";
import { logLevels } from "../../src/lib/logger.ts";
import { type Outcome, runSeed } from "./run.ts";

const { values } = parseArgs({
  options: {
    seeds: { type: "string", default: "20" },
    seed: { type: "string" },
    "jobs-per-seed": { type: "string", default: "300" },
    trace: { type: "string", default: "60" },
    log: { type: "string", default: "silent" },
  },
});
const jobs = Number(values["jobs-per-seed"]);
const logLevel = logLevels.find((level) => level === values.log) ?? "silent";
const first = values.seed === undefined ? 1 : Number(values.seed);
const count = values.seed === undefined ? Number(values.seeds) : 1;

function tell(
  { seed, nodes, jobs, committed, steps, simulatedMs, hash, problem }: Outcome,
  ms: number,
): void {
  console.log(
    `seed ${seed}: ${nodes} nodes, ${jobs} jobs, ${committed} committed, ${steps} steps, ${(simulatedMs / 1000).toFixed(0)} s in ${(ms / 1000).toFixed(2)} s, ${hash.slice(0, 12)} ${problem ? "FAILED" : "ok"}`,
  );
  if (!problem) return;
  for (const line of problem.trace) console.log(`  ${line}`);
  console.log(`seed ${seed} failed at step ${steps}: ${problem.message}`);
  console.log(`again: npm run simulate -- --seed ${seed} --jobs-per-seed ${values["jobs-per-seed"]}`);
}

let failed = 0;
for (let seed = first; seed < first + count; seed++) {
  const begun = performance.now();
  const outcome = await runSeed(seed, { jobs, logLevel, trace: Number(values.trace) });
  tell(outcome, performance.now() - begun);
  if (outcome.problem) failed++;
}
process.exitCode = failed > 0 ? 1 : 0;
