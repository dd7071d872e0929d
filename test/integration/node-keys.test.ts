import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type AccountKey, accountAuthorization, mintBinding } from "../../src/protocol/binding.ts";
import { identityConflictReason } from "../../src/protocol/codes.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { paths } from "../../src/protocol/http.ts";
import { splitJws } from "../../src/protocol/jws.ts";
import { generateKey, importPrivateKey, type PrivateJwk, type SigningKey } from "../../src/protocol/keys.ts";
import { sealKeyChange } from "../../src/protocol/rollover.ts";
import { openStatus, sealDrainToken } from "../../src/protocol/status.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { answerTo, ScriptedAgent } from "../io/fixture/agent.ts";
import { ioDone, IoProcess, random16 } from "../io/fixture/network.ts";
import { freePort } from "../testbed/ports.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/** A node's key from its first day to its recovery: real agents and engines on a real service, killed on the way. */
const model = "m1";
const processes = supervise();
let io: IoProcess;
let client: OpenAI;
let accountKey: AccountKey;
let config: ConfigDigest;
let node: NodeProcesses;
let proxy: Awaited<ReturnType<typeof losingProxy>>;
/** The key that the node ought to have. */
let key: SigningKey;

/** A TCP proxy that can lose the answer to a key change: it cuts the connection in its place. */
async function losingProxy(to: number) {
  const state = { loses: false, lost: () => {} };
  const port = await freePort();
  const open = new Set<Socket>();
  const server = createServer((from) => {
    const onward = connect(to, "127.0.0.1");
    let asked = false;
    for (const socket of [from, onward]) {
      open.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        open.delete(socket);
        from.destroy();
        onward.destroy();
      });
    }
    from.on("data", (bytes) => {
      if (bytes.includes(`POST ${paths.keyChange} `)) asked = true;
      onward.write(bytes);
    });
    onward.on("data", (bytes) => {
      if (!asked || !state.loses) return void from.write(bytes);
      from.destroy();
      state.lost();
    });
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${port}`,
    state,
    close: () => {
      for (const socket of open) socket.destroy();
      server.close();
    },
  };
}

async function startNode(endpoint: string): Promise<NodeProcesses> {
  const made = await NodeProcesses.make(processes, new TestNetwork());
  const { nodeId } = made.identity;
  made.write("identity/binding.json", JSON.stringify(mintBinding(accountKey, io.network, "acme", nodeId)));
  made.write("identity/root.json", readFileSync(join(io.keys, "root.json"), "utf8"));
  made.desire({ target: config });
  made.startAgent(endpoint);
  await made.startLauncher();
  return made;
}

const viewOf = async (id: string) => (await io.nodes()).find((view) => view.id === id);

/** Waits until the node has a session later than `epoch`, serves, and has this key at the service. */
async function serves(kid: string, of: NodeProcesses = node, epoch = 0): Promise<void> {
  await until(
    `a node that serves with key ${kid}`,
    async () => {
      const view = await viewOf(of.identity.nodeId);
      const isNew = (view?.epoch ?? 0) > epoch;
      return isNew && view?.connected === true && view.models.includes(model) && view.kid === kid;
    },
    { deadlineMs: 60_000, intervalMs: 200 },
  );
}

/** Starts the agent, again where it was killed, and waits for the session that this one opens. */
async function startsAndServes(kid: string): Promise<void> {
  await node.agent?.stop({ graceMs: 0 });
  const epoch = (await viewOf(node.identity.nodeId))?.epoch ?? 0;
  node.startAgent(proxy.url);
  await serves(kid, node, epoch);
}

/** Why the node has no session, in its own words; asked of its status under any of its keys. */
async function lastError(): Promise<string | null> {
  const nonce = randomBytes(32).toString("base64url");
  const { body } = await node.ask(`/status?nonce=${nonce}`);
  return openStatus(body, [key, node.identity.key], nonce).session.last_error;
}

function nextKey(): { readonly jwk: PrivateJwk; readonly key: SigningKey } {
  const jwk = generateKey();
  return { jwk, key: importPrivateKey(jwk) };
}

/** What the keeper of the identity does when the service has the new key. */
function promote(jwk: PrivateJwk, former: readonly SigningKey[]): void {
  node.write("identity/former.json", JSON.stringify(former.map((each) => each.jwk)));
  node.write("identity/key.jwk", JSON.stringify(jwk));
}

async function ask(stream: true, onText: () => void): Promise<{ text: string; id: string }>;
async function ask(stream: false): Promise<{ text: string; id: string }>;
async function ask(stream: boolean, onText = () => {}): Promise<{ text: string; id: string }> {
  const messages = [{ role: "user" as const, content: "tell me" }];
  if (!stream) {
    const { data, response } = await client.chat.completions
      .create({ model, messages, max_tokens: 60 })
      .withResponse();
    const id = response.headers.get("x-request-id") ?? "";
    return { id, text: data.choices[0]?.message.content ?? "" };
  }
  const { data, response } = await client.chat.completions
    .create({ model, messages, stream, max_tokens: 120 })
    .withResponse();
  let text = "";
  for await (const part of data) {
    text += part.choices[0]?.delta.content ?? "";
    onText();
  }
  return { id: response.headers.get("x-request-id") ?? "", text };
}

/** Key that has signed the node's receipt of a job. */
async function receiptKid(job: string): Promise<string> {
  const kept = await until("the receipt", async () => {
    const { receipt } = (await io.job(job)) as { receipt?: { countersign: string } | null };
    return receipt?.countersign;
  });
  const outer = splitJws(kept, "rn1.countersign");
  const { receipt } = JSON.parse(Buffer.from(outer.payload, "base64url").toString()) as { receipt: string };
  return splitJws(receipt, "rn1.receipt").header.kid;
}

async function revoke(id: string): Promise<{ readonly node_id: string; readonly generation: number }> {
  const path = paths.revoke(id);
  const nonce = randomBytes(32).toString("base64url");
  const request = { account: "acme", method: "POST", path, time: Date.now(), nonce };
  const authorization = accountAuthorization(accountKey, request);
  const answer = await fetch(`${io.url}${path}`, { method: "POST", headers: { authorization } });
  expect(answer.status).toBe(200);
  return (await answer.json()) as Awaited<ReturnType<typeof revoke>>;
}

beforeAll(async () => {
  io = await IoProcess.start(processes, ["--disconnect-grace", "5s", "--lease", "10s", "--heartbeat", "1s"]);
  proxy = await losingProxy(Number(new URL(io.url).port));
  await io.allowAudience(proxy.url);
  accountKey = await io.account("acme");
  const log = join(io.folder, "engine.log");
  config = await io.publish([model], { engine: "test", command: engineCommand({ log, tokenDelayMs: 50 }) });
  client = new OpenAI({ baseURL: `${io.url}/v1`, apiKey: await io.apiKey("someone"), maxRetries: 0 });
  node = await startNode(proxy.url);
  ({ key } = node.identity);
  await serves(key.kid);
});
afterAll(async () => {
  proxy.close();
  await processes.close();
});

describe("a node's key", () => {
  it("rolls over while a job runs: one unbroken stream, receipts by the new key, the old drain token good", async () => {
    const whole = (await ask(true, () => {})).text;
    const next = nextKey();
    const epochs = (await viewOf(node.identity.nodeId))?.epoch ?? 0;
    let pieces = 0;
    const asked = ask(true, () => {
      if (++pieces === 10) node.write("identity/next.jwk", JSON.stringify(next.jwk));
    });
    const { text, id } = await asked;
    expect(text).toBe(whole);
    expect(await receiptKid(id)).toBe(next.key.kid);
    const former = key;
    ({ key } = next);
    await serves(key.kid);
    expect((await viewOf(node.identity.nodeId))?.epoch).toBe(epochs + 1);
    promote(next.jwk, [former]);
    // The hook's token is of the key that the operator had when it made the pod.
    const token = sealDrainToken(node.identity.nodeId, former);
    expect((await node.ask("/drain", "GET", { authorization: `Bearer ${token}` })).status).toBe(200);
    expect((await node.ask("/drain", "GET", { authorization: "Bearer x.y.z" })).status).toBe(401);
    const nonce = randomBytes(32).toString("base64url");
    expect(openStatus((await node.ask(`/status?nonce=${nonce}`)).body, key, nonce).node_id).toBe(
      node.identity.nodeId,
    );
    // And still after a restart, when only the folder knows of the key before.
    await startsAndServes(key.kid);
    expect((await node.ask("/drain", "GET", { authorization: `Bearer ${token}` })).status).toBe(200);
    await startsAndServes(key.kid);
  });

  it("rolls over though the agent is killed before it has the answer: it tries the other key", async () => {
    const next = nextKey();
    const lost = new Promise<void>((resolve) => (proxy.state.lost = resolve));
    proxy.state.loses = true;
    node.write("identity/next.jwk", JSON.stringify(next.jwk));
    await lost;
    await node.agent?.stop({ graceMs: 0 });
    proxy.state.loses = false;
    expect((await viewOf(node.identity.nodeId))?.kid).toBe(next.key.kid);
    const former = key;
    ({ key } = next);
    await startsAndServes(key.kid);
    // Killed again before anyone has put the new key in the place of the old one, and after.
    await startsAndServes(key.kid);
    await node.agent?.stop({ graceMs: 0 });
    promote(next.jwk, [node.identity.key, former]);
    await startsAndServes(key.kid);
  });

  it("rolls over though the answer is lost: the agent asks again, and is told the same", async () => {
    const next = nextKey();
    let times = 0;
    const lost = new Promise<void>((resolve) => {
      proxy.state.lost = () => {
        if (++times < 2) return;
        proxy.state.loses = false;
        resolve();
      };
    });
    proxy.state.loses = true;
    node.write("identity/next.jwk", JSON.stringify(next.jwk));
    await lost;
    const former = key;
    ({ key } = next);
    await serves(key.kid);
    promote(next.jwk, [node.identity.key, former]);
    expect((await ask(false)).text.length).toBeGreaterThan(0);
  });

  it("is revoked by the account: the session ends, its job goes elsewhere, and it does not come back", async () => {
    // So slow that its job is under way still when the other one serves.
    await node.switchEngine({ tokenDelayMs: 2_000 });
    const asked = ask(false);
    await until("the job at the node", async () => ((await viewOf(node.identity.nodeId))?.jobs ?? 0) === 1);
    const other = await startNode(io.url);
    await serves(other.identity.key.kid, other);
    expect(await revoke(node.identity.nodeId)).toEqual({ node_id: node.identity.nodeId, generation: 0 });
    const { text, id } = await asked;
    expect(text.length).toBeGreaterThan(0);
    expect(await receiptKid(id)).toBe(other.identity.key.kid);
    await node.switchEngine({ tokenDelayMs: 50 });
    expect(await viewOf(node.identity.nodeId)).toMatchObject({ connected: false, revoked: true });
    await until("the agent's words", async () => (await lastError())?.includes("have the account grant it"), {
      deadlineMs: 60_000,
    });
    await other.agent?.stop({ graceMs: 0 });
  });

  it("is recovered by a grant, without a restart, and an older grant is refused", async () => {
    const next = nextKey();
    const { nodeId } = node.identity;
    const grant = await ioDone("accounts", "grant", "acme", nodeId, next.key.kid, "--data", io.data);
    node.write("identity/grant.json", grant);
    node.write("identity/key.jwk", JSON.stringify(next.jwk));
    ({ key } = next);
    await serves(key.kid);
    expect(await viewOf(nodeId)).toMatchObject({ generation: 1, revoked: false });
    await ioDone("nodes", "revoke", nodeId, "--data", io.data);
    await until("the agent's words", async () => (await lastError())?.includes("its generation is 1"), {
      deadlineMs: 60_000,
    });
    const again = await ioDone("accounts", "grant", "acme", nodeId, key.kid, "--data", io.data);
    node.write("identity/grant.json", again);
    await serves(key.kid);
    expect(await viewOf(nodeId)).toMatchObject({ generation: 2, revoked: false });
    await node.agent?.stop({ graceMs: 0 });
  });
});

describe("at the service", () => {
  const setting = () => ({
    url: io.url,
    root: io.root,
    account: "acme",
    accountKey,
    models: [model],
    config,
  });

  it("a result whose receipt the key before has signed commits, in the old session and in the next", async () => {
    const agent = new ScriptedAgent(setting());
    await agent.register();
    const session = await agent.connect();
    const [one, two] = [ask(false), ask(false)];
    const offers = [await session.offer(), await session.offer()] as const;
    const next = importPrivateKey(generateKey());
    const change = { nodeId: agent.nodeId, from: agent.key, to: next, time: Date.now() };
    const url = `${io.url}${paths.keyChange}`;
    expect((await agent.post(paths.keyChange, sealKeyChange(change, url, 1))).status).toBe(200);
    session.answer(offers[0], answerTo(offers[0]));
    expect((await session.next("ack")).payload.results).toMatchObject([{ status: "committed" }]);
    const late = agent.result(offers[1], answerTo(offers[1]));
    session.drop();
    const successor = new ScriptedAgent(setting(), next, agent.nodeId);
    successor.instance = agent.instance;
    const { job, attempt, token } = offers[1];
    const resumed = await successor.connect([{ job, attempt, token, next_offset: 0, finished: true }]);
    resumed.chunk(offers[1], 0, answerTo(offers[1]));
    resumed.send("result", late);
    expect((await resumed.next("ack")).payload.results).toMatchObject([{ status: "committed" }]);
    await Promise.all([one, two]);
    // The old key opens nothing any more.
    const socket = await agent.dial();
    await expect(agent.open(socket)).rejects.toThrow(/4401.*unknown_key/);
    resumed.drop();
  });

  it("two processes with one identity are told apart: the older is turned away, marked and counted", async () => {
    const older = new ScriptedAgent(setting());
    await older.register();
    const newer = new ScriptedAgent(setting(), older.key);
    const first = await older.connect();
    const second = await newer.connect();
    expect(await first.socket.close()).toMatchObject({ code: 4409 });
    const view = () => second.beating(viewOf(older.nodeId));
    expect(await view()).toMatchObject({ conflict: null });
    await expect(older.connect()).rejects.toThrow(identityConflictReason);
    expect(await io.metric("resultity_io_identity_conflicts_total")).toBe(1);
    expect((await view())?.conflict).not.toBeNull();
    expect(second.socket.closed).toBeUndefined();
    // Nobody is there any more: what was superseded is welcome.
    second.drop();
    await until("the end of the newer one", async () => (await viewOf(older.nodeId))?.connected === false);
    (await older.connect()).drop();
    // A third process, which was never there, is no conflict.
    newer.instance = random16();
    (await newer.connect()).drop();
    expect(await io.metric("resultity_io_identity_conflicts_total")).toBe(1);
  });
});
