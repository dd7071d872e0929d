import { readFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { databasePath } from "../../src/io/admin/data-folder.ts";
import { type AccountKey, mintBinding } from "../../src/protocol/binding.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { IoProcess } from "../io/fixture/network.ts";
import { ackProof, answerProof, moveProof, readyProof } from "../lib/strace-durability.ts";
import { type Traced, traced } from "../lib/traced.ts";
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
let accountKey: AccountKey;
let config: ConfigDigest;
let db: string;

beforeAll(async () => {
  ioTrace = traced(processes, "io");
  agentTrace = traced(processes, "agent");
  io = await IoProcess.start(ioTrace.processes, ["--heartbeat", "1s"]);
  db = databasePath(io.data);
  accountKey = await io.account("acme");
  const log = join(io.folder, "engine.log");
  config = await io.publish([model], { engine: "test", command: engineCommand({ log, tokenDelayMs: 5 }) });
  client = new OpenAI({ baseURL: `${io.url}/v1`, apiKey: await io.apiKey("someone"), maxRetries: 0 });
  node = await NodeProcesses.make(agentTrace.processes, new TestNetwork());
  const { nodeId } = node.identity;
  node.write("identity/binding.json", JSON.stringify(mintBinding(accountKey, io.network, "acme", nodeId)));
  node.write("identity/root.json", readFileSync(join(io.keys, "root.json"), "utf8"));
  node.desire({ target: config });
  node.startAgent(io.url);
  await node.startLauncher();
  await until(
    "a node that serves",
    async () => (await io.nodes()).some((seen) => seen.connected && seen.models.includes(model)),
    { deadlineMs: 90_000, intervalMs: 300 },
  );
});
afterAll(() => processes.close());

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
    const { checked, problems } = await until("the acks", () => {
      const proof = ackProof(ioTrace.calls(), db);
      return proof.checked >= jobs.length && proof;
    });
    expect(problems).toEqual([]);
    expect(checked).toBe(jobs.length);
  });

  it("a registration: the node's row, before the answer is written", () => {
    const { nodeId } = node.identity;
    const { checked, problems } = answerProof(ioTrace.calls(), db, ({ status, body }) =>
      status === 200 && Buffer.from(body.split(".")[1] ?? "", "base64url").includes(nodeId)
        ? nodeId
        : undefined,
    );
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
  it("every file that it replaces: content before its name, the folder after", () => {
    const { checked, problems } = moveProof(agentTrace.calls(), node.dir);
    expect(problems).toEqual([]);
    expect(checked).toBeGreaterThan(3);
  });
});
