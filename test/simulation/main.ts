/**
 * `npm run simulate`: runs worlds from their seeds (see `run.ts`).
 *
 *   npm run simulate -- --seeds 1000            seeds 1 to 1000
 *   npm run simulate -- --seed 17               one seed, as a failure says it
 *   npm run simulate -- --seed 17 --trace 5000 --log info
 *   npm run simulate -- --mutants               plants each bug of `mutants.ts`; all must be found
 *
 * `--from N` begins at another seed, `--total N` ends when N jobs were taken, `--jobs N` runs so many side by side, `--jobs-per-seed N` (300). Exit code 1 when a
 * seed fails, or a bug is not found.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { logLevels } from "../../src/lib/logger.ts";
import { mutated } from "../lib/mutate.ts";
import { type Mutant, mutants } from "./mutants.ts";
import { type Outcome, runSeed } from "./run.ts";

const { values } = parseArgs({
  options: {
    seeds: { type: "string" },
    seed: { type: "string" },
    from: { type: "string", default: "1" },
    jobs: { type: "string", default: "1" },
    "jobs-per-seed": { type: "string", default: "300" },
    total: { type: "string", default: "1000000000" },
    mutants: { type: "boolean", default: false },
    trace: { type: "string", default: "60" },
    log: { type: "string", default: "silent" },
    /** For its own processes: an outcome a line, as JSON, until one fails. */
    worker: { type: "boolean", default: false },
  },
});

function whole(
  name: "seeds" | "seed" | "from" | "jobs" | "jobs-per-seed" | "total" | "trace",
  least: number,
): number {
  const number = Number(values[name]);
  if (!Number.isSafeInteger(number) || number < least)
    throw new Error(`--${name}: a whole number from ${least} up`);
  return number;
}

/** Seeds that a planted bug may take to be found. */
const seedsOfMutant = 200;
const jobsPerSeed = whole("jobs-per-seed", 1);
const from = values.seed === undefined ? whole("from", 0) : whole("seed", 0);
const usual = values.mutants ? seedsOfMutant : 100;
const count = values.seed !== undefined ? 1 : values.seeds === undefined ? usual : whole("seeds", 1);
const sideBySide = whole("jobs", 1);

function tell({ seed, nodes, jobs, committed, steps, simulatedMs, hash, problem }: Outcome): void {
  const seconds = Math.round(simulatedMs / 1000);
  console.log(
    `seed ${seed}: ${nodes} nodes, ${jobs} jobs, ${committed} committed, ${steps} steps, ${seconds} s, ${hash.slice(0, 12)}: ${problem ? "FAILED" : "ok"}`,
  );
  if (!problem) return;
  for (const line of problem.trace) console.log(`  ${line}`);
  console.log(`seed ${seed}, step ${steps}: ${problem.message}`);
  const same = jobsPerSeed === 300 ? "" : ` --jobs-per-seed ${jobsPerSeed}`;
  console.log(`again: npm run simulate -- --seed ${seed}${same}`);
}

async function here(): Promise<void> {
  const logLevel = logLevels.find((level) => level === values.log) ?? "silent";
  let left = whole("total", 1);
  for (let seed = from; seed < from + count && left > 0; seed++) {
    const outcome = await runSeed(seed, { jobs: jobsPerSeed, logLevel, trace: whole("trace", 1) });
    if (values.worker) console.log(JSON.stringify(outcome));
    else tell(outcome);
    left -= outcome.jobs;
    if (!outcome.problem) continue;
    process.exitCode = 1;
    if (values.worker) return;
  }
}

/** Runs seeds in a process of their own and gives each outcome as it comes. Resolves to its exit code. */
function elsewhere(
  first: number,
  seeds: number,
  env: NodeJS.ProcessEnv,
  outcome: (outcome: Outcome) => void,
): Promise<number> {
  const flags = ["--from", String(first), "--seeds", String(seeds), "--jobs-per-seed", String(jobsPerSeed)];
  const child = spawn(process.execPath, [import.meta.filename, "--worker", ...flags], {
    env,
    stdio: ["ignore", "pipe", "inherit"],
  });
  createInterface({ input: child.stdout }).on("line", (line) => outcome(JSON.parse(line) as Outcome));
  return new Promise((resolve) => child.on("close", (code) => resolve(code ?? -1)));
}

/** Runs all seeds, each worker a stripe of them. */
async function stripes(): Promise<void> {
  const share = Math.ceil(count / sideBySide);
  const workers = Array.from({ length: sideBySide }, async (_, at) => {
    const last = Math.min(from + count, from + (at + 1) * share);
    // A worker ends at a failure: the seeds after it are run all the same.
    for (let first = from + at * share; first < last; ) {
      let done = first;
      const code = await elsewhere(first, last - first, process.env, (outcome) => {
        tell(outcome);
        done = outcome.seed + 1;
      });
      if (code === 0) return;
      process.exitCode = 1;
      if (done === first) return;
      first = done;
    }
  });
  await Promise.all(workers);
}

/** Plants a bug; true if a seed has found it. */
async function find(mutant: Mutant): Promise<boolean> {
  let found: Outcome | undefined;
  let seeds = 0;
  await elsewhere(from, count, mutated([mutant]), (outcome) => {
    seeds++;
    if (outcome.problem) found = outcome;
  });
  const problem = found?.problem;
  const how = problem
    ? `found by ${problem.id} at seed ${found?.seed}: ${problem.message.split("\n")[0]}`
    : `NOT FOUND in ${seeds} seeds`;
  console.log(`${mutant.name}\n  ${how}`);
  // A bug that ends the program is none that an invariant has found.
  return problem !== undefined && problem.id !== "error";
}

async function findAll(): Promise<void> {
  const waiting = [...mutants];
  const workers = Array.from({ length: sideBySide }, async () => {
    for (let mutant = waiting.shift(); mutant; mutant = waiting.shift())
      if (!(await find(mutant))) process.exitCode = 1;
  });
  await Promise.all(workers);
}

if (values.mutants) await findAll();
else if (sideBySide > 1) await stripes();
else await here();
