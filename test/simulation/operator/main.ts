/**
 * `npm run simulate:operator`: runs worlds of the whole operator from their seeds (see `run.ts`).
 *
 *   npm run simulate:operator -- --seeds 10              seeds 1 to 10
 *   npm run simulate:operator -- --seed 17               one seed, as a failure says it
 *   npm run simulate:operator -- --seed 17 --nodes 150   a larger pool
 *   npm run simulate:operator -- --mutants               plants each bug of `mutants.ts`; all must be found
 *
 * `--from N` begins at another seed, `--storm S` is how long things happen (30 s), `--patience S` the longest wait for the pool
 * to come to rest (180 s). Exit code 1 when a seed fails, or a bug is not found.
 *
 * The API server is real: a seed fixes what happens, to whom and when, not the timing of answers. A failure that does not come
 * again at once may come again in the third run.
 */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { mutated } from "../../lib/mutate.ts";
import { type Mutant, mutants } from "./mutants.ts";
import { type Outcome, runSeed } from "./run.ts";
import { startStand } from "./stand.ts";

const { values } = parseArgs({
  options: {
    seeds: { type: "string" },
    seed: { type: "string" },
    from: { type: "string", default: "1" },
    nodes: { type: "string" },
    storm: { type: "string", default: "30" },
    patience: { type: "string", default: "180" },
    mutants: { type: "boolean", default: false },
    /** For its own processes: an outcome a line, as JSON, until one fails. */
    worker: { type: "boolean", default: false },
  },
});

function whole(name: "seeds" | "seed" | "from" | "nodes" | "storm" | "patience"): number {
  const number = Number(values[name]);
  if (!Number.isSafeInteger(number) || number < 1) throw new Error(`--${name}: a whole number from 1 up`);
  return number;
}

/** Seeds that a planted bug may take to be found. */
const seedsOfMutant = 8;
const from = values.seed === undefined ? whole("from") : whole("seed");
const usual = values.mutants ? seedsOfMutant : 5;
const count = values.seed !== undefined ? 1 : values.seeds === undefined ? usual : whole("seeds");
const options = {
  ...(values.nodes === undefined ? {} : { nodes: whole("nodes") }),
  stormMs: whole("storm") * 1000,
  patienceMs: whole("patience") * 1000,
};
const same = [
  ...(values.nodes === undefined ? [] : ["--nodes", values.nodes]),
  "--storm",
  values.storm,
  "--patience",
  values.patience,
];

function tell(outcome: Outcome): void {
  const { seed, nodes, hosts, happenings, operatorLives, pods, events, taken, lost, problem } = outcome;
  console.log(
    `seed ${seed}: ${nodes} nodes on ${hosts} hosts, ${happenings} happenings, ${operatorLives} operators, ` +
      `${pods} pods, ${events} events, ${taken} taken, ${lost} lost, ${outcome.writes} writes, ` +
      `${outcome.seconds} s, ${outcome.cpu} s of CPU: ${problem ? "FAILED" : "ok"}`,
  );
  if (!problem) return;
  for (const line of problem.trace) console.log(`  ${line}`);
  console.log(`seed ${seed}: ${problem.message}`);
  console.log(`again: npm run simulate:operator -- --seed ${seed} ${same.join(" ")}`);
  console.log(
    "(the same things happen to the same nodes; the API server is real, so the order of its answers is not the seed's)",
  );
}

async function here(): Promise<void> {
  await using stand = await startStand((line) => void (values.worker || console.error(line)));
  for (let seed = from; seed < from + count; seed++) {
    const outcome = await runSeed(stand, seed, options);
    if (values.worker) console.log(JSON.stringify(outcome));
    else tell(outcome);
    if (!outcome.problem) continue;
    process.exitCode = 1;
    if (values.worker) return;
  }
}

/** Plants a bug; true if a seed has found it. */
async function find({ name, finds, mutations }: Mutant): Promise<boolean> {
  const flags = ["--worker", "--from", String(from), "--seeds", String(count), ...same];
  const child = spawn(process.execPath, [import.meta.filename, ...flags], {
    env: mutated(mutations),
    stdio: ["ignore", "pipe", "inherit"],
  });
  let found: Outcome | undefined;
  let seeds = 0;
  createInterface({ input: child.stdout }).on("line", (line) => {
    seeds++;
    found = JSON.parse(line) as Outcome;
  });
  await new Promise((resolve) => child.on("close", resolve));
  const problem = found?.problem;
  console.log(name);
  if (problem) console.log(`  ${problem.id} at seed ${found?.seed}: ${problem.message.split("\n")[0]}`);
  else console.log(`  NOT FOUND in ${seeds} seeds`);
  return problem?.id === finds;
}

if (values.mutants) {
  for (const mutant of mutants) if (!(await find(mutant))) process.exitCode = 1;
} else await here();
// What a killed operator had under way may still hold the process.
process.exit();
