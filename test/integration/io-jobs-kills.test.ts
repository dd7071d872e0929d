import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { mintBinding } from "../../src/protocol/binding.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { answerWords } from "../engine/answer.ts";
import { JobsClient } from "../io/fixture/jobs-client.ts";
import { ioDone, IoProcess } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/** Asynchronous jobs on real agents and engines, while agents and service are killed. */
const model = "m1";
const jobs = 500;
const words = 12;
const processes = supervise();
let io: IoProcess;
let client: JobsClient;
let nodes: NodeProcesses[];

beforeAll(async () => {
  io = await IoProcess.start(processes, [
    "--lease=10s",
    "--heartbeat=1s",
    "--restore-grace=10s",
    "--retry=100ms,200ms",
  ]);
  const accountKey = await io.account("acme");
  client = new JobsClient(io.url, await io.apiKey("someone"));
  const command = engineCommand({ log: join(io.folder, "engine.log"), tokenDelayMs: 15 });
  const config = await io.publish([model], { engine: "test", command });
  const start = async (): Promise<NodeProcesses> => {
    const node = await NodeProcesses.make(processes, new TestNetwork());
    const { nodeId } = node.identity;
    node.write("identity/binding.json", JSON.stringify(mintBinding(accountKey, io.network, "acme", nodeId)));
    node.write("identity/root.json", readFileSync(join(io.keys, "root.json"), "utf8"));
    node.desire({ target: config });
    node.startAgent(io.url);
    await node.startLauncher();
    return node;
  };
  nodes = [await start(), await start()];
  await until(
    "two nodes that serve",
    async () =>
      (await io.nodes()).filter(({ connected, models }) => connected && models.includes(model)).length === 2,
    { deadlineMs: 60_000, intervalMs: 300 },
  );
}, 90_000);
afterAll(() => processes.close());

/** Every fiftieth is too large for a frame: its node fetches it. */
const messages = (at: number) => [
  { role: "user", content: `question ${at}${at % 50 === 0 ? " really".repeat(50_000) : ""}` },
];

/** Asks again until the service has taken the job; the idempotency key makes that one job. */
async function submit(at: number): Promise<string> {
  const request = { model, messages: messages(at), max_tokens: words };
  return until(
    `job ${at} to be taken`,
    async () => {
      const { status, body } = await client.submit(request, { idempotencyKey: `key ${at}` });
      if (status !== 202) throw new Error(`HTTP ${status}`);
      return body.id;
    },
    { deadlineMs: 60_000, intervalMs: 100 },
  );
}

/** A seeded choice, so that a run can be repeated. */
function choices(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** Ids of requests that the engines have begun. */
function begun(): string[] {
  const lines = readFileSync(join(io.folder, "engine.log"), "utf8").trim().split("\n");
  return lines.flatMap((line) => {
    const { event, id } = JSON.parse(line) as { event: string; id?: string };
    return event === "begin" && id !== undefined ? [id] : [];
  });
}

describe("asynchronous jobs while agents and service are killed with SIGKILL", () => {
  it("F19 F28 500 jobs: 0 lost, 0 committed twice; client, store, receipts and engines name the same jobs", async () => {
    const choose = choices(20_26);
    const ids: string[] = [];
    const submitting = (async () => {
      for (let at = 0; at < jobs; at += 5)
        ids.push(...(await Promise.all([0, 1, 2, 3, 4].map((more) => submit(at + more)))));
    })();
    let kills = { agent: 0, io: 0 };
    const unfinished = async () => [...(await io.states()).values()].filter((state) => !isOver(state)).length;
    for (let round = 0; round < 10; round++) {
      await wait(200 + choose(1_200));
      const victim = nodes[choose(3)];
      if (victim) {
        victim.agent?.signal("SIGKILL");
        await victim.agent?.exited;
        victim.startAgent(io.url);
        kills = { ...kills, agent: kills.agent + 1 };
      } else {
        await io.kill();
        await wait(choose(300));
        await io.serve();
        kills = { ...kills, io: kills.io + 1 };
      }
    }
    await submitting;
    expect(kills.agent).toBeGreaterThan(2);
    expect(kills.io).toBeGreaterThan(2);
    await until("the end of every job", async () => (await unfinished()) === 0, {
      deadlineMs: 120_000,
      intervalMs: 300,
    });

    const states = await io.states();
    expect(new Set(ids)).toEqual(new Set(states.keys()));
    expect(states.size).toBe(jobs);
    expect(
      [...new Set(states.values())].filter((state) => !["COMMITTED", "CONFIRMED"].includes(state)),
    ).toEqual([]);
    for (const [at, id] of ids.entries()) {
      const { status, body } = await client.result(id);
      expect([status, body.choices?.[0]?.message.content]).toEqual([
        200,
        answerWords(model, messages(at), words).join(" "),
      ]);
    }
    // One receipt a job, in one whole chain.
    const chain = join(io.folder, "chain");
    writeFileSync(chain, await ioDone("receipts", "export", "acme", "--data", io.data));
    expect(await ioDone("receipts", "verify", chain, "--data", io.data)).toContain(`${jobs} receipts`);
    expect((await io.nodes()).reduce((sum, { committed }) => sum + committed, 0)).toBe(jobs);
    // The engines did nothing that nobody asked for, and everything that was asked.
    const done = begun();
    expect(new Set(done)).toEqual(new Set(ids));
    // What a node keeps until it is acknowledged was acknowledged in the end.
    await until("nothing left on the nodes' disks", () => nodes.every((node) => keptBy(node) === 0));
    console.log(`${jobs} jobs, ${done.length} executions, kills: ${JSON.stringify(kills)}`);
  }, 240_000);
});

const isOver = (state: string): boolean =>
  !["QUEUED", "OFFERED", "RUNNING", "RESULT_RECEIVED"].includes(state);

/** Results on a node's disk. */
function keptBy(node: NodeProcesses): number {
  const folder = join(node.dir, "state", "results");
  return existsSync(folder) ? readdirSync(folder).filter((name) => name.startsWith("job-")).length : 0;
}
