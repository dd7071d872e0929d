import { setTimeout as wait } from "node:timers/promises";
import type { Supervisor } from "../testbed/processes.ts";
import type { Bench } from "./bench.ts";
import { compare, pairs, type Sample } from "./figures.ts";
import { load } from "./load.ts";
import { benchModel, startStand } from "./node-stand.ts";
import { cpuSeconds, memoryOf } from "./usage.ts";

const emptyProgram = "setInterval(() => {}, 2 ** 30)";
/** Until a process that was just started has settled, ms. */
const settleMs = 3_000;

/** Memory of the agent beside a GPU: idle with an open session, and after 32 streams at once. */
export const agentMemory: Bench = {
  name: "agent-memory",
  what: "resident memory of the agent, idle and under 32 streams, against a Node process that does nothing",
  async run({ processes, quick, say }) {
    const seconds = quick ? 3 : 15;
    const ours = async (): Promise<Sample> => {
      const stand = await startStand(processes, { tokenDelayMs: 20 });
      await wait(settleMs);
      const { pid } = stand.agent;
      const idle = memoryOf(pid);
      const cpu = cpuSeconds(pid);
      const asked = {
        url: stand.io.url,
        headers: { authorization: `Bearer ${stand.apiKey}` },
        model: benchModel,
        stream: true,
        tokens: 100,
      };
      const peak = new PeakMemory(pid);
      const { requests, failed, failure } = await load(asked, 32, seconds);
      if (failed > 0) throw new Error(`${failed} streams failed: ${failure}`);
      const streaming = peak.end();
      const cpuPerStream = ((cpuSeconds(pid) - cpu) / requests) * 1000;
      say(
        `agent: ${idle.rss.toFixed(1)} MiB idle, ${streaming.toFixed(1)} MiB with 32 streams (${requests} in all)`,
      );
      await stand.agent.stop();
      await stand.io.child?.stop();
      return { idle: idle.rss, anonymous: idle.anonymous, streaming, cpuPerStream };
    };
    const peer = async (): Promise<Sample> => {
      const { rss, anonymous } = await emptyNode(processes);
      return { idle: rss, anonymous, streaming: rss };
    };
    const measured = await pairs(quick ? 1 : 3, ours, peer);
    const against = "empty Node process";
    const unit = "MiB";
    return {
      figures: [
        compare(measured, "idle", {
          name: "agent, idle with a session: resident",
          unit,
          against,
          target: { at: "most", ratio: 1.4 },
        }),
        compare(measured, "anonymous", { name: "the same, without pages of files", unit, against }),
        compare(measured, "streaming", { name: "agent, most while 32 streams run: resident", unit, against }),
      ],
      notes: [
        `CPU of the agent for a stream of 100 tokens: ${measured.ours.map(({ cpuPerStream = 0 }) => cpuPerStream.toFixed(1)).join(", ")} ms`,
      ],
    };
  },
};

async function emptyNode(processes: Supervisor): Promise<ReturnType<typeof memoryOf>> {
  const child = processes.spawn({ name: "empty", command: process.execPath, args: ["-e", emptyProgram] });
  await wait(settleMs);
  const memory = memoryOf(child.pid);
  await child.stop();
  return memory;
}

/** The most memory that a process has held between the beginning and `end()`, by samples every 100 ms. */
class PeakMemory {
  #most = 0;
  readonly #timer: NodeJS.Timeout;

  constructor(pid: number) {
    this.#timer = setInterval(() => {
      this.#most = Math.max(this.#most, memoryOf(pid).rss);
    }, 100);
  }

  /** MiB. */
  end(): number {
    clearInterval(this.#timer);
    return this.#most;
  }
}
