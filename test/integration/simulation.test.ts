import { spawn } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { mutated, type Mutation } from "../lib/mutate.ts";
import { mutants } from "../simulation/mutants.ts";
import type { Outcome } from "../simulation/run.ts";

/** The bounded form of `npm run simulate`: the same program, in a process of its own. */
const program = join(import.meta.dirname, "../simulation/main.ts");
const patience = 1_200_000;
/** Fewer and fuller worlds than by default: what a world costs when its faults have stopped is paid less often. */
const fullWorld = ["--jobs-per-seed", "800"];
/** Seeds that a planted bug is given here; `npm run simulate -- --mutants` gives it 200. */
const seedsOfMutant = 20;
/** A world that shows every one of them; the seeds before it show some and cost a minute. */
const firstOfMutant = 4;

function simulate(
  flags: readonly string[],
  mutations: readonly Mutation[] = [],
): Promise<readonly Outcome[]> {
  // Its clocks are simulated: it takes what time the tests beside it leave, whose clocks are not.
  const child = spawn("nice", ["-n", "10", process.execPath, program, "--worker", ...flags], {
    env: mutated(mutations),
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  let errors = "";
  child.stdout.on("data", (text: Buffer) => (out += text.toString()));
  child.stderr.on("data", (text: Buffer) => (errors += text.toString()));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", () => {
      const outcomes = out.split("\n").filter((line) => line !== "");
      if (outcomes.length === 0) reject(new Error(`the simulator told nothing: ${errors}`));
      else resolve(outcomes.map((line) => JSON.parse(line) as Outcome));
    });
  });
}

const problemsIn = (outcomes: readonly Outcome[]) =>
  outcomes.flatMap(({ seed, problem }) =>
    problem ? [`${problem.message} (again: npm run simulate -- --seed ${seed} ${fullWorld.join(" ")})`] : [],
  );

describe("worlds of real agents and the real service, on simulated networks, disks, stores, engines and clocks", () => {
  it(
    "F45 10,000 jobs under cuts, partitions, crashes and lost power: none is lost, none is committed twice",
    async () => {
      const outcomes = await simulate(["--seeds", "60", ...fullWorld, "--total", "10000"]);
      expect(problemsIn(outcomes)).toEqual([]);
      const jobs = outcomes.reduce((sum, outcome) => sum + outcome.jobs, 0);
      expect(jobs).toBeGreaterThanOrEqual(10_000);
      expect(Math.max(...outcomes.map(({ nodes }) => nodes))).toBeGreaterThanOrEqual(200);
    },
    patience,
  );

  it(
    "one seed is one world: the same twice, step by step",
    async () => {
      const [one, two] = await Promise.all([simulate(["--seed", "4"]), simulate(["--seed", "4"])]);
      expect(one).toEqual(two);
      expect(one[0]?.steps).toBeGreaterThan(1_000);
    },
    patience,
  );

  describe("a planted bug is found", () => {
    it.each(mutants)(
      "$name",
      async (mutant) => {
        const outcomes = await simulate(
          ["--from", String(firstOfMutant), "--seeds", String(seedsOfMutant)],
          [mutant],
        );
        const found = outcomes.at(-1)?.problem;
        expect(found?.id).toMatch(/^[IFB]\d+$/);
      },
      patience,
    );
  });
});
