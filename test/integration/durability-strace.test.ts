import { readFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { databasePath } from "../../src/io/admin/data-folder.ts";
import { type AccountKey, mintBinding } from "../../src/protocol/binding.ts";
import { paths, pingTyp, sealRequest } from "../../src/protocol/http.ts";
import { generateKey, importPrivateKey } from "../../src/protocol/keys.ts";
import { sealKeyChange } from "../../src/protocol/rollover.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { answerTo, ScriptedAgent } from "../io/fixture/agent.ts";
import { JobsClient } from "../io/fixture/jobs-client.ts";
import { IoProcess } from "../io/fixture/network.ts";
import {
  ackProof,
  answerProof,
  moveProof,
  numberProof,
  offerProof,
  type Proof,
  readyProof,
  resultProof,
  type SentAnswer,
} from "../lib/strace-durability.ts";
import { mutated, type Mutation } from "../lib/mutate.ts";
import { type Traced, traced } from "../lib/traced.ts";
import { messageOf } from "../lib/strace-ws.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/**
 * A real service and a real agent under strace: the kernel's own word on what had reached the disk when something was
 * acknowledged. SQLite of Node is built to use fsync where it could use fdatasync; either counts.
 */
const model = "m1";
const processes = supervise();
let ioTrace: Traced;
let agentTrace: Traced;
let io: IoProcess;
let node: NodeProcesses;
let client: OpenAI;
let later: JobsClient;
let accountKey: AccountKey;
let config: ConfigDigest;
let db: string;
/** Asynchronous jobs that are over. */
let asynchronous: readonly string[];

beforeAll(async () => {
  ioTrace = traced(processes, "io");
  agentTrace = traced(processes, "agent");
  io = await IoProcess.start(ioTrace.processes, ["--heartbeat", "1s"]);
  db = databasePath(io.data);
  accountKey = await io.account("acme");
  const log = join(io.folder, "engine.log");
  config = await io.publish([model], { engine: "test", command: engineCommand({ log, tokenDelayMs: 5 }) });
  client = new OpenAI({ baseURL: `${io.url}/v1`, apiKey: await io.apiKey("someone"), maxRetries: 0 });
  node = await startNode(agentTrace);
  const { agent } = node;
  await until(
    "a node that serves",
    async () => (await io.nodes()).some((seen) => seen.connected && seen.models.includes(model)),
    { deadlineMs: 90_000, intervalMs: 300, giveUp: () => agent?.requireRunning() },
  );
  later = new JobsClient(io.url, await io.apiKey("later"));
  asynchronous = await Promise.all(Array.from({ length: 12 }, completeLater));
});
afterAll(() => processes.close());

/** A node of the service, its agent traced. */
async function startNode(trace: Traced): Promise<NodeProcesses> {
  const made = await NodeProcesses.make(trace.processes, new TestNetwork());
  const { nodeId } = made.identity;
  made.write("identity/binding.json", JSON.stringify(mintBinding(accountKey, io.network, "acme", nodeId)));
  made.write("identity/root.json", readFileSync(join(io.keys, "root.json"), "utf8"));
  made.desire({ target: config });
  made.startAgent(io.url);
  await made.startLauncher();
  return made;
}

/** An asynchronous job to its end. */
async function completeLater(): Promise<string> {
  const messages = [{ role: "user", content: "tell me later" }];
  const { status, body } = await later.submit({ model, messages, max_tokens: 10 });
  expect(status, JSON.stringify(body)).toBe(202);
  await until(`the end of ${body.id}`, async () => {
    const { state, outcome } = await io.job(body.id);
    return state === "CONFIRMED" && outcome === "completed";
  });
  return body.id;
}

/** Tells a signed answer to a node by its number (0: a registration), and gives what must be on the disk before it. */
const answerTelling =
  (nodeId: string, seq: number, bytes: string) =>
  ({ status, body }: SentAnswer): string | undefined => {
    const { payload } = messageOf(body);
    return status === 200 && payload["node_id"] === nodeId && payload["http_seq"] === seq ? bytes : undefined;
  };

async function complete(stream: boolean): Promise<string> {
  const messages = [{ role: "user" as const, content: "tell me" }];
  const request = { model, messages, max_tokens: 10 };
  if (!stream) {
    const { response } = await client.chat.completions.create(request).withResponse();
    return response.headers.get("x-request-id") ?? "";
  }
  const { data, response } = await client.chat.completions.create({ ...request, stream }).withResponse();
  for await (const _part of data);
  return response.headers.get("x-request-id") ?? "";
}

describe("F45 service: what it acknowledges is synced before, as strace shows", () => {
  it("a node's commit: the transaction with its receipt, before the ack is written", async () => {
    const jobs = await Promise.all(Array.from({ length: 40 }, (_, at) => complete(at % 2 === 0)));
    await until("the commits", async () => {
      const states = await io.states();
      return jobs.every((job) => states.get(job) === "CONFIRMED");
    });
    const { problems } = await until("the acks", () => {
      const proof = ackProof(ioTrace.calls(), db);
      return proof.checked >= jobs.length && proof;
    });
    expect(problems).toEqual([]);
  });

  it("an asynchronous job: the submission before 202, the attempt before the offer, the receipt before the ack", async () => {
    const jobs = asynchronous;
    const calls = ioTrace.calls();
    const accepted = answerProof(calls, db, ({ status, body }) =>
      status === 202 ? /"id":"([^"]+)"/.exec(body)?.[1] : undefined,
    );
    expect(accepted).toEqual({ checked: jobs.length, problems: [] });
    // On a busy machine an attempt may be handed back, and a result sent again.
    for (const { checked, problems } of [offerProof(calls, db), ackProof(calls, db)]) {
      expect(problems).toEqual([]);
      expect(checked).toBeGreaterThanOrEqual(jobs.length);
    }
  });

  it("a registration: the node's row, before the answer is written", () => {
    const { nodeId } = node.identity;
    const { checked, problems } = answerProof(ioTrace.calls(), db, answerTelling(nodeId, 0, nodeId));
    expect(problems).toEqual([]);
    expect(checked).toBeGreaterThan(0);
  });

  it("a session: its epoch, before ready is written", () => {
    const { checked, problems } = readyProof(ioTrace.calls(), db, node.identity.nodeId);
    expect(problems).toEqual([]);
    expect(checked).toBeGreaterThan(0);
  });
});

describe("F45 agent: what it relies on is synced before, as strace shows", () => {
  it("the result of an asynchronous job: its file and the file's name, before the result is sent", async () => {
    const jobs = new Set(asynchronous);
    const { checked, problems } = resultProof(agentTrace.calls(), join(node.dir, "state/results"), jobs);
    expect(problems).toEqual([]);
    expect(checked).toBeGreaterThanOrEqual(jobs.size);
  });

  it("every file that it replaces: content before its name, the folder after", () => {
    const calls = agentTrace.calls();
    expect(moveProof(calls, node.dir).problems).toEqual([]);
    // The config that it applies, and all that stands for it.
    for (const name of ["applied.json", "release.json", "known-release", "snapshots"])
      expect(moveProof(calls, join(node.dir, "state", name)).checked, name).toBeGreaterThan(0);
  });
});

it.each(["makeFolder", "makeFolderNow"])(
  "F45 %s syncs every folder in which a new name stands",
  async (make) => {
    const trace = traced(processes, "maker");
    const top = processes.folder("top");
    const module = join(import.meta.dirname, "../../src/lib/folders.ts");
    const program = `import { ${make} } from ${JSON.stringify(module)};
    for (const path of ["a/b/c", "a/b/c", "a/b/d"]) await ${make}(${JSON.stringify(top)} + "/" + path);`;
    const args = ["--input-type=module", "--eval", program];
    const child = trace.processes.spawn({ name: "maker", command: process.execPath, args });
    expect(await child.exited).toMatchObject({ code: 0 });
    const synced = trace.calls().filter(({ name }) => name === "fsync");
    expect(synced.map(({ file, result }) => [file, result])).toEqual(
      ["a/b", "a", "", "a/b"].map((name) => [join(top, name), 0]),
    );
  },
);

describe("the proof fails where it should", () => {
  /** What a service with bugs shows, to which a node registers, connects, and gives the answer to a request. */
  async function serviceWith(
    ...bugs: readonly Mutation[]
  ): Promise<Record<"ack" | "ready" | "registration" | "numbers" | "key", Proof>> {
    const trace = traced(processes, "io", mutated(bugs));
    const service = await IoProcess.start(trace.processes);
    const published = await service.publish([model]);
    const agent = new ScriptedAgent({
      url: service.url,
      root: service.root,
      account: "acme",
      accountKey: await service.account("acme"),
      models: [model],
      config: published,
    });
    await agent.register();
    const session = await agent.connect();
    session.serve((offer) => session.answer(offer, answerTo(offer)));
    const apiKey = await service.apiKey("someone");
    const asking = new OpenAI({ baseURL: `${service.url}/v1`, apiKey, maxRetries: 0 });
    await asking.chat.completions.create({ model, messages: [{ role: "user", content: "Hi" }] });
    await session.next("ack");
    session.drop();
    const { nodeId, key } = agent;
    for (const seq of [1, 2]) {
      const said = { node_id: nodeId, time: Date.now() };
      await agent.post(paths.ping, sealRequest(pingTyp, said, key, `${service.url}${paths.ping}`, seq));
    }
    const next = importPrivateKey(generateKey());
    const change = { nodeId, from: key, to: next, time: Date.now() };
    await agent.post(paths.keyChange, sealKeyChange(change, `${service.url}${paths.keyChange}`, 3));
    // The end of the transaction that was told of too early is in the trace as well.
    await service.child?.stop();
    const calls = trace.calls();
    const path = databasePath(service.data);
    return {
      ack: ackProof(calls, path),
      ready: readyProof(calls, path, nodeId),
      registration: answerProof(calls, path, answerTelling(nodeId, 0, nodeId)),
      numbers: numberProof(calls, path, nodeId),
      key: answerProof(calls, path, answerTelling(nodeId, 3, next.kid)),
    };
  }

  it("F45 but not of an honest service, which syncs before it answers numbered requests and key changes, too", async () => {
    const sound = { checked: 1, problems: [] };
    expect(await serviceWith()).toEqual({
      ack: sound,
      ready: sound,
      registration: sound,
      numbers: { checked: 4, problems: [] },
      key: sound,
    });
  });

  it("of a service whose store acknowledges before it commits", async () => {
    const seen = await serviceWith(
      {
        file: "src/io/store/sqlite.ts",
        from: "this.#waiting.push({ changes, resolve, reject });",
        to: "this.#waiting.push({ changes, resolve, reject }); setImmediate(resolve);",
      },
      // A slow disk: else the sync might be quicker than what is told, by chance.
      {
        file: "src/io/store/worker.ts",
        from: "return db.commit(",
        to: "Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100); return db.commit(",
      },
    );
    const early: unknown = expect.stringMatching(/is told of/);
    const caught = { checked: 1, problems: [early] };
    expect(seen).toEqual({
      ack: caught,
      ready: caught,
      registration: caught,
      // One that was late itself may stand in for the next.
      numbers: { checked: 4, problems: expect.arrayContaining([early]) as unknown },
      key: caught,
    });
  });

  it("of a service whose database does not sync", async () => {
    const seen = await serviceWith({
      file: "src/io/store/database.ts",
      from: "`PRAGMA synchronous=FULL;",
      to: "`PRAGMA synchronous=OFF;",
    });
    expect(seen.ack).toEqual({ checked: 1, problems: [expect.stringMatching(/never synced$/)] });
  });

  it.each([
    ["a file's content", "await file.sync();", "nothing();", /is moved to its name, and was never synced$/],
    ["a folder", "await syncFolder(dir);", "nothing();", /has its name, and the folder was never synced$/],
  ])("of an agent that does not sync %s", async (_what, from, to, says) => {
    const nothing = "\nfunction nothing(): void {}\n";
    const trace = traced(
      processes,
      "agent",
      mutated([
        { file: "src/agent/edge/files.ts", from, to },
        { file: "src/agent/edge/files.ts", from: "/** Files of the machine. */", to: nothing },
      ]),
    );
    const other = await startNode(trace);
    await until("files", () => moveProof(trace.calls(), other.dir).checked > 3);
    await other.agent?.stop();
    const { problems } = moveProof(trace.calls(), other.dir);
    // A folder may be synced later for another reason: when one is made in it.
    expect(problems).toContainEqual(expect.stringMatching(says));
  });

  it("of an agent that sends a result while it is written", async () => {
    const trace = traced(
      processes,
      "agent",
      mutated([
        {
          file: "src/agent/jobs/results.ts",
          from: "await this.#ports.files.write(join(this.#dir, name), sealed);",
          to: "void this.#ports.files.write(join(this.#dir, name), sealed);",
        },
      ]),
    );
    // The only node that serves.
    await node.agent?.stop();
    const other = await startNode(trace);
    const job = await completeLater();
    const { checked, problems } = resultProof(
      trace.calls(),
      join(other.dir, "state/results"),
      new Set([job]),
    );
    expect(checked).toBeGreaterThan(0);
    expect(problems).toContainEqual(expect.stringContaining(`that of ${job} is told of`));
  });
});
