import { spawn } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { mutated, type Mutation } from "../lib/mutate.ts";
import { mutants } from "../simulation/operator/mutants.ts";
import type { Outcome } from "../simulation/operator/run.ts";

/** The bounded form of `npm run simulate:operator`: the same program, in a process of its own. */
const program = join(import.meta.dirname, "../simulation/operator/main.ts");
const patience = 600_000;
const size = ["--nodes", "8", "--storm", "12", "--patience", "180"];

function simulate(
  flags: readonly string[],
  mutations: readonly Mutation[] = [],
): Promise<readonly Outcome[]> {
  const child = spawn(process.execPath, [program, "--worker", ...size, ...flags], {
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
      if (outcomes.length === 0) reject(new Error(`the simulator told nothing: ${errors.slice(-2_000)}`));
      else resolve(outcomes.map((line) => JSON.parse(line) as Outcome));
    });
  });
}

const problemsIn = (outcomes: readonly Outcome[]) =>
  outcomes.flatMap(({ seed, problem }) =>
    problem
      ? [
          `${problem.message} (again: npm run simulate:operator -- --seed ${seed} ${size.join(" ")})`,
          ...problem.trace.slice(-60),
        ]
      : [],
  );

describe("the operator before a real API server, with real agents on hosts in memory", () => {
  it(
    "I1, I7, I8: a pool rolls through a storm of faults, none of its nodes is there twice, none is taken under the budget, and it comes to rest",
    async () => {
      const outcomes = await simulate(["--seeds", "1"]);
      expect(problemsIn(outcomes)).toEqual([]);
      expect(outcomes.map(({ nodes, happenings }) => [nodes, happenings > 5])).toEqual([[8, true]]);
    },
    patience,
  );

  // The others take a storm each: `npm run simulate:operator -- --mutants`.
  it.each(mutants.filter(({ quick }) => quick))(
    "a planted bug is found: $name",
    async ({ finds, mutations }) => {
      const outcomes = await simulate(["--seeds", "1"], mutations);
      expect(outcomes.at(-1)?.problem?.id).toBe(finds);
    },
    patience,
  );
});
