import { readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type AccountKey, mintBinding } from "../../src/protocol/binding.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { IoProcess } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/** A real service with real agents and engines, of which one is stopped, killed or has a wrong clock. */
const model = "m1";
/**
 * A third of the lease is a heartbeat, as the defaults have it (30 s and 10 s), and both are a tenth of theirs. A node that is
 * silent for three heartbeats has lost its session.
 */
const scale = 10;
const times = ["--lease", "3000ms", "--heartbeat", "1000ms", "--disconnect-grace", "1000ms"];

const processes = supervise();
let io: IoProcess;
let accountKey: AccountKey;
let apiKey: string;
let config: ConfigDigest;
let engineLog: string;
let first: NodeProcesses;
/** Not before a test needs two. */
let second: NodeProcesses | undefined;

beforeAll(async () => {
  io = await IoProcess.start(processes, [...times, "--retry", "100ms"]);
  accountKey = await io.account("acme");
  apiKey = await io.apiKey("someone");
  engineLog = join(io.folder, "engine.log");
  const command = engineCommand({ log: engineLog, tokenDelayMs: 20 });
  config = await io.publish([model], { engine: "test", command });
  first = await makeNode();
  first.startAgent(io.url);
  await first.startLauncher();
  await ready(1);
});
afterAll(() => processes.close());

/** A node of the service's network; it gets its config from the service. */
async function makeNode(): Promise<NodeProcesses> {
  const node = await NodeProcesses.make(processes, new TestNetwork());
  const { nodeId } = node.identity;
  node.write("identity/binding.json", JSON.stringify(mintBinding(accountKey, io.network, "acme", nodeId)));
  node.write("identity/root.json", readFileSync(join(io.keys, "root.json"), "utf8"));
  node.desire({ target: config });
  return node;
}

/** Both nodes, in session and serving, whatever the test before has left. */
async function twoServe(): Promise<readonly [NodeProcesses, NodeProcesses]> {
  if (!io.child?.running()) await io.serve();
  second ??= await makeNode();
  for (const node of [first, second]) {
    node.agent?.signal("SIGCONT");
    if (!node.agent?.running()) node.startAgent(io.url);
    if (!node.launcher?.running()) await node.startLauncher();
  }
  await ready(2);
  for (const node of [first, second]) await node.switchEngine({ mode: "ok", tokenDelayMs: 20 });
  return [first, second];
}

/** Waits until so many nodes have a session and serve the model. */
async function ready(count: number): Promise<void> {
  await until(
    `${count} nodes that serve`,
    async () =>
      (await io.nodes()).filter((node) => node.connected && node.models.includes(model)).length === count,
    { deadlineMs: 70_000, intervalMs: 200 },
  );
}

interface EngineLine {
  readonly event: string;
  readonly pid: number;
  readonly port?: number;
  readonly id?: string;
  readonly outcome?: string;
}

/** What all engines have written. */
const engineLines = (): readonly EngineLine[] =>
  readFileSync(engineLog, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as EngineLine);

/** Which of the nodes have begun with a job, in order. */
function nodesOf(id: string): NodeProcesses[] {
  const lines = engineLines();
  const nodeOfPid = new Map(
    lines.flatMap(({ event, pid, port }) => {
      const node = [first, second].find((each) => each?.enginePort() === port);
      return event === "start" && node ? [[pid, node] as const] : [];
    }),
  );
  return lines.flatMap(({ event, id: of, pid }) => {
    const node = nodeOfPid.get(pid);
    return event === "begin" && of === id && node ? [node] : [];
  });
}

const otherThan = (node: NodeProcesses): NodeProcesses =>
  [first, second].find((each) => each && each !== node) ?? expect.fail("one node only");

/** A request under way: its id is known as soon as an engine has begun with it. */
async function ask(change: object = {}) {
  const before = engineLines().length;
  const asked = fetch(`${io.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
    body: JSON.stringify({ model, messages: [{ role: "user", content: "tell me" }], ...change }),
    signal: AbortSignal.timeout(90_000),
  });
  const id = await until("an engine that has begun", () => {
    const begun = engineLines().slice(before);
    return begun.find(({ event }) => event === "begin")?.id;
  });
  return { id, asked };
}

/** The answer as it comes: `text` grows, `events` are its SSE data. */
function reading(asked: Promise<Response>) {
  const seen = { text: "", over: false };
  const whole = (async () => {
    const { body } = await asked;
    const decoder = new TextDecoder();
    for await (const part of body ?? []) seen.text += decoder.decode(part, { stream: true });
    seen.over = true;
    return seen.text;
  })();
  return { seen, whole };
}

/** Words of a streamed answer. */
function wordsOf(text: string): string {
  const events = [...text.matchAll(/^data: (\{.*\})$/gm)].map(
    ([, json = ""]) => JSON.parse(json) as { choices?: { delta?: { content?: string } }[] },
  );
  return events.map(({ choices }) => choices?.[0]?.delta?.content ?? "").join("");
}

const job = (id: string) => io.job(id);
const receipts = (id: string) => io.job(id).then((row) => row["receipt"]);

describe("an agent is stopped with SIGSTOP", () => {
  const stopMs = 60_000 / scale;
  const untilEngineIsDone = (id: string) =>
    until(
      "the engine to have ended the job once",
      () => engineLines().filter((line) => line.id === id && line.outcome === "completed").length === 1,
    );

  it(`F24 for 60 s [time ×1/${scale}], and nobody else is offered its job: the late result commits, the node rejoins`, async () => {
    const { id, asked } = await ask({ max_tokens: 120 });
    first.agent?.signal("SIGSTOP");
    await until("a session that is over", async () => (await io.nodes()).every((node) => !node.connected));
    await wait(stopMs);
    await untilEngineIsDone(id);
    first.agent?.signal("SIGCONT");
    const answer = await asked;
    expect(answer.status).toBe(200);
    await answer.text();
    await until("the commit", async () => (await job(id))["state"] === "CONFIRMED");
    expect(await job(id)).toMatchObject({ attempt: 1, node: first.identity.nodeId, outcome: "completed" });
    await ready(1);
  });

  it(`F24 for 60 s [time ×1/${scale}], and its job is offered again: the late result is refused by the fence, the node rejoins`, async () => {
    await twoServe();
    const { id, asked } = await ask({ max_tokens: 120 });
    const [stopped = first] = nodesOf(id);
    const other = otherThan(stopped);
    stopped.agent?.signal("SIGSTOP");
    // Slow enough that the late result comes while the second attempt runs.
    await other.switchEngine({ tokenDelayMs: 1_000 });
    await wait(stopMs);
    // Its engine was not stopped: there is a result, and it is late.
    await untilEngineIsDone(id);
    await until("the second attempt", () => nodesOf(id).length === 2);
    stopped.agent?.signal("SIGCONT");
    await ready(2);
    await until("the late result to be deleted", async () =>
      /^resultity_agent_jobs_held 0$/m.test((await stopped.ask("/metrics")).body),
    );
    // Of a synchronous job the disk hears a little later.
    await until("the second attempt on disk", async () => (await job(id))["state"] === "RUNNING");
    expect(await job(id)).toMatchObject({ attempt: 2, node: other.identity.nodeId });
    await other.switchEngine({ tokenDelayMs: 20 });
    const answer = await asked;
    expect(answer.status).toBe(200);
    await answer.text();
    await until("the commit", async () => (await job(id))["state"] === "CONFIRMED");
    expect(await job(id)).toMatchObject({ attempt: 2, node: other.identity.nodeId, outcome: "completed" });
    expect(nodesOf(id)).toEqual([stopped, other]);
  });
});

describe("a node dies", () => {
  const rounds = 3;
  it(`F38 before the first byte of a stream: another one answers, and the client reads one whole stream [×${rounds}]`, async () => {
    const nodes = await twoServe();
    const calm = await ask({ stream: true });
    const expected = wordsOf(await reading(calm.asked).whole);
    for (let round = 0; round < rounds; round++) {
      for (const node of nodes) await node.switchEngine({ mode: "hang" });
      const { id, asked } = await ask({ stream: true });
      const [victim = first] = nodesOf(id);
      const other = otherThan(victim);
      await other.switchEngine({ mode: "ok" });
      victim.agent?.signal("SIGKILL");
      const text = await reading(asked).whole;
      expect((await asked).status).toBe(200);
      expect(wordsOf(text)).toBe(expected);
      expect(text.match(/\[DONE\]/g)).toHaveLength(1);
      expect(text).not.toContain('"error"');
      expect(nodesOf(id)).toEqual([victim, other]);
      await until("the commit", async () => (await job(id))["state"] === "CONFIRMED");
      expect(await job(id)).toMatchObject({ attempt: 2, node: other.identity.nodeId });
      await victim.switchEngine({ mode: "ok" });
      await victim.agent?.exited;
      victim.startAgent(io.url);
      await ready(2);
    }
  });

  it("F39 in the middle of a stream: an error event, no [DONE], INTERRUPTED, what was relayed is metered, and nobody goes on with it", async () => {
    await twoServe();
    const { id, asked } = await ask({ stream: true, max_tokens: 400 });
    const { seen, whole } = reading(asked);
    await until("some words", () => wordsOf(seen.text).split(" ").length > 10);
    const [victim = first] = nodesOf(id);
    victim.agent?.signal("SIGKILL");
    const text = await whole;
    expect(seen.over).toBe(true);
    expect(text).not.toContain("[DONE]");
    const events = text
      .trim()
      .split("\n\n")
      .filter((event) => event.startsWith("data: "));
    expect(JSON.parse(events.at(-1)?.slice(6) ?? "")).toMatchObject({ error: { code: "node_lost" } });
    const relayed = text.slice(0, text.lastIndexOf("data: ")).replaceAll(/^:.*\n\n/gm, "");
    // Of a synchronous job the client hears before the disk does.
    await until("the end on disk", async () => (await job(id))["state"] === "INTERRUPTED");
    expect(await job(id)).toMatchObject({
      state: "INTERRUPTED",
      attempt: 1,
      relayedBytes: Buffer.byteLength(relayed),
      completionTokens: wordsOf(relayed).split(" ").length,
    });
    expect(await receipts(id)).toBeNull();
    await victim.agent?.exited;
    victim.startAgent(io.url);
    await ready(2);
    expect(nodesOf(id)).toEqual([victim]);
  });
});

describe("the service is away", () => {
  const awayMs = 15_000;
  it(`F25 for an hour [time ×1/${3_600_000 / awayMs}], killed with a job under way: the node keeps its config and the finished result, which commits after`, async () => {
    await twoServe();
    const before = engineLines().length;
    const taken = await fetch(`${io.url}/v1/chat/completions`, {
      method: "POST",
      headers: {
        authorization: `Bearer ${apiKey}`,
        "content-type": "application/json",
        prefer: "respond-async",
      },
      body: JSON.stringify({ model, messages: [{ role: "user", content: "later" }], max_tokens: 40 }),
    });
    expect(taken.status).toBe(202);
    const { id } = (await taken.json()) as { id: string };
    await until("an engine that has begun", () => nodesOf(id).length > 0);
    const [node = first] = nodesOf(id);
    await io.kill();
    await until("the engine's end", () =>
      engineLines().some((line) => line.id === id && line.outcome === "completed"),
    );
    await wait(awayMs);
    const { report, session, config_error: problem } = await node.status();
    expect(report.config.applied).toBe(config);
    expect(problem).toBeNull();
    expect(session.connected).toBe(false);
    expect((await node.ask("/ready")).status).toBe(200);
    await io.serve();
    await until("the commit", async () => (await job(id))["state"] === "CONFIRMED");
    expect(await job(id)).toMatchObject({ attempt: 1, node: node.identity.nodeId, outcome: "completed" });
    const result = await fetch(`${io.url}/v1/jobs/${id}/result`, {
      headers: { authorization: `Bearer ${apiKey}` },
    });
    expect(await result.json()).toMatchObject({ choices: [{ finish_reason: "stop" }] });
    expect(nodesOf(id)).toEqual([node]);
    const starts = engineLines()
      .slice(before)
      .filter(({ event }) => event === "start");
    expect(starts).toEqual([]);
    await ready(2);
  });
});

describe("a node's clock", () => {
  const hour = 3_600_000;
  it.each([
    ["ahead", hour],
    ["behind", -hour],
  ])(
    "F23 is an hour %s: no session, the agent says how far off it is, and serves once the clock is right",
    async (_which, ms) => {
      const node = await makeNode();
      const shift = `const real = Date.now; const zero = Date; const by = ${ms};
      globalThis.Date = class extends zero { constructor(...given) { if (given.length === 0) super(real() + by); else super(...given); } static now() { return real() + by; } };`;
      const preload = `data:text/javascript,${encodeURIComponent(shift)}`;
      const wrong = node.startAgent(io.url, [], { NODE_OPTIONS: `--import=${preload}` });
      const { last_error: said } = await node.sees("the refusal", ({ session }) =>
        session.last_error?.includes("clock_skew") ? session : undefined,
      );
      expect(said).toMatch(/clocks differ by 3(59\d|60\d) s \(peer .*set the clock with NTP/);
      expect((await node.status()).session.connected).toBe(false);
      expect(Math.abs((await node.status()).time - Date.now() - ms)).toBeLessThan(10_000);
      await wrong.stop();
      const right = node.startAgent(io.url);
      await node.sees("a session", ({ session }) => session.connected);
      expect((await node.status()).session.last_error).toBeNull();
      await right.stop();
    },
  );
});
