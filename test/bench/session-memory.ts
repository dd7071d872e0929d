import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as wait } from "node:timers/promises";
import { IoProcess } from "../io/fixture/network.ts";
import { buildBundles } from "../loop/build.ts";
import { bundle } from "../loop/paths.ts";
import type { Child, Supervisor } from "../testbed/processes.ts";
import type { Bench } from "./bench.ts";
import { compare, type Figure, pairs, type Sample } from "./figures.ts";
import type { SessionsAsked } from "./session-clients.ts";
import { memoryOf } from "./usage.ts";

const model = "bench/model";
/** Until memory has settled, ms. */
const settleMs = 3_000;

/** First line that a child prints. */
async function firstLine(child: Child): Promise<string> {
  const { stdout } = child.process;
  if (!stdout) throw new Error(`${child.name} has no pipe`);
  const [line] = (await once(createInterface({ input: stdout }), "line")) as [string];
  return line;
}

/** Memory that `asked.count` sessions take in a server, KiB each. */
async function perSession(processes: Supervisor, server: number, asked: SessionsAsked): Promise<Sample> {
  await wait(settleMs);
  const before = memoryOf(server);
  const clients = processes.spawn({
    name: "clients",
    command: process.execPath,
    args: [join(import.meta.dirname, "session-clients.ts"), JSON.stringify(asked)],
  });
  let errors = "";
  clients.process.stderr?.on("data", (part: Buffer) => (errors += part.toString()));
  const line = await Promise.race([firstLine(clients), clients.exited]);
  if (line !== "open") throw new Error(`the clients could not open their sessions: ${errors}`);
  await wait(settleMs);
  const after = memoryOf(server);
  await clients.stop({ graceMs: 0 });
  return { each: ((after.rss - before.rss) * 1024) / asked.count, empty: before.rss };
}

/** Memory of an open session in the service. */
export const sessionMemory: Bench = {
  name: "session-memory",
  what: "resident memory that an open session of a node takes in the service, against a connection of a bare ws server",
  async run({ processes, quick, say }) {
    await buildBundles();
    const figures: Figure[] = [];
    const rounds = quick
      ? [{ count: 300, times: 1 }]
      : [
          { count: 1_000, times: 2 },
          { count: 5_000, times: 1 },
        ];
    for (const { count, times } of rounds) {
      const ours = async (): Promise<Sample> => {
        // One heartbeat for each session, at its beginning: what is measured is what they hold.
        const io = await IoProcess.start(
          processes,
          ["--log-level", "error", "--heartbeat", "10m"],
          [bundle("io")],
        );
        const sample = await perSession(processes, io.child?.pid ?? 0, {
          kind: "service",
          count,
          url: io.url,
          network: io.network,
          rootFile: join(io.keys, "root.json"),
          account: "bench",
          accountKey: Buffer.from(await io.account("bench")).toString("base64url"),
          model,
          config: await io.publish([model]),
        });
        await io.kill();
        say(`ours, ${count}: ${sample["each"]?.toFixed(1)} KiB each`);
        return sample;
      };
      const peer = async (): Promise<Sample> => {
        const server = processes.spawn({
          name: "bare server",
          command: process.execPath,
          args: [join(import.meta.dirname, "bare-ws-server.ts")],
        });
        const url = `ws://127.0.0.1:${await firstLine(server)}`;
        const sample = await perSession(processes, server.pid, { kind: "bare", count, url });
        await server.stop({ graceMs: 0 });
        say(`bare ws, ${count}: ${sample["each"]?.toFixed(1)} KiB each`);
        return sample;
      };
      figures.push(
        compare(await pairs(times, ours, peer), "each", {
          name: `memory of each of ${count} sessions`,
          unit: "KiB",
          against: "bare ws",
          target: { at: "most", ratio: 1.5 },
        }),
      );
    }
    return { figures, notes: ["Ours includes the node itself: its key, its report, its place in dispatch."] };
  },
};
