import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { AccountKey } from "../../src/protocol/binding.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { paths, pingTyp } from "../../src/protocol/http.ts";
import { verifyChallenge } from "../../src/protocol/session/handshake.ts";
import { sealStatus } from "../../src/protocol/status.ts";
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
 * The same bad inputs at every door of a real service, over real sockets: in a session, by HTTP, from a client. Each is refused
 * by its code, at once, and without repeating it. What a hostile service sends to agents: faults-inputs-agent.test.ts.
 */
const processes = supervise();
afterAll(() => processes.close());

/** Longest that a refusal may take on a busy machine, ms; what it takes on an idle one is some 10 ms. */
const refusalMs = 5_000;
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
