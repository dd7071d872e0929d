/**
 * `npm run simulate:planner`: runs pools from their seeds against the pool's planner (see `run.ts`), without Kubernetes.
 *
 *   npm run simulate:planner -- --seeds 1000    seeds 1 to 1000; every 200th has 10,000 nodes
 *   npm run simulate:planner -- --seed 17       one seed, as a failure says it
 *   npm run simulate:planner -- --mutants       plants each bug of `mutants.ts`; all must be found
 *
 * `--from N` begins at another seed, `--nodes N` makes all pools that large. Exit code 1 when a seed fails, or a bug is
 * not found.
 */
import { spawn } from "node:child_process";
import { parseArgs } from "node:util";
import { mutated } from "../../lib/mutate.ts";
import { poolMutants } from "./mutants.ts";
import { type Outcome, runPool } from "./run.ts";

const { values } = parseArgs({
  options: {
    seeds: { type: "string" },
    seed: { type: "string" },
    from: { type: "string", default: "1" },
    nodes: { type: "string" },
    mutants: { type: "boolean", default: false },
    /** For its own processes and for tests: the first failure alone, as JSON, or a sum. */
    worker: { type: "boolean", default: false },
  },
});

function whole(name: "seeds" | "seed" | "from" | "nodes", least: number): number {
  const number = Number(values[name]);
  if (!Number.isSafeInteger(number) || number < least)
    throw new Error(`--${name}: a whole number from ${least} up`);
  return number;
}

/** Seeds that a planted bug may take to be found. */
const seedsOfMutant = 150;
const from = values.seed === undefined ? whole("from", 1) : whole("seed", 1);
const count = values.seed !== undefined ? 1 : values.seeds === undefined ? 1000 : whole("seeds", 1);
const nodes = values.nodes === undefined ? undefined : whole("nodes", 1);

function tell({ seed, problem }: Outcome): void {
  if (!problem) return;
  for (const line of problem.trace.slice(-40)) console.log(`  ${line}`);
  console.log(`seed ${seed}: ${problem.message}`);
  const size = nodes === undefined ? "" : ` --nodes ${nodes}`;
  console.log(`again: npm run simulate:planner -- --seed ${seed}${size}`);
}

function runAll(): void {
  const begun = process.cpuUsage();
  const sum = { seeds: 0, failed: 0, plans: 0, actions: 0, days: 0, largest: 0 };
  for (let seed = from; seed < from + count; seed++) {
    const outcome = runPool(seed, nodes);
    sum.seeds++;
    sum.plans += outcome.plans;
    sum.actions += outcome.actions;
    sum.days += outcome.simulatedMs / 86_400_000;
    sum.largest = Math.max(sum.largest, outcome.nodes);
    if (!outcome.problem) continue;
    sum.failed++;
    process.exitCode = 1;
    if (values.worker) return console.log(JSON.stringify(outcome));
    tell(outcome);
  }
  if (values.worker) return console.log(JSON.stringify({ seed: from, nodes: sum.largest, ...sum }));
  const { user, system } = process.cpuUsage(begun);
  console.log(
    `${sum.seeds} seeds, ${sum.failed} failed: ${sum.plans} plans, ${sum.actions} actions, ${sum.days.toFixed(0)} days, up to ${sum.largest} nodes, ${((user + system) / 1e6).toFixed(0)} s of CPU`,
  );
}

/** Plants a bug; true if a seed has found it. */
async function find(mutant: (typeof poolMutants)[number]): Promise<boolean> {
  const flags = ["--worker", "--seeds", String(values.seeds === undefined ? seedsOfMutant : count)];
  const child = spawn(process.execPath, [import.meta.filename, ...flags], {
    env: mutated([mutant]),
    stdio: ["ignore", "pipe", "inherit"],
  });
  let text = "";
  child.stdout.on("data", (part: Buffer) => (text += part.toString()));
  await new Promise((resolve) => child.on("close", resolve));
  const { seed, problem } = JSON.parse(text) as Outcome;
  console.log(`${mutant.name}\n  ${problem ? `found at seed ${seed}: ${problem.message}` : "NOT FOUND"}`);
  // A bug that ends the program is none that a check has found.
  return problem !== undefined && problem.id !== "error";
}

if (values.mutants) {
  for (const mutant of poolMutants) if (!(await find(mutant))) process.exitCode = 1;
} else runAll();
