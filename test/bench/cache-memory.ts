import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as wait } from "node:timers/promises";
import { build } from "esbuild";
import { repository } from "../loop/paths.ts";
import type { Supervisor } from "../testbed/processes.ts";
import { asDeployed } from "./as-deployed.ts";
import type { Bench } from "./bench.ts";
import { startObjectServer } from "./cached-objects.ts";
import { alone, compare, type Figure, pairs, type Sample } from "./figures.ts";
import { memoryOf } from "./usage.ts";

/** Until a process's memory has settled, ms. */
const settleMs = 3_000;

const holder = join(repository, "dist/bench/cache-holder.mjs");

/** Makes JavaScript of the program: what Node needs to read TypeScript would count as its memory. */
async function buildHolder(): Promise<void> {
  await build({
    entryPoints: [join(import.meta.dirname, "cache-holder.ts")],
    outfile: holder,
    bundle: true,
    packages: "external",
    platform: "node",
    format: "esm",
    logLevel: "error",
  });
}

interface Held {
  readonly before: number;
  readonly after: number;
  readonly peakRss: number;
}

/** What a process takes that holds `count` nodes and their pods. */
async function holding(
  processes: Supervisor,
  kind: "ours" | "client-node",
  url: string,
  count: number,
): Promise<Sample> {
  const { flags, env } = kind === "ours" ? asDeployed() : { flags: [], env: {} };
  const child = processes.spawn({
    name: `cache ${kind}`,
    command: process.execPath,
    args: ["--expose-gc", ...flags, holder, kind, url, String(count)],
    env: { ...process.env, ...env },
  });
  let errors = "";
  child.process.stderr?.on("data", (part: Buffer) => (errors += part.toString()));
  const { stdout } = child.process;
  if (!stdout) throw new Error("the process has no pipe");
  const first = once(createInterface({ input: stdout }), "line") as Promise<[string]>;
  const line = await Promise.race([first, child.exited]);
  if (!Array.isArray(line)) throw new Error(`${kind} could not hold ${count} nodes: ${errors.slice(-500)}`);
  await wait(settleMs);
  const { before, after, peakRss }: Held = JSON.parse(line[0]);
  const { rss } = memoryOf(child.pid);
  await child.stop({ graceMs: 0 });
  return { rss, peakRss, each: (after - before) / count / 1024 };
}

/** Memory of what the operator caches. */
export const cacheMemory: Bench = {
  name: "cache-memory",
  what: "memory that ResultityNodes and their pods take in the operator's caches, against client-node's informers",
  async run({ processes, quick, say }) {
    const figures: Figure[] = [];
    let bytesEach = 0;
    await buildHolder();
    for (const count of quick ? [1_000] : [1_000, 10_000]) {
      const server = await startObjectServer(count);
      ({ bytesEach } = server);
      const arm = (kind: "ours" | "client-node") => async () => {
        const sample = await holding(processes, kind, server.url, count);
        say(
          `${kind}, ${count}: ${sample["each"]?.toFixed(1)} KiB of heap each, ${sample["rss"]?.toFixed(0)} MiB resident`,
        );
        return sample;
      };
      const measured = await pairs(quick ? 1 : 2, arm("ours"), arm("client-node"));
      const against = "client-node's informers";
      const target = { at: "most", ratio: 0.5 } as const;
      figures.push(
        compare(measured, "each", {
          name: `heap for each of ${count} nodes with its pod`,
          unit: "KiB",
          against,
        }),
        compare(measured, "rss", {
          name: `resident with ${count} nodes and their pods`,
          unit: "MiB",
          against,
          ...(count === 10_000 ? { target } : {}),
        }),
        alone(measured.ours, "peakRss", `most resident while ${count} are read`, "MiB"),
      );
      await server.close();
    }
    return {
      figures,
      notes: [
        `A node and its pod are ${(bytesEach / 1024).toFixed(1)} KiB of JSON, fields' managers included. Ours are all caches of the operator with their indexes; the controllers' own memory is not in it.`,
      ],
    };
  },
};
