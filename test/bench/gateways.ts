import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { freePort } from "../testbed/ports.ts";
import { until } from "../testbed/until.ts";
import type { Bench, BenchResult, BenchSetting } from "./bench.ts";
import { alone, compare, type Figure, pairs, type Sample, type Target } from "./figures.ts";
import { type Asked, load } from "./load.ts";
import { benchModel, type Stand, startStand } from "./node-stand.ts";
import { npmPeer, pythonPeer } from "./peers.ts";
import { cpuSeconds, groupCpuSeconds } from "./usage.ts";

/** A gateway between clients and the engine. */
interface Gateway {
  readonly name: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  /** CPU seconds that it has used. */
  readonly cpu: () => number;
  readonly stop: () => Promise<unknown>;
}

/** How a peer is started before the engine at `engineUrl`; a reason where it cannot be. */
interface PeerKind {
  readonly name: string;
  readonly targets: { readonly added: Target; readonly addedTail: Target; readonly perSecond: Target };
  readonly start: (
    setting: BenchSetting,
    engineUrl: string,
  ) => Promise<Gateway | { readonly missing: string }>;
}

const clients = 32;
const tokens = 24;

async function portkey({ processes, cache }: BenchSetting, engineUrl: string): ReturnType<PeerKind["start"]> {
  const version = "1.15.2";
  const peer = await npmPeer(processes, cache, "@portkey-ai/gateway", version);
  if ("missing" in peer) return peer;
  const port = await freePort();
  const child = processes.spawn({
    name: "portkey",
    command: process.execPath,
    args: [
      join(peer.folder, "node_modules/@portkey-ai/gateway/build/start-server.js"),
      `--port=${port}`,
      "--headless",
    ],
    env: { ...process.env, NODE_ENV: "production" },
    logFile: join(processes.folder("portkey"), "log"),
  });
  const gateway: Gateway = {
    name: `Portkey gateway ${version}`,
    url: `http://127.0.0.1:${port}`,
    headers: {
      authorization: "Bearer none",
      "x-portkey-provider": "openai",
      "x-portkey-custom-host": `${engineUrl}/v1`,
    },
    cpu: () => groupCpuSeconds(child.pid),
    stop: () => child.stop(),
  };
  await answers(gateway, child.requireRunning);
  return gateway;
}

async function litellm({ processes, cache }: BenchSetting, engineUrl: string): ReturnType<PeerKind["start"]> {
  const version = "1.106.2";
  const peer = await pythonPeer(processes, cache, "litellm[proxy]", version);
  if ("missing" in peer) return peer;
  const port = await freePort();
  const folder = processes.folder("litellm");
  const config = join(folder, "config.json");
  // As its production page has it: a worker for each core, logs at ERROR, no database.
  writeFileSync(
    config,
    JSON.stringify({
      model_list: [
        {
          model_name: benchModel,
          litellm_params: { model: `openai/${benchModel}`, api_base: `${engineUrl}/v1`, api_key: "none" },
        },
      ],
      litellm_settings: { set_verbose: false, request_timeout: 600, num_retries: 0 },
      general_settings: { master_key: "sk-bench" },
    }),
  );
  const child = processes.spawn({
    name: "litellm",
    command: join(peer.folder, "bin", "litellm"),
    args: ["--config", config, "--host", "127.0.0.1", "--port", String(port)].concat(
      "--num_workers",
      String(availableParallelism()),
    ),
    env: {
      ...process.env,
      LITELLM_LOG: "ERROR",
      LITELLM_MODE: "PRODUCTION",
      LITELLM_LOCAL_MODEL_COST_MAP: "True",
      NO_PROXY: "127.0.0.1",
    },
    logFile: join(folder, "log"),
  });
  const gateway: Gateway = {
    name: `LiteLLM proxy ${version}`,
    url: `http://127.0.0.1:${port}`,
    headers: { authorization: "Bearer sk-bench" },
    cpu: () => groupCpuSeconds(child.pid),
    stop: () => child.stop(),
  };
  await answers(gateway, child.requireRunning);
  return gateway;
}

/** Waits until a gateway passes on what the engine says. */
async function answers({ name, url, headers }: Gateway, giveUp: () => void): Promise<void> {
  const body = JSON.stringify({
    model: benchModel,
    messages: [{ role: "user", content: "Hi" }],
    max_tokens: 1,
  });
  const look = async (): Promise<boolean> => {
    const response = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      headers: { ...headers, "content-type": "application/json" },
      body,
    });
    await response.text();
    return response.ok;
  };
  await until(name, look, { deadlineMs: 120_000, intervalMs: 500, giveUp });
}

/** Latency with one client at a time, then the rate of many, plain and streamed. */
async function measure(at: Pick<Gateway, "url" | "headers" | "cpu">, seconds: number): Promise<Sample> {
  const asked: Asked = { ...at, model: benchModel, stream: false, tokens };
  const streamed: Asked = { ...asked, stream: true };
  await load(asked, clients, Math.min(2, seconds)); // warm
  const single = await load(asked, 1, seconds);
  const before = at.cpu();
  const plain = await load(asked, clients, seconds);
  const cpu = ((at.cpu() - before) / plain.requests) * 1000;
  const streams = await load(streamed, clients, seconds);
  return {
    p50: single.p50,
    p99: single.p99,
    plain: plain.perSecond,
    cpu,
    streams: streams.perSecond,
    plainP99: plain.p99,
    failed: single.failed + plain.failed + streams.failed,
    streamsFailed: streams.failed,
    requests: single.requests + plain.requests + streams.requests,
  };
}

/** The same with what the engine alone takes subtracted from the latencies. */
function added(sample: Sample, direct: Sample): Sample {
  const less = (name: string): number => (sample[name] ?? Number.NaN) - (direct[name] ?? Number.NaN);
  return { ...sample, added: less("p50"), addedTail: less("p99") };
}

const least = (ratio: number): Target => ({ at: "least", ratio });
const most = (ratio: number): Target => ({ at: "most", ratio });

const kinds: readonly PeerKind[] = [
  {
    name: "portkey",
    targets: { added: most(1), addedTail: most(1), perSecond: least(1.3) },
    start: portkey,
  },
  {
    name: "litellm",
    targets: { added: most(0.1), addedTail: most(0.1), perSecond: least(20) },
    start: litellm,
  },
];

/** The OpenAI API of the service before an engine, against other gateways before the same engine. */
export const gateways: Bench = {
  name: "gateways",
  what: "latency that the OpenAI API adds, and requests a second of 32 clients, against gateways before the same engine",
  async run(setting) {
    const stand = await startStand(setting.processes, { tokenDelayMs: 0 });
    const figures: Figure[] = [];
    const notes: string[] = [
      "Portkey neither signs nor persists; LiteLLM runs without a database. Ours signs and verifies both ways, and writes each job to its store.",
      "Clients, engine, gateway, and our agent too, share the machine's cores.",
    ];
    for (const kind of kinds) {
      const peer = await kind.start(setting, stand.engineUrl);
      if ("missing" in peer) {
        notes.push(`${kind.name} was left out: ${peer.missing}`);
        continue;
      }
      const result = await against(setting, stand, kind, peer);
      await peer.stop();
      figures.push(...result.figures);
      notes.push(...result.notes);
    }
    return { figures, notes };
  },
};

async function against(
  { quick, say }: BenchSetting,
  stand: Stand,
  { targets }: PeerKind,
  peer: Gateway,
): Promise<BenchResult> {
  const seconds = quick ? 2 : 6;
  const headers = { authorization: `Bearer ${stand.apiKey}` };
  const direct: Sample[] = [];
  const round = async (): Promise<Sample> => {
    const bare = await measure({ url: stand.engineUrl, headers: {}, cpu: () => Number.NaN }, seconds);
    direct.push(bare);
    return bare;
  };
  const ours = async (): Promise<Sample> => {
    const bare = await round();
    const cpu = () => cpuSeconds(stand.ioPid) + cpuSeconds(stand.agent.pid);
    const sample = await measure({ url: stand.io.url, headers, cpu }, seconds);
    if (sample["failed"] !== 0) throw new Error(`${sample["failed"]} of our requests failed`);
    say(`ours: ${JSON.stringify(sample)}`);
    return added(sample, bare);
  };
  const theirs = async (): Promise<Sample> => {
    const bare = await round();
    const sample = await measure(peer, seconds);
    say(`${peer.name}: ${JSON.stringify(sample)}`);
    return added(sample, bare);
  };
  const measured = await pairs(quick ? 1 : 3, ours, theirs);
  const streamLine = `streams of ${tokens} tokens, ${clients} clients`;
  // A peer that fails streams is no measure of them.
  const broken = measured.peer.some(({ streamsFailed = 0 }) => streamsFailed > 0);
  const line = (name: string, unit: string, target: Target) => ({ name, unit, against: peer.name, target });
  return {
    figures: [
      compare(measured, "added", line("latency added, p50, one client", "ms", targets.added)),
      compare(measured, "addedTail", line("latency added, p99, one client", "ms", targets.addedTail)),
      compare(measured, "plain", line(`plain requests, ${clients} clients`, "/s", targets.perSecond)),
      ...(broken
        ? [alone(measured.ours, "streams", streamLine, "/s")]
        : [compare(measured, "streams", line(streamLine, "/s", targets.perSecond))]),
      compare(measured, "cpu", {
        name: "CPU of a plain request (ours: service and agent)",
        unit: "ms",
        against: peer.name,
      }),
      alone(direct, "p50", "the engine alone, p50, one client", "ms"),
      alone(direct, "plain", `the engine alone, plain, ${clients} clients`, "/s"),
    ],
    notes: measured.peer.some(({ failed = 0 }) => failed > 0)
      ? [`${peer.name} failed ${measured.peer.map(({ failed = 0 }) => failed).join(", ")} requests`]
      : [],
  };
}
