import { readFileSync } from "node:fs";
import { join } from "node:path";
import { mintBinding } from "../../src/protocol/binding.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { IoProcess } from "../io/fixture/network.ts";
import { buildBundles } from "../loop/build.ts";
import { bundle } from "../loop/paths.ts";
import { TestbedError } from "../testbed/errors.ts";
import type { Child, Supervisor } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/** The model that the stand's engine serves. */
export const benchModel = "bench/model";

/** Service, one agent and one engine, each a process of its own, run from the bundles that are shipped. */
export interface Stand {
  readonly io: IoProcess;
  readonly ioPid: number;
  readonly agent: Child;
  /** Key of a client of the service. */
  readonly apiKey: string;
  /** Base URL of the engine itself. */
  readonly engineUrl: string;
}

/** What a stand may have other than the usual. */
export interface StandOptions {
  /** Between two tokens of the engine, ms. */
  readonly tokenDelayMs: number;
  /** Flags of Node for the agent, and for the service. */
  readonly agentFlags?: readonly string[];
  readonly ioFlags?: readonly string[];
}

/** Builds the bundles and starts a stand; resolves when the node serves. */
export async function startStand(processes: Supervisor, options: StandOptions): Promise<Stand> {
  await buildBundles();
  const io = await IoProcess.start(
    processes,
    ["--log-level", "warn"],
    [...(options.ioFlags ?? []), bundle("io")],
  );
  const accountKey = await io.account("bench");
  const log = join(io.folder, "engine.log");
  const config = await io.publish([benchModel], {
    engine: "test",
    command: engineCommand({ log, tokenDelayMs: options.tokenDelayMs }),
    maxJobs: 64,
  });
  const node = await NodeProcesses.make(processes, new TestNetwork());
  const binding = mintBinding(accountKey, io.network, "bench", node.identity.nodeId);
  node.write("identity/binding.json", JSON.stringify(binding));
  node.write("identity/root.json", readFileSync(join(io.keys, "root.json"), "utf8"));
  node.desire({ target: config });
  const agent = node.startAgent(io.url, ["--log-level", "warn"], {}, [
    ...(options.agentFlags ?? []),
    bundle("agent"),
  ]);
  await node.startLauncher();
  await until(
    "a node that serves",
    async () => (await io.nodes()).some(({ connected, models }) => connected && models.includes(benchModel)),
    { deadlineMs: 60_000, giveUp: agent.requireRunning },
  );
  const { child } = io;
  if (!child) throw new TestbedError("ProcessFailed", "the service is not running");
  return {
    io,
    ioPid: child.pid,
    agent,
    apiKey: await io.apiKey("bench"),
    engineUrl: `http://127.0.0.1:${node.enginePort()}`,
  };
}
