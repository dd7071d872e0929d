import { readFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { AccountKey } from "../../src/protocol/binding.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { httpAnswerTyp, paths, pingTyp } from "../../src/protocol/http.ts";
import { verifyChallenge } from "../../src/protocol/session/handshake.ts";
import { sealStatus } from "../../src/protocol/status.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { ScriptedService } from "../agent/fixture/service.ts";
import {
  badInputs,
  closeCodeOf,
  frameRoom,
  type Good,
  heavyInputs,
  marker,
  sealGood,
} from "../faults/inputs.ts";
import { memoryOf } from "../faults/memory.ts";
import { type AgentSession, leaseOf, type Offer, plainOf, ScriptedAgent } from "../io/fixture/agent.ts";
import { IoProcess, random16, random32 } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/**
 * The same bad inputs at every door, over real sockets: in a session and by HTTP to a real service, and from a hostile service
 * to real agents. Each is refused by its code, at once, and without repeating it.
 */
const processes = supervise();
afterAll(() => processes.close());

/** Longest that a refusal may take on a busy machine, ms; what it takes on an idle one is some 10 ms. */
const refusalMs = 3_000;
/** What a process may grow by while it refuses all of these, MiB. */
const growthMib = 64;
const job = "job-00000000";

describe("the service", () => {
  const model = "m";
  let io: IoProcess;
  let config: ConfigDigest;
  let accountKey: AccountKey;
  let apiKey: string;

  beforeAll(async () => {
    io = await IoProcess.start(processes, ["--retry", "50ms,50ms,50ms"]);
    config = await io.publish([model]);
    accountKey = await io.account("acme");
    apiKey = await io.apiKey("someone");
  });

  async function registered(): Promise<ScriptedAgent> {
    const agent = new ScriptedAgent({
      url: io.url,
      root: io.root,
      account: "acme",
      accountKey,
      models: [model],
      config,
    });
    expect((await agent.register()).status).toBe(200);
    return agent;
  }

  const session = async (): Promise<AgentSession> => (await registered()).connect();

  /** A message that the service would take next in `open`: an `accept` of a job that it does not know. */
  function goodIn({ agent, ready, channel }: AgentSession, seq = channel.sent + 1): Good {
    const token = random16();
    const numbered = (number: string) =>
      `"sid":"${ready.sid}","seq":${seq},"job":"${job}","attempt":${number},"token":"${token}"`;
    return { typ: "rn1.accept", key: agent.key, members: numbered("1"), numbered, room: frameRoom };
  }

  /** Waits for the close, which names `error` and repeats nothing. */
  async function closes(open: AgentSession, code: number, error?: string): Promise<void> {
    const sentAt = performance.now();
    const closed = await open.socket.close();
    expect(performance.now() - sentAt).toBeLessThan(refusalMs);
    expect(closed.code).toBe(code);
    // A frame that is too large is not read, so there is nothing to say of it.
    if (code !== 1009 && error !== undefined) expect(closed.reason).toMatch(new RegExp(`^${error}: `));
    expect(closed.reason).not.toContain(marker);
  }

  it.each(badInputs)("$id $what, in a session", async ({ error, make }) => {
    const open = await session();
    open.socket.ws.send(make(goodIn(open)));
    await closes(open, closeCodeOf(error), error);
  });

  it("takes what these are made from", async () => {
    const open = await session();
    open.socket.ws.send(sealGood(goodIn(open)));
    open.channel.seal("accept", { job: job as Offer["job"], attempt: 1, token: random16() });
    open.heartbeat();
    await open.next("heartbeat-ack");
    open.drop();
  });

  it("B01 a frame again", async () => {
    const open = await session();
    const frame = sealGood(goodIn(open));
    open.socket.ws.send(frame);
    open.socket.ws.send(frame);
    await closes(open, 4412, "sequence");
  });

  it.each([
    ["a number left out", 2],
    ["a number from before", 0],
  ])("B02 %s", async (_what, ahead) => {
    const open = await session();
    open.socket.ws.send(sealGood(goodIn(open, open.channel.sent + ahead)));
    await closes(open, 4412, "sequence");
  });

  it("B03 a frame of the node's own session of before", async () => {
    const before = await session();
    const now = await before.agent.connect();
    const good = goodIn(before);
    now.socket.ws.send(sealGood({ ...good, members: goodIn(before, now.channel.sent + 1).members }));
    await closes(now, 4412, "wrong_session");
  });

  it("B07 a frame that another registered node has signed", async () => {
    const open = await session();
    const other = await registered();
    open.socket.ws.send(sealGood({ ...goodIn(open), key: other.key }));
    await closes(open, 4401, "unknown_key");
  });

  it.each([
    ["the job's id in capitals", (members: string) => members.replace(job, job.toUpperCase()), 4400],
    ["a padded token", (members: string) => members.replace(/"$/, '=="'), 4400],
    [
      "the session's id in another case",
      (members: string) => members.replace(/"sid":"[^"]*"/, (sid) => sid.toUpperCase().replace("SID", "sid")),
      4412,
    ],
  ])("B08 %s", async (_what, change, code) => {
    const open = await session();
    const good = goodIn(open);
    const members = change(good.members);
    expect(members).not.toBe(good.members);
    open.socket.ws.send(sealGood({ ...good, members }));
    // A sid whose last character has moved is no spelling of 16 bytes at all.
    const { code: seen } = await open.socket.close();
    expect([code, 4400]).toContain(seen);
  });

  it("B14 -0 is 0, as the document says", async () => {
    const open = await session();
    const good = goodIn(open);
    const offset = `${good.members.replace(/,"token".*/, "")},"token":"${random16()}","offset":-0,"data":"x"`;
    open.socket.ws.send(sealGood({ ...good, typ: "rn1.chunk", members: offset }));
    open.channel.seal("accept", { job: job as Offer["job"], attempt: 1, token: random16() });
    open.heartbeat();
    await open.next("heartbeat-ack");
    open.drop();
  });

  it("B16 bytes that are not UTF-8", async () => {
    const open = await session();
    open.socket.ws.send(Buffer.concat([Buffer.from(marker), Buffer.of(0xff, 0xfe)]), { binary: false });
    await closes(open, 1007);
  });

  it("B17 a binary message that is right in all else", async () => {
    const open = await session();
    open.socket.ws.send(Buffer.from(sealGood(goodIn(open))));
    await closes(open, 4400, "malformed");
  });

  it("B31 a status that a node has signed, as its hello: neither whole nor under a hello's header", async () => {
    const agent = await registered();
    const status = sealStatus(
      {
        nonce: random32(),
        time: Date.now(),
        node_id: agent.nodeId,
        instance: agent.instance,
        desired_revision: 1,
        report: agent.report(),
        config_error: null,
        drain: { state: "serving", jobs: 0, since: null },
        session: { connected: false, since: null, epoch: 0, last_error: null },
      },
      agent.key,
    );
    const [, payload, signature] = status.split(".");
    for (const error of ["wrong_typ", "bad_signature"] as const) {
      const socket = await agent.dial();
      const challenge = verifyChallenge(socket.take(), io.root, io.network, Date.now());
      const [header] = agent.hello(challenge, socket.url).split(".");
      socket.ws.send(error === "wrong_typ" ? status : [header, payload, signature].join("."));
      const closed = await socket.close();
      expect(closed).toMatchObject({ code: 4401, reason: expect.stringMatching(`^${error}:`) });
    }
  });

  const seqs = new Map<string, number>();
  /** A ping of `agent` that the service would take. */
  function goodPing(agent: ScriptedAgent, url = `${io.url}${paths.ping}`, nodeId = agent.nodeId): Good {
    const seq = (seqs.get(agent.nodeId) ?? 0) + 1;
    seqs.set(agent.nodeId, seq);
    const numbered = (number: string) => `"node_id":"${nodeId}","time":${number}`;
    const room = Math.floor(((128 * 1024 - 1024) * 3) / 4);
    const members = numbered(String(Date.now()));
    return { typ: pingTyp, key: agent.key, members, numbered, room, extra: { url, seq } };
  }

  const post = async (agent: ScriptedAgent, body: string) => {
    const sentAt = performance.now();
    const answer = await agent.post(paths.ping, body);
    expect(performance.now() - sentAt).toBeLessThan(refusalMs);
    const [, payload = ""] = answer.text.split(".");
    const said = answer.text.startsWith("{") ? answer.text : Buffer.from(payload, "base64url").toString();
    expect(said).not.toContain(marker);
    return { status: answer.status, said };
  };

  it.each(badInputs)("$id $what, by HTTP", async ({ error, make }) => {
    const agent = await registered();
    const { status, said } = await post(agent, make(goodPing(agent)));
    expect(status).toBe(error === "too_large" ? 413 : 400);
    if (status === 400) expect(JSON.parse(said)).toMatchObject({ error: { code: error } });
    expect((await post(agent, sealGood(goodPing(agent)))).status).toBe(200);
  });

  it("B01 a request again, by HTTP", async () => {
    const agent = await registered();
    const ping = sealGood(goodPing(agent));
    expect((await post(agent, ping)).status).toBe(200);
    const { status, said } = await post(agent, ping);
    expect(status).toBe(409);
    expect(JSON.parse(said)).toMatchObject({ http_seq: 1, error: { code: "sequence" } });
  });

  it.each(["http://io.elsewhere.example", "HTTP://127.0.0.1"])(
    "B03 a request for another host (%s), by HTTP",
    async (host) => {
      const agent = await registered();
      const { status, said } = await post(agent, sealGood(goodPing(agent, `${host}${paths.ping}`)));
      expect(status).toBe(400);
      expect(JSON.parse(said)).toMatchObject({ error: { code: "wrong_audience" } });
    },
  );

  it("B07 a request for another node, by HTTP", async () => {
    const [agent, other] = [await registered(), await registered()];
    const { status, said } = await post(agent, sealGood(goodPing(agent, undefined, other.nodeId)));
    expect(status).toBe(409);
    expect(JSON.parse(said)).toMatchObject({ node_id: agent.nodeId, error: { code: "wrong_node" } });
  });

  const bodies: readonly [string, string, () => string | Buffer<ArrayBuffer>, string][] = [
    ["B09", "a duplicate key", () => `{"model":"${model}","model":"${marker}"}`, "invalid_json"],
    ["B10", "the key __proto__", () => `{"model":"${model}","__proto__":{"${marker}":1}}`, "invalid_json"],
    [
      "B11",
      "JSON nested 200,000 deep",
      () => `{"x":${"[".repeat(200_000)}${"]".repeat(200_000)}}`,
      "invalid_json",
    ],
    [
      "B12",
      "400,001 messages, each wrong",
      () => `{"model":"${model}","messages":[${'{"role":1},'.repeat(400_000)}{}]}`,
      "invalid_json",
    ],
    [
      "B13",
      "200,000 unknown keys",
      () =>
        `{"model":"${model}"${Array.from({ length: 200_000 }, (_, at) => `,"${marker}${at}":0`).join("")}}`,
      "invalid_json",
    ],
    ["B14", "1e400 choices", () => `{"model":"${model}","n":1e400}`, "invalid_value"],
    ["B14", "a number that is none", () => `{"model":"${model}","n":NaN}`, "invalid_json"],
    [
      "B16",
      "bytes that are not UTF-8",
      () => Buffer.concat([Buffer.from(`{"model":"${marker}`), Buffer.of(0xff, 0xfe), Buffer.from('"}')]),
      "invalid_json",
    ],
  ];
  it.each(bodies)("%s %s, from a client", async (_id, _what, make, code) => {
    const body = make();
    const sentAt = performance.now();
    const answer = await fetch(`${io.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
      body,
    });
    const text = await answer.text();
    expect(performance.now() - sentAt).toBeLessThan(refusalMs);
    expect(answer.status).toBe(400);
    expect(JSON.parse(text)).toMatchObject({ error: { code } });
    expect(text).not.toContain(marker);
  });

  it("B23 results for jobs that were never leased, are another node's, or are over: stale, and nothing changes", async () => {
    const [holder, stranger] = [await session(), await session()];
    const asked = fetch(`${io.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
      body: JSON.stringify({ model, messages: [] }),
      signal: AbortSignal.timeout(20_000),
    });
    const first = await until("an offer", () =>
      [holder, stranger].find(({ waiting }) => waiting.some(({ kind }) => kind === "offer")),
    );
    const other = first === holder ? stranger : holder;
    const offer = await first.offer();
    const right = plainOf(offer, "right");

    const stale = async (by: AgentSession, as: Offer) => {
      by.send("chunk", { ...leaseOf(as), offset: 0, data: plainOf(as, marker) });
      by.send("result", by.agent.result(as, plainOf(as, marker)));
      const { results } = (await by.next("ack")).payload;
      expect(results).toMatchObject([{ job: as.job, attempt: as.attempt, status: "stale" }]);
    };
    await stale(other, { ...offer, job: "job-neverleased" as Offer["job"] });
    await stale(other, offer);
    await stale(first, { ...offer, token: random16() });
    await stale(first, { ...offer, attempt: 2 });

    first.answer(offer, right);
    expect(await (await asked).text()).toBe(right);
    const { results } = (await first.next("ack")).payload;
    expect(results).toMatchObject([{ job: offer.job, status: "committed" }]);
    // Over now: the same node is told the same again, whatever it says this time; any other one is stale.
    first.send("result", first.agent.result(offer, plainOf(offer, marker)));
    expect((await first.next("ack")).payload.results).toEqual(results);
    await stale(other, offer);
    expect(await io.job(offer.job)).toMatchObject({
      attempt: 1,
      outcome: "completed",
      relayedBytes: Buffer.byteLength(right),
    });
    first.drop();
    other.drop();
  });

  const rounds = 12;
  it(`B11 B12 B13 many at once: the service answers others meanwhile, and its memory stays [×${rounds * 4}]`, async () => {
    const pid = io.child?.pid ?? 0;
    let slowest = 0;
    const stop = new AbortController();
    const others = (async () => {
      while (!stop.signal.aborted) {
        const at = performance.now();
        expect((await fetch(`${io.url}/healthz`)).status).toBe(200);
        slowest = Math.max(slowest, performance.now() - at);
      }
    })();
    const before = memoryOf(pid).now;
    for (let round = 0; round < rounds; round++) {
      const agents = await Promise.all(Array.from({ length: heavyInputs.length }, registered));
      await Promise.all(
        agents.map(async (agent, at) => {
          for (let time = 0; time < 4; time++) {
            const open = await agent.connect();
            open.socket.ws.send(heavyInputs[at]?.make(goodIn(open)) ?? "");
            await closes(open, 4400, "malformed");
          }
        }),
      );
    }
    stop.abort();
    await others;
    expect(slowest).toBeLessThan(refusalMs);
    expect(memoryOf(pid).now - before).toBeLessThan(growthMib);
  });

  it("none of these is in its log", () => {
    expect(io.log).toContain("session refused");
    expect(io.log).not.toContain(marker);
    expect(io.log).not.toContain("session failed");
  });
});

describe("agents whose service is hostile", () => {
  const network = new TestNetwork();
  /** Several, so that one is in session while others back off. */
  const nodes: { readonly service: ScriptedService; readonly node: NodeProcesses }[] = [];
  let turn = 0;
  let before: readonly number[] = [];

  beforeAll(async () => {
    for (let at = 0; at < 4; at++) {
      const service = await ScriptedService.start(network);
      service.bends.heartbeatMs = 500;
      const node = await NodeProcesses.make(processes, network);
      const config = network.config({ command: engineCommand({ log: node.engineLog }) });
      node.mount(network.release(1, config, Date.now()), config);
      node.desire({ target: config.digest });
      node.startAgent(service.url);
      nodes.push({ service, node });
    }
    for (const { service } of nodes) await until("a session", () => service.connected);
    before = nodes.map(({ node }) => memoryOf(node.agent?.pid ?? 0).now);
  });
  afterAll(async () => {
    for (const { service } of nodes) await service.stop();
  });

  /** A service whose agent is in a session that has proved itself, so that its back-off begins anew. */
  async function inSession(): Promise<ScriptedService> {
    const { service } = nodes[turn++ % nodes.length] ?? expect.fail();
    const heartbeats = () => {
      const { sid } = service.next;
      return service.frames.filter(({ kind, payload }) => kind === "heartbeat" && payload.sid === sid).length;
    };
    await until("a second heartbeat", () => service.connected && heartbeats() > 1, { deadlineMs: 60_000 });
    return service;
  }

  /** Waits for the agent's close, which names `error` and repeats nothing. */
  async function closes(service: ScriptedService, code: number, error?: string): Promise<void> {
    const { length } = service.closes;
    const sentAt = performance.now();
    await until("the close", () => service.closes.length > length, { intervalMs: 5 });
    expect(performance.now() - sentAt).toBeLessThan(refusalMs);
    const closed = service.closes[length];
    expect(closed?.code).toBe(code);
    if (code !== 1009 && error !== undefined) expect(closed?.reason).toMatch(new RegExp(`^${error}: `));
    expect(closed?.reason).not.toContain(marker);
  }

  /** A message that the agent would take next: an acknowledgement of nothing. */
  function goodOf(service: ScriptedService): Good {
    const { sid, seq } = service.next;
    const numbered = (number: string) => `"sid":"${sid}","seq":${seq},"upto":${number},"results":[]`;
    return { typ: "rn1.ack", key: network.service, members: numbered("0"), numbered, room: frameRoom };
  }

  it.each(badInputs)("$id $what, to an agent", async ({ error, make }) => {
    const service = await inSession();
    service.raw(make(goodOf(service)));
    await closes(service, closeCodeOf(error), error);
  });

  it("B01 a frame again, to an agent", async () => {
    const service = await inSession();
    service.raw(service.say("ack", { upto: 0, results: [] }));
    await closes(service, 4412, "sequence");
  });

  it("B02 a frame that is ahead, to an agent", async () => {
    const service = await inSession();
    const good = goodOf(service);
    service.raw(
      sealGood({
        ...good,
        members: good.members.replace(/"seq":(\d+)/, (_all, seq) => `"seq":${Number(seq) + 1}`),
      }),
    );
    await closes(service, 4412, "sequence");
  });

  it("B03 a frame of another session, to an agent", async () => {
    const service = await inSession();
    const good = goodOf(service);
    service.raw(
      sealGood({ ...good, members: good.members.replace(/"sid":"[^"]*"/, `"sid":"${random16()}"`) }),
    );
    await closes(service, 4412, "wrong_session");
  });

  it("B07 a frame that the node itself could have sent, to an agent", async () => {
    const service = await inSession();
    const { sid, seq } = service.next;
    const members = `"sid":"${sid}","seq":${seq},"reason":"shutdown"`;
    service.raw(sealGood({ ...goodOf(service), typ: "rn1.goodbye", members }));
    await closes(service, 4401, "wrong_typ");
  });

  it("B16 bytes that are not UTF-8, to an agent", async () => {
    const service = await inSession();
    service.raw(Buffer.concat([Buffer.from(marker), Buffer.of(0xff, 0xfe)]), { binary: false });
    await closes(service, 1007);
  });

  it("B17 a binary message that is right in all else, to an agent", async () => {
    const service = await inSession();
    service.raw(Buffer.from(sealGood(goodOf(service))));
    await closes(service, 4400, "malformed");
  });

  it.each([
    ["by their size", 40, 10_000, 1009],
    ["by their number", 20_000, 1, 1008],
  ])("B18 fragments without end, to an agent: cut %s", async (_how, count, size, code) => {
    const service = await inSession();
    for (let at = 0; at < count; at++) service.raw("x".repeat(size), { fin: false });
    await closes(service, code);
  });

  it("B23 what is said of jobs that it does not hold changes nothing", async () => {
    const service = await inSession();
    const about = { job: "job-neverheld" as Offer["job"], attempt: 1 };
    service.say("cancel", { ...about, reason: "none" });
    service.say("ack", { upto: 0, results: [{ ...about, status: "committed" }] });
    service.say("verdict", { jobs: [{ ...about, action: "keep", offset: 1_000_000 }], last: true });
    const { length } = service.frames;
    await until("heartbeats", () => service.frames.length > length + 2);
    expect(service.frames.slice(length).every(({ kind }) => kind === "heartbeat")).toBe(true);
  });

  // Unknown keys that fit into an answer's 64 KiB are fewer than a message may have.
  const answers = badInputs.filter(({ what }) => what !== "as many unknown keys as fit");
  it("B04 B05 B06 B09 B10 B11 B12 B13 B14 B15 B16 B19 B22 B31 answers to what it says by HTTP: believed by nobody", async () => {
    const { node, service } = nodes[0] ?? expect.fail();
    await until("a session", () => service.connected, { deadlineMs: 60_000 });
    service.bends.heartbeatMs = 100;
    const { epoch } = service;
    service.cut();
    await until("another session", () => service.epoch > epoch && service.connected, { deadlineMs: 70_000 });
    const { nodeId } = node.identity;
    const known = (await node.status()).report.config.release_sequence;
    let told = 0;
    service.bends.answer = (path, body) => {
      if (path !== paths.heartbeat) return undefined;
      const [, payload = ""] = body.split(".");
      const { nonce } = JSON.parse(Buffer.from(payload, "base64url").toString()) as { nonce: string };
      // Were one of them believed, the node would know of a release that nobody has published.
      const latest = `"latest":{"release_sequence":99,"digest":null,"nonce":"${nonce}"}`;
      const numbered = (number: string) => `"node_id":"${nodeId}","time":${number},"http_seq":0,${latest}`;
      const input = answers[told++ % answers.length] ?? expect.fail();
      const members = numbered(String(Date.now()));
      const room = Math.floor((63 * 1024 * 3) / 4);
      const good = { typ: httpAnswerTyp, key: network.service, members, numbered, room };
      return { status: 200, body: input.make(good) };
    };
    service.down = true;
    service.cut();
    await until("all of them", () => told > answers.length + 2, { deadlineMs: 60_000 });
    expect((await node.status()).report.config.release_sequence).toBe(known);
    const refused = readFileSync(node.agentLog, "utf8").match(/heartbeat by HTTP failed/g) ?? [];
    expect(refused.length).toBeGreaterThanOrEqual(answers.length);
    delete service.bends.answer;
    service.down = false;
    await until("a session", () => service.connected, { deadlineMs: 70_000 });
  });

  it("are all well afterwards: no growth, nothing of it in logs and status", async () => {
    for (const [at, { service, node }] of nodes.entries()) {
      expect(memoryOf(node.agent?.pid ?? 0).now - (before[at] ?? 0)).toBeLessThan(growthMib);
      await until("a session", () => service.connected, { deadlineMs: 60_000 });
      expect(readFileSync(node.agentLog, "utf8")).not.toContain(marker);
      expect(JSON.stringify(await node.status())).not.toContain(marker);
      expect(service.registrations).toHaveLength(1);
    }
  });
});
