/**
 * `agent run`: the control half of a node, and the commands with which its owner looks after it (`doctor`, `receipts`,
 * `identity`). Each setting is a flag, an environment variable (`RESULTITY_` and the flag's name in capitals) and a field
 * of the config file; the first of them that says something wins. Exit codes: 0 after an orderly leave or a command that found
 * nothing wrong, 1 when it cannot begin or something is wrong, 2 for wrong flags.
 */
// First, before anything takes time to load.
import { takeOverEnd } from "./early-end.ts";
import { setFlagsFromString } from "node:v8";
import { Agent } from "../agent/agent.ts";
import { diskFiles } from "../agent/edge/files.ts";
import { systemRandom, thisHost } from "../agent/edge/host.ts";
import { nodeHttp } from "../agent/edge/http.ts";
import { modelDisk } from "../agent/edge/model-disk.ts";
import { modelFetch } from "../agent/edge/model-fetch.ts";
import { wsTransport } from "../agent/edge/transport.ts";
import { readNvidiaSmi } from "../agent/edge/nvidia-smi.ts";
import { type MetricsText, serveEndpoints } from "../agent/endpoints/server.ts";
import { readIdentity } from "../agent/identity.ts";
import type { Ports } from "../agent/ports.ts";
import { ReceiptBook } from "../agent/receipts/book.ts";
import { type AgentCommand, helpOf } from "../agent/standalone/command.ts";
import { flagLines, readCommandLine, UsageError } from "../agent/standalone/command-line.ts";
import { SettingsError } from "../agent/standalone/setting.ts";
import { type AgentSettings, resolveSettings } from "../agent/standalone/settings.ts";
import { dcgmSource } from "../agent/telemetry/dcgm.ts";
import type { GpuSource } from "../agent/telemetry/gpu.ts";
import { systemClock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { createLogger } from "../lib/logger.ts";
import { version } from "../lib/version.ts";

// Memory of a GPU host is the engine's. Without V8's last optimising compiler and with a young generation of one size the agent
// holds an eighth less when idle and a sixth less under 32 streams, for the same CPU a token (docs/benchmarks.md); here rather
// than in NODE_OPTIONS, which takes neither flag, so that it holds wherever the agent runs.
setFlagsFromString("--no-opt");
setFlagsFromString("--semi-space-growth-factor=1");

/** Beside `run`. Loaded when they are asked for: a node that runs pays nothing for them. */
const commands: Readonly<Record<string, () => Promise<AgentCommand>>> = {
  doctor: async () => (await import("../agent/doctor/command.ts")).doctorCommand,
  drain: async () => (await import("../agent/standalone/drain-command.ts")).drainCommand,
  identity: async () => (await import("../agent/standalone/identity-command.ts")).identityCommand,
  receipts: async () => (await import("../agent/receipts/command.ts")).receiptsCommand,
};

const usage = `usage: agent run [options]              runs the node
       agent doctor [--json] [options]     looks for what stands in the node's way
       agent drain                         before the engine is stopped: drains, and waits
       agent identity init|rotate          makes the node's key and prints its id; gives it another key
       agent receipts list|verify|export   what the node has earned
       agent --help

${flagLines()}

A setting is a flag, else an environment variable (RESULTITY_NODE_NAME, RESULTITY_ENDPOINT with commas, …), else a field of the
config file. docs/standalone.md shows a config file.`;

async function run(settings: AgentSettings): Promise<void> {
  const log = createLogger("agent", settings.level).child({ node: settings.nodeName });
  const ports: Ports = {
    clock: systemClock,
    random: systemRandom,
    transport: wsTransport(process.env),
    http: nodeHttp(process.env),
    files: diskFiles,
    host: thisHost,
    log,
  };
  const identity = await readIdentity(diskFiles, settings.identityDir, settings.network);
  const receipts =
    settings.receiptsDir === undefined ? undefined : new ReceiptBook(settings.receiptsDir, systemClock, log);
  const agent = new Agent(ports, {
    ...settings,
    receipts,
    identity,
    models: { disk: modelDisk, fetch: modelFetch(process.env, settings.modelSourceDirs) },
    gpus: gpuSource(settings, ports),
    agentVersion: version,
  });
  let metrics: MetricsText | undefined;
  const drainKeys = settings.standalone ? undefined : () => identity.keys.known;
  const server = await serveEndpoints(
    agent,
    settings.listen,
    async () => {
      const { agentMetrics } = await import("../agent/endpoints/metrics.ts");
      return (metrics ??= agentMetrics(agent));
    },
    drainKeys,
  );
  log.info({ node_id: identity.nodeId, listen: server.address() }, "agent begins");

  const leave = () => {
    log.info("told to stop: draining");
    agent
      .leave()
      .then(() => receipts?.close())
      .then(() => {
        log.info("left in order");
        process.exit(0);
      })
      .catch((thrown: unknown) => {
        log.fatal({ why: messageOf(thrown) }, "could not leave in order");
        process.exit(1);
      });
  };
  takeOverEnd(leave);
  process.once("SIGINT", leave);
  await agent.start();
}

/** Who tells of the node's GPUs. The pod of a node has the node's name. */
function gpuSource(settings: AgentSettings, ports: Ports): GpuSource | undefined {
  const { dcgmUrl, podNamespace: namespace, nodeName: pod, standalone } = settings;
  if (dcgmUrl !== undefined)
    return dcgmSource(ports, dcgmUrl, namespace === undefined ? "host" : { namespace, pod });
  return standalone ? readNvidiaSmi : undefined;
}

async function main([first = "run", ...rest]: readonly string[]): Promise<void> {
  const named = !first.startsWith("-");
  const command = named ? commands[first] : undefined;
  if (command) {
    const asked = await command();
    if (rest.includes("--help") || rest.includes("-h")) {
      console.log(helpOf(asked));
      return;
    }
    process.exitCode = await asked.run({
      argv: rest,
      env: process.env,
      out: (text) => console.log(text),
      note: (text) => console.error(text),
      now: () => systemClock.now(),
    });
    return;
  }
  const line = await readCommandLine(named ? rest : [first, ...rest], process.env);
  if (line.find("help") !== undefined) {
    console.log(usage);
    return;
  }
  if (named && first !== "run") throw new UsageError(`there is no command ${first}`);
  if (line.positionals.length > 0) throw new UsageError(`run takes no ${line.positionals.join(" ")}`);
  await run(resolveSettings(line.sources));
}

try {
  await main(process.argv.slice(2));
} catch (thrown) {
  const misused = thrown instanceof UsageError || thrown instanceof SettingsError;
  console.error(`agent: ${messageOf(thrown)}`);
  if (thrown instanceof UsageError)
    console.error("agent --help lists commands and settings, agent COMMAND --help more");
  process.exit(misused ? 2 : 1);
}
