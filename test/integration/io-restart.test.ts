import { writeFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { type AgentSession, eventOf, leaseOf, plainOf, ScriptedAgent } from "../io/fixture/agent.ts";
import { ioDone, IoProcess } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const model = "m";
const processes = supervise();
let io: IoProcess;
let client: OpenAI;
let config: ConfigDigest;
let newAgent: () => ScriptedAgent;

beforeAll(async () => {
  io = await IoProcess.start(processes);
  config = await io.publish([model]);
  const accountKey = await io.account("acme");
  client = new OpenAI({ baseURL: `${io.url}/v1`, apiKey: await io.apiKey("someone"), maxRetries: 0 });
  newAgent = () =>
    new ScriptedAgent({ url: io.url, root: io.root, account: "acme", accountKey, models: [model], config });
});
afterAll(() => processes.close());

async function connected(agent = newAgent()): Promise<AgentSession> {
  await agent.register();
  return agent.connect();
}

const plain = { model, messages: [{ role: "user" as const, content: "Hi" }] };

describe("the service is killed with SIGKILL", () => {
  it("F28 after the commit: the node's result again gets the same ack, and there is one commit", async () => {
    const session = await connected();
    const asked = client.chat.completions.create(plain);
    const offer = await session.offer();
    session.answer(offer, plainOf(offer, "x"));
    await asked;
    const { payload } = await session.next("ack");
    await io.kill();
    await session.socket.close();
    await io.serve();

    const back = await session.agent.connect([{ ...leaseOf(offer), next_offset: 10, finished: true }]);
    expect(back.verdict?.jobs).toMatchObject([{ job: offer.job, action: "committed" }]);
    back.send("result", back.agent.result(offer, plainOf(offer, "x")));
    expect((await back.next("ack")).payload.results).toEqual(payload.results);
    expect(await io.job(offer.job)).toMatchObject({ attempt: 1, outcome: "completed" });
    expect(back.ready.epoch).toBe(session.ready.epoch + 1);
    back.drop();
  });

  it("in the middle of jobs: they are CANCELLED, their clients see a cut connection, the node is told", async () => {
    const session = await connected();
    const [one, two] = [
      client.chat.completions.create(plain),
      client.chat.completions.create({ ...plain, stream: true }),
    ];
    const outcomes = Promise.allSettled([
      one,
      (async () => {
        for await (const _part of await two);
      })(),
    ]);
    const offers = [await session.offer(), await session.offer()];
    const streamed = offers.find(({ stream }) => stream);
    if (streamed) session.chunk(streamed, 0, eventOf(streamed, "Hel"));
    await until("the jobs on the disk", async () => {
      const states = await io.states();
      return offers.every(({ job }) => states.has(job));
    });
    await io.kill();
    expect((await outcomes).map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    await io.serve();
    for (const { job } of offers) expect(await io.job(job)).toMatchObject({ state: "CANCELLED" });
    const back = await session.agent.connect(
      offers.map((offer) => ({ ...leaseOf(offer), next_offset: 5, finished: true })),
    );
    expect(back.verdict?.jobs.map(({ action }) => action)).toEqual(["cancel", "cancel"]);
    for (const offer of offers) back.answer(offer, plainOf(offer, "late"));
    expect((await back.next("ack")).payload.results[0]).toMatchObject({ status: "stale" });
    for (const { job } of offers) expect(await io.job(job)).toMatchObject({ state: "CANCELLED" });
    // And the service goes on working.
    const asked = client.chat.completions.create(plain);
    const offer = await back.offer();
    back.answer(offer, plainOf(offer, "fresh"));
    expect((await asked).choices[0]?.message.content).toBe("fresh");
    back.drop();
  });

  it("keeps the chain of receipts whole over restarts under load", async () => {
    const agent = newAgent();
    let session = await connected(agent);
    session.serve();
    for (let round = 0; round < 3; round++) {
      const asked = Array.from({ length: 40 }, () => client.chat.completions.create(plain));
      await Promise.race(asked);
      await io.kill();
      await Promise.allSettled(asked);
      await session.socket.close();
      await io.serve();
      session = await connected(agent);
      session.serve();
    }
    await client.chat.completions.create(plain);
    const chain = join(io.folder, "chain");
    writeFileSync(chain, await ioDone("receipts", "export", "acme", "--data", io.data));
    expect(await ioDone("receipts", "verify", chain, "--data", io.data)).toContain("the chain is whole");
    session.drop();
  });
});

describe("SIGTERM", () => {
  it("lets running requests finish, refuses new ones, closes sessions with 1012 and exits 0", async () => {
    const session = await connected();
    const asked = client.chat.completions.create(plain);
    const offer = await session.offer();
    io.child?.signal("SIGTERM");
    await until("the refusal of new requests", async () => (await fetch(`${io.url}/healthz`)).status === 503);
    await expect(client.chat.completions.create(plain)).rejects.toMatchObject({ status: 503 });
    session.answer(offer, plainOf(offer, "last"));
    expect((await asked).choices[0]?.message.content).toBe("last");
    expect((await session.socket.close()).code).toBe(1012);
    expect(await io.child?.exited).toMatchObject({ code: 0 });
    await io.serve();
    expect(await io.job(offer.job)).toMatchObject({ outcome: "completed" });
  });
});
