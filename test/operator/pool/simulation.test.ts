import { spawn } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { mutated } from "../../lib/mutate.ts";
import { poolMutants } from "../../simulation/pool/mutants.ts";
import { type Outcome, runPool } from "../../simulation/pool/run.ts";

/** The bounded form of `npm run simulate:planner`. */
const again = ({ seed, problem }: Outcome) =>
  problem ? [`${problem.message} (again: npm run simulate:planner -- --seed ${seed})`] : [];

describe("pools in memory, whatever happens to them", () => {
  it("I6, I7, I8: 60 histories: none is taken under its budget, told what is not allowed or told twice, all come to rest", () => {
    const outcomes = Array.from({ length: 60 }, (_, at) => runPool(at + 1));
    expect(outcomes.flatMap(again)).toEqual([]);
    expect(outcomes.reduce((sum, { actions }) => sum + actions, 0)).toBeGreaterThan(5_000);
  }, 120_000);

  it("I7, I8: a pool of 10,000", () => {
    const outcome = runPool(200);
    expect(again(outcome)).toEqual([]);
    expect(outcome.nodes).toBeGreaterThanOrEqual(10_000);
  }, 120_000);

  it("one seed is one history, the same twice", () => {
    expect(runPool(4)).toEqual(runPool(4));
  }, 60_000);
});

/** Those that are found within a few seeds; `npm run simulate:planner -- --mutants` plants all. */
const seedsOfMutant = 120;

describe("a planted bug is found", () => {
  it.each(poolMutants.filter(({ rare }) => !rare))(
    "$name",
    async (mutant) => {
      const program = join(import.meta.dirname, "../../simulation/pool/main.ts");
      const child = spawn(process.execPath, [program, "--worker", "--seeds", String(seedsOfMutant)], {
        env: mutated([mutant]),
        stdio: ["ignore", "pipe", "inherit"],
      });
      let out = "";
      child.stdout.on("data", (part: Buffer) => (out += part.toString()));
      await new Promise((resolve) => child.on("close", resolve));
      const { problem } = JSON.parse(out) as Outcome;
      expect(problem?.id).toBeDefined();
      expect(problem?.id).not.toBe("error");
    },
    120_000,
  );
});
