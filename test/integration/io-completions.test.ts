import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openCountersign, openReceipt } from "../../src/protocol/receipt.ts";
import { type AgentSession, doneEvent, eventOf, ScriptedAgent } from "../io/fixture/agent.ts";
import { IoProcess } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const model = "demo/model";
const processes = supervise();
let io: IoProcess;
let client: OpenAI;
let apiKey: string;
let newAgent: () => ScriptedAgent;

beforeAll(async () => {
  io = await IoProcess.start(processes, ["--disconnect-grace", "1s", "--lease", "3s", "--heartbeat", "10s"]);
  const config = io.publish([model]);
  const accountKey = io.account("acme");
  apiKey = io.apiKey("someone");
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
    expect(JSON.parse(offer.body)).toEqual(plain);
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
    await until("the state", () => io.job(offer.job)["state"] === "CONFIRMED");
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
