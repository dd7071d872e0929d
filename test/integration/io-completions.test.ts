import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openCountersign, openReceipt } from "../../src/protocol/receipt.ts";
import {
  type AgentSession,
  doneEvent,
  eventOf,
  leaseOf,
  type Offer,
  plainOf,
  ScriptedAgent,
} from "../io/fixture/agent.ts";
import { IoProcess, sha256 } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const model = "demo/model";
const processes = supervise();
let io: IoProcess;
let client: OpenAI;
let apiKey: string;
let newAgent: () => ScriptedAgent;

beforeAll(async () => {
  io = await IoProcess.start(processes, [
    "--disconnect-grace",
    "2s",
    "--lease",
    "6s",
    "--heartbeat",
    "10s",
    "--retry",
    "100ms,200ms",
  ]);
  const config = await io.publish([model]);
  const accountKey = await io.account("acme");
  apiKey = await io.apiKey("someone");
  client = new OpenAI({ baseURL: `${io.url}/v1`, apiKey, maxRetries: 0 });
  newAgent = () =>
    new ScriptedAgent({ url: io.url, root: io.root, account: "acme", accountKey, models: [model], config });
});
afterAll(() => processes.close());

/** A registered agent with an open session. */
async function connected(agent = newAgent()): Promise<AgentSession> {
  const { status } = await agent.register();
  expect(status).toBe(200);
  return agent.connect();
}

const plain = { model, messages: [{ role: "user" as const, content: "Hi" }] };
const streamed = { ...plain, stream: true as const };

describe("chat completions through the official client", () => {
  it("answers a plain request and keeps a receipt that both have signed", async () => {
    const session = await connected();
    const asked = client.chat.completions.create(plain).withResponse();
    const offer = await session.offer();
    expect(JSON.parse(offer.body ?? "")).toEqual(plain);
    session.answer(offer, JSON.stringify({ id: "x", choices: [{ message: { content: "Hello" } }] }));
    const { data, response } = await asked;
    expect(data.choices[0]?.message.content).toBe("Hello");
    expect(response.headers.get("x-request-id")).toBe(offer.job);

    const { payload } = await session.next("ack");
    expect(payload.results).toMatchObject([{ job: offer.job, attempt: 1, status: "committed" }]);
    const countersign = openCountersign(payload.results[0]?.receipt ?? "", session.challenge.serviceKey);
    expect(openReceipt(countersign.receipt, session.agent.key)).toMatchObject({
      job: offer.job,
      consumer: "someone",
    });
    await until("the state", async () => (await io.job(offer.job))["state"] === "CONFIRMED");
    session.drop();
  });

  it("passes a stream on as it comes, and [DONE] only after the result has been verified", async () => {
    const session = await connected();
    const stream = await startStream(session);
    session.chunk(stream.offer, 0, eventOf(stream.offer, "Hel"));
    expect(await stream.read()).toBe(eventOf(stream.offer, "Hel"));
    const rest = eventOf(stream.offer, "lo") + doneEvent;
    session.chunk(stream.offer, eventOf(stream.offer, "Hel").length, rest);
    expect(await stream.read()).toBe(eventOf(stream.offer, "lo"));
    session.send("result", session.agent.result(stream.offer, eventOf(stream.offer, "Hel") + rest));
    expect(await stream.read()).toBe(doneEvent);
    expect(await stream.read()).toBeUndefined();
    expect((await session.next("ack")).payload.results).toMatchObject([{ status: "committed" }]);
    session.drop();
  });

  it("serves many clients at once, half of them streamed", async () => {
    const sessions = await Promise.all([connected(), connected(), connected()]);
    for (const session of sessions) session.serve();
    const answers = await Promise.all(
      Array.from({ length: 60 }, async (_, at) => {
        if (at % 2 === 0) return (await client.chat.completions.create(plain)).choices[0]?.message.content;
        let text = "";
        for await (const part of await client.chat.completions.create(streamed))
          text += part.choices[0]?.delta.content ?? "";
        return text;
      }),
    );
    expect(new Set(answers)).toEqual(new Set(["Hello there"]));
    for (const session of sessions) session.drop();
  });
});

describe("a node that is lost", () => {
  it("before the first byte another answers, and the client notices nothing", async () => {
    const [first, second] = [await connected(), await connected()];
    const asked = client.chat.completions.create(plain);
    const { session, offer } = await offerTo([first, second]);
    const other = session === first ? second : first;
    session.drop();
    const again = await other.offer();
    expect(again).toMatchObject({ job: offer.job, attempt: 2, body: offer.body });
    expect(again.token).not.toBe(offer.token);
    other.answer(again, plainOf(again, "second"));
    expect((await asked).choices[0]?.message.content).toBe("second");
    other.drop();
  });

  it("F39 in mid-stream the client gets an error event and no [DONE], and nobody else is asked", async () => {
    const session = await connected();
    const stream = await startStream(session);
    session.chunk(stream.offer, 0, eventOf(stream.offer, "Hel"));
    expect(await stream.read()).toContain("Hel");
    session.drop();
    const other = await connected();
    const end = await stream.read();
    expect(JSON.parse(end?.replace(/^data: /, "") ?? "")).toMatchObject({ error: { code: "node_lost" } });
    expect(await stream.read()).toBeUndefined();
    expect((await stream.asked).headers.get("x-should-retry")).toBe("false");
    expect(other.waiting.filter(({ kind }) => kind === "offer")).toEqual([]);
    await until("the state", async () => (await io.job(stream.offer.job))["state"] === "INTERRUPTED");
    expect(await io.job(stream.offer.job)).toMatchObject({
      relayedBytes: Buffer.byteLength(eventOf(stream.offer, "Hel")),
    });
    other.drop();
  });

  it("the official client reports a stream that broke", async () => {
    const session = await connected();
    const asked = client.chat.completions.create(streamed);
    const offer = await session.offer();
    session.chunk(offer, 0, eventOf(offer, "Hel"));
    session.drop();
    const read = async () => {
      for await (const _part of await asked);
    };
    await expect(read()).rejects.toThrow(/lost/);
  });

  it("F40 whose session comes back goes on from the offset, and the client reads one stream", async () => {
    const session = await connected();
    const stream = await startStream(session);
    const events = ["Hel", "lo ", "there"].map((word) => eventOf(stream.offer, word));
    const output = events.join("") + doneEvent;
    const [first = ""] = events;
    session.chunk(stream.offer, 0, first);
    expect(await stream.read()).toBe(first);
    session.drop();
    const { job, attempt, token } = stream.offer;
    const back = await session.agent.connect([
      { job, attempt, token, next_offset: Buffer.byteLength(output), finished: true },
    ]);
    expect(back.verdict?.jobs).toEqual([{ job, attempt, action: "keep", offset: Buffer.byteLength(first) }]);
    back.chunk(stream.offer, Buffer.byteLength(first), output.slice(first.length));
    back.send("result", back.agent.result(stream.offer, output));
    let text = first;
    for (let piece = await stream.read(); piece !== undefined; piece = await stream.read()) text += piece;
    expect(text).toBe(output);
    expect((await back.next("ack")).payload.results).toMatchObject([{ status: "committed" }]);
    back.drop();
  });
});

describe("B34 a node that does not tell the truth", () => {
  it("whose hash differs is refused; another answers", async () => {
    const [first, second] = [await connected(), await connected()];
    const asked = client.chat.completions.create(plain);
    const { session, offer } = await offerTo([first, second]);
    session.answer(offer, plainOf(offer, "one"), { output_sha256: sha256("two") });
    expect((await session.next("ack")).payload.results).toMatchObject([
      { job: offer.job, status: "refused" },
    ]);
    const other = session === first ? second : first;
    const again = await other.offer();
    other.answer(again, plainOf(again, "two"));
    expect((await asked).choices[0]?.message.content).toBe("two");
    first.drop();
    second.drop();
  });

  it.each([
    [
      "by another key",
      (session: AgentSession, offer: Offer, output: string) => newAgentOf(session).receipt(offer, output),
    ],
    [
      "for another consumer",
      (session: AgentSession, offer: Offer, output: string) =>
        session.agent.receipt(offer, output, { consumer: "else" }),
    ],
    ["over other output", (session: AgentSession, offer: Offer) => session.agent.receipt(offer, "other")],
    [
      "over other input",
      (session: AgentSession, offer: Offer, output: string) =>
        session.agent.receipt(offer, output, { input_sha256: sha256("x") }),
    ],
  ])("with a receipt %s commits nothing, and the stream does not get its [DONE]", async (_what, receipt) => {
    const session = await connected();
    const stream = await startStream(session);
    const output = eventOf(stream.offer, "Hello") + doneEvent;
    session.answer(stream.offer, output, { receipt: receipt(session, stream.offer, output) });
    expect((await session.next("ack")).payload.results).toMatchObject([{ status: "refused" }]);
    let text = "";
    for (let piece = await stream.read(); piece !== undefined; piece = await stream.read()) text += piece;
    expect(text).not.toContain("[DONE]");
    expect(text).toContain('"code":"node_lost"');
    session.drop();
  });

  it("claims more tokens than bytes were relayed: what counts is bounded", async () => {
    const session = await connected();
    const asked = client.chat.completions.create(plain);
    const offer = await session.offer();
    const output = plainOf(offer, "Hi");
    session.answer(offer, output, { usage: { prompt_tokens: 1_000_000, completion_tokens: 1_000_000 } });
    await asked;
    const receipt = (await session.next("ack")).payload.results[0]?.receipt ?? "";
    const { metered } = openCountersign(receipt, session.challenge.serviceKey);
    expect(metered.completion_tokens).toBe(Buffer.byteLength(output));
    expect(metered.prompt_tokens).toBeLessThan(10_000);
    session.drop();
  });
});

describe("what the engine says", () => {
  it("a 4xx is the client's to see, also where a stream was asked for", async () => {
    const session = await connected();
    const asked = client.chat.completions.create(streamed);
    const offer = await session.offer();
    session.answer(
      offer,
      JSON.stringify({ error: { message: "context too long", code: "context_length" } }),
      { status: 400 },
    );
    await expect(asked).rejects.toMatchObject({ status: 400, code: "context_length" });
    session.drop();
  });

  it("an engine that breaks off in mid-stream: error event, no [DONE], INTERRUPTED, and the receipt stands", async () => {
    const session = await connected();
    const stream = await startStream(session);
    const output = eventOf(stream.offer, "Hel");
    session.answer(stream.offer, output, { outcome: "failed" });
    let text = "";
    for (let piece = await stream.read(); piece !== undefined; piece = await stream.read()) text += piece;
    expect(text).toContain('"code":"node_lost"');
    expect(text).not.toContain("[DONE]");
    expect((await session.next("ack")).payload.results).toMatchObject([{ status: "committed" }]);
    expect(await io.job(stream.offer.job)).toMatchObject({
      state: "INTERRUPTED",
      outcome: "failed",
      relayedBytes: Buffer.byteLength(output),
      receipt: { job: stream.offer.job },
    });
    session.drop();
  });

  it("E_BUSY is tried again without the client noticing", async () => {
    const session = await connected();
    const asked = client.chat.completions.create(plain);
    const offer = await session.offer();
    session.send("nack", { ...leaseOf(offer), code: "E_BUSY", reason: "draining" });
    const again = await session.offer();
    expect(again).toMatchObject({ job: offer.job, attempt: 2 });
    session.answer(again, plainOf(again, "done"));
    expect((await asked).choices[0]?.message.content).toBe("done");
    session.drop();
  });

  it("F35 E_ENGINE three times is DEAD, with the reasons of all three", async () => {
    const session = await connected();
    const asked = client.chat.completions.create(plain).then(
      () => undefined,
      (error: unknown) => error,
    );
    let job = "";
    for (let attempt = 1; attempt <= 3; attempt++) {
      const offer = await session.offer();
      job = offer.job;
      session.send("nack", { ...leaseOf(offer), code: "E_ENGINE", reason: `crash ${attempt}` });
    }
    expect(await asked).toMatchObject({ status: 502, code: "job_failed" });
    await until("the state", async () => (await io.job(job))["state"] === "DEAD");
    for (const attempt of [1, 2, 3]) expect((await io.job(job))["error"]).toContain(`crash ${attempt}`);
    session.drop();
  });
});

describe("B30 requests that are refused", () => {
  const post = (body: string | Uint8Array, headers: Record<string, string> = {}) =>
    fetch(`${io.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json", ...headers },
      body,
    });
  const json = (change: object) => JSON.stringify({ ...plain, ...change });

  it.each([
    ["an unknown model", json({ model: "nobody/has-it" }), 404, "model_not_found", "model"],
    ["no model", JSON.stringify({ messages: [] }), 400, "missing_required_parameter", "model"],
    ["n = 1000", json({ n: 1000 }), 400, "invalid_value", "n"],
    ["negative max_tokens", json({ max_tokens: -1 }), 400, "invalid_value", "max_tokens"],
    ["huge max_tokens", '{"model":"m","max_tokens":1e400}', 400, "invalid_value", "max_tokens"],
    ["stream that is no boolean", json({ stream: "yes" }), 400, "invalid_value", "stream"],
    ["no JSON", "{", 400, "invalid_json", null],
    ["a list", "[]", 400, "invalid_json", null],
    ["a key twice", '{"model":"a","model":"b"}', 400, "invalid_json", null],
    ["JSON nested 200,000 deep", "[".repeat(150_000), 400, "invalid_json", null],
    ["an empty body", "", 400, "invalid_json", null],
    ["40 MiB", json({ pad: "x".repeat(40 * 1024 * 1024) }), 413, "request_too_large", null],
  ])("%s", async (_what, body, status, code, param) => {
    const answer = await post(body);
    expect(answer.status).toBe(status);
    expect(await answer.json()).toMatchObject({ error: { code, param, message: expect.any(String) } });
  });

  it("invalid UTF-8", async () => {
    const answer = await post(
      Buffer.concat([Buffer.from('{"model":"'), Buffer.from([0xff, 0xfe]), Buffer.from('"}')]),
    );
    expect(answer.status).toBe(400);
  });

  it("another content type", async () => {
    const answer = await post(json({}), { "content-type": "text/plain" });
    expect(answer.status).toBe(415);
    expect(await answer.json()).toMatchObject({ error: { code: "unsupported_media_type" } });
  });

  it.each([undefined, "Bearer rk-wrong-key", "Basic abc"])("authorization %s", async (authorization) => {
    const answer = await fetch(
      `${io.url}/v1/models`,
      authorization === undefined ? {} : { headers: { authorization } },
    );
    expect(answer.status).toBe(401);
    expect(await answer.json()).toMatchObject({ error: { code: "invalid_api_key" } });
  });

  it("a client that goes is noticed: its job is cancelled after 3 s", async () => {
    const session = await connected();
    const abort = new AbortController();
    const asked = client.chat.completions.create(streamed, { signal: abort.signal }).catch(() => undefined);
    const offer = await session.offer();
    const started = performance.now();
    abort.abort();
    await asked;
    expect((await session.next("cancel")).payload).toMatchObject({ job: offer.job, attempt: 1 });
    expect(performance.now() - started).toBeGreaterThan(2_500);
    await until("the state", async () => (await io.job(offer.job))["state"] === "CANCELLED");
    session.drop();
  });

  it("lists the models of the published config", async () => {
    expect((await client.models.list()).data.map(({ id }) => id)).toEqual([model]);
  });
});

/** The first of several sessions that gets an offer. */
async function offerTo(sessions: readonly AgentSession[]): Promise<{ session: AgentSession; offer: Offer }> {
  const session = await until("an offer", () =>
    sessions.find(({ waiting }) => waiting.some(({ kind }) => kind === "offer")),
  );
  return { session, offer: await session.offer() };
}

/** A stranger who makes receipts in the name of a session's agent. */
function newAgentOf({ agent }: AgentSession): ScriptedAgent {
  const stranger = new ScriptedAgent(agent.setting);
  return Object.assign(stranger, { nodeId: agent.nodeId });
}

/** Begins a streamed request that reaches the session's node; `read` gives the client's bytes piece by piece. */
async function startStream(session: AgentSession) {
  const asked = fetch(`${io.url}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json" },
    body: JSON.stringify(streamed),
  });
  const offer = await session.offer();
  let reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  return {
    offer,
    asked,
    async read(): Promise<string | undefined> {
      reader ??= (await asked).body?.getReader();
      const piece = await reader?.read();
      return piece?.value === undefined ? undefined : Buffer.from(piece.value).toString();
    },
  };
}
