/**
 * `npm run bench`: measures the project against its peers, each pair side by side in one run, and prints the ratios.
 *
 * Usage: `npm run bench [-- --only NAME]… [--quick] [--nodes N] [--minutes N] [--out FOLDER]`. `--nodes` sets how large the
 * fleets of `fleet` and `fleet-roll` are, `--minutes` for how long `fleet` looks at one that stands still. With `--out` each
 * bench leaves `NAME.json` there. docs/benchmarks.md says what the benches are and how to read them.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, totalmem } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { messageOf } from "../src/lib/errors.ts";
import { benches } from "../test/bench/benches.ts";
import { table } from "../test/bench/figures.ts";
import { cacheFolder } from "../test/testbed/binaries.ts";
import { supervise } from "../test/testbed/processes.ts";

const { values } = parseArgs({
  options: {
    only: { type: "string", multiple: true, default: [] },
    quick: { type: "boolean", default: false },
    nodes: { type: "string" },
    minutes: { type: "string" },
    out: { type: "string" },
  },
});
const known = benches.map(({ name }) => name);
const wrong = values.only.filter((name) => !known.includes(name));
if (wrong.length > 0) {
  console.error(`no such bench: ${wrong.join(", ")}; there are ${known.join(", ")}`);
  process.exit(2);
}
/** A number above 0; undefined where the flag is not set. */
function numberOf(flag: "nodes" | "minutes"): number | undefined {
  const text = values[flag];
  if (text === undefined) return undefined;
  const number = Number(text);
  if (number > 0) return number;
  console.error(`--${flag}: a number above 0`);
  process.exit(2);
}
const [nodes, minutes] = [numberOf("nodes"), numberOf("minutes")];
const machine = {
  cpu: cpus()[0]?.model ?? "unknown",
  cores: availableParallelism(),
  memoryGiB: Math.round(totalmem() / 2 ** 30),
  node: process.version,
  load: loadavg()[0] ?? 0,
};
console.log(
  `${machine.cpu}, ${machine.cores} cores, ${machine.memoryGiB} GiB, Node ${machine.node}, load at the start ${machine.load.toFixed(2)}`,
);
if (machine.load > machine.cores / 2) console.log("others use this machine: expect figures to be off");
if (values.out !== undefined) mkdirSync(values.out, { recursive: true });

const cache = join(cacheFolder(process.env), "bench");
for (const bench of benches) {
  if (values.only.length > 0 && !values.only.includes(bench.name)) continue;
  console.log(`\n## ${bench.name}: ${bench.what}\n`);
  const processes = supervise();
  try {
    const say = (line: string) => console.log(line);
    const result = await bench.run({
      processes,
      quick: values.quick,
      cache,
      say,
      ...(nodes === undefined ? {} : { nodes }),
      ...(minutes === undefined ? {} : { minutes }),
    });
    console.log(`\n${table(result.figures)}\n`);
    for (const note of result.notes) console.log(`- ${note}`);
    if (values.out !== undefined) {
      const report = { bench: bench.name, quick: values.quick, machine, ...result };
      writeFileSync(join(values.out, `${bench.name}.json`), `${JSON.stringify(report, undefined, 2)}\n`);
    }
  } catch (error) {
    console.error(`${bench.name} failed: ${messageOf(error)}`);
    process.exitCode = 1;
  } finally {
    await processes.close();
  }
}
