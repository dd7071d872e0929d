/**
 * `agent run`: the control half of a node. Flags and their environment variables (`RESULTITY_` and the flag's name in
 * capitals) are in {@link options}; a flag wins. Exit codes: 0 after an orderly leave, 1 when it cannot begin, 2 for
 * wrong flags.
 */
import { parseArgs } from "node:util";
import { Agent } from "../agent/agent.ts";
import { diskFiles } from "../agent/edge/files.ts";
import { systemRandom, thisHost } from "../agent/edge/host.ts";
import { nodeHttp } from "../agent/edge/http.ts";
import { wsTransport } from "../agent/edge/transport.ts";
import { type MetricsText, serveEndpoints } from "../agent/endpoints/server.ts";
import { readIdentity } from "../agent/identity.ts";
import type { Ports } from "../agent/ports.ts";
import { systemClock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { createLogger, logLevels } from "../lib/logger.ts";
import { version } from "../lib/version.ts";
import { agentPort } from "../protocol/status.ts";

const options = {
  "node-name": { type: "string" },
  network: { type: "string" },
  endpoint: { type: "string", multiple: true },
  listen: { type: "string" },
  "identity-dir": { type: "string" },
  "network-dir": { type: "string" },
  "pod-dir": { type: "string" },
  "state-dir": { type: "string" },
  "launch-dir": { type: "string" },
  "log-level": { type: "string" },
  "drain-timeout-ms": { type: "string" },
  standalone: { type: "boolean" },
  help: { type: "boolean", short: "h" },
} as const;

const usage = `usage: agent run --node-name NAME --network NETWORK --endpoint URL [--endpoint URL …] [options]

  --listen HOST:PORT       local endpoints (default 127.0.0.1:${agentPort})
  --identity-dir DIR       key.jwk, binding.json, root.json (default /etc/resultity/identity)
  --network-dir DIR        the network's ConfigMap, may be missing (default /etc/resultity/network)
  --pod-dir DIR            the operator's wishes, file desired (default /etc/resultity/pod)
  --state-dir DIR          known release, last good config (default /var/lib/resultity)
  --launch-dir DIR         shared with the launcher (default /run/resultity)
  --standalone             no operator: run the network's current config
  --drain-timeout-ms N     time for running jobs at SIGTERM when no operator says (default 30000)
  --log-level LEVEL        ${logLevels.join(", ")} (default info)

Each has an environment variable: RESULTITY_NODE_NAME, RESULTITY_ENDPOINT (comma-separated), …`;

class UsageError extends Error {}

function readFlags() {
  const { values, positionals } = parseArgs({ options, allowPositionals: true });
  if (values.help) return undefined;
  if (positionals.length > 1 || (positionals[0] ?? "run") !== "run")
    throw new UsageError(`unknown command ${positionals.join(" ")}; the only one is run`);
  const env = (name: string) =>
    process.env[`RESULTITY_${name.toUpperCase().replaceAll("-", "_")}`] || undefined;
  const text = (
    name: Exclude<keyof typeof options, "endpoint" | "standalone" | "help">,
    fallback?: string,
  ) => {
    const value = values[name] ?? env(name) ?? fallback;
    if (value === undefined) throw new UsageError(`--${name} is missing`);
    return value;
  };
  const endpoints = values.endpoint ?? env("endpoint")?.split(",") ?? [];
  if (endpoints.length === 0) throw new UsageError("--endpoint is missing");
  for (const endpoint of endpoints) {
    if (!URL.canParse(endpoint) || !/^https?:\/\//.test(endpoint))
      throw new UsageError(`--endpoint ${endpoint} is not an http or https URL`);
  }
  const level = logLevels.find((candidate) => candidate === text("log-level", "info"));
  if (!level) throw new UsageError(`--log-level is one of ${logLevels.join(", ")}`);
  const drainTimeoutMs = Number(text("drain-timeout-ms", "30000"));
  if (!Number.isSafeInteger(drainTimeoutMs) || drainTimeoutMs < 0)
    throw new UsageError("--drain-timeout-ms is a number of milliseconds");
  const listen = /^\[?([^\]]+?)\]?:(\d+)$/.exec(text("listen", `127.0.0.1:${agentPort}`));
  if (!listen) throw new UsageError("--listen is HOST:PORT");
  const standalone = values.standalone ?? env("standalone") === "true";
  return {
    nodeName: text("node-name"),
    network: text("network"),
    endpoints,
    listen: { host: listen[1] ?? "", port: Number(listen[2]) },
    identityDir: text("identity-dir", "/etc/resultity/identity"),
    networkDir: text("network-dir", "/etc/resultity/network"),
    podDir: standalone ? undefined : text("pod-dir", "/etc/resultity/pod"),
    stateDir: text("state-dir", "/var/lib/resultity"),
    launchDir: text("launch-dir", "/run/resultity"),
    level,
    drainTimeoutMs,
  };
}

async function run(flags: NonNullable<ReturnType<typeof readFlags>>): Promise<void> {
  const log = createLogger("agent", flags.level).child({ node: flags.nodeName });
  const ports: Ports = {
    clock: systemClock,
    random: systemRandom,
    transport: wsTransport(process.env),
    http: nodeHttp(process.env),
    files: diskFiles,
    host: thisHost,
    log,
  };
  const identity = await readIdentity(diskFiles, flags.identityDir, flags.network);
  const agent = new Agent(ports, { ...flags, identity, agentVersion: version });
  let metrics: MetricsText | undefined;
  const server = await serveEndpoints(agent, flags.listen, async () => {
    const { agentMetrics } = await import("../agent/endpoints/metrics.ts");
    return (metrics ??= agentMetrics(agent));
  });
  log.info({ node_id: identity.nodeId, listen: server.address() }, "agent begins");

  const leave = () => {
    log.info("told to stop: draining");
    agent
      .leave()
      .then(() => {
        log.info("left in order");
        process.exit(0);
      })
      .catch((thrown: unknown) => {
        log.fatal({ why: messageOf(thrown) }, "could not leave in order");
        process.exit(1);
      });
  };
  process.once("SIGTERM", leave);
  process.once("SIGINT", leave);
  await agent.start();
}

async function main(): Promise<void> {
  try {
    const flags = readFlags();
    if (!flags) {
      console.log(usage);
      return;
    }
    await run(flags);
  } catch (thrown) {
    const misused = thrown instanceof UsageError || (thrown instanceof TypeError && "code" in thrown);
    console.error(`agent: ${messageOf(thrown)}${misused ? `\n\n${usage}` : ""}`);
    process.exit(misused ? 2 : 1);
  }
}

await main();
