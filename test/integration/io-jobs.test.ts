import { existsSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { type AgentSession, leaseOf, plainOf, ScriptedAgent } from "../io/fixture/agent.ts";
import { JobsClient, type ShownJob } from "../io/fixture/jobs-client.ts";
import { io as ioCommand, ioDone, IoProcess } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/** Asynchronous jobs on a real service that is killed, with nodes whose every frame the test decides. */
const model = "m";
const processes = supervise();
let io: IoProcess;
let client: JobsClient;
let stranger: JobsClient;
let config: ConfigDigest;
let newAgent: () => ScriptedAgent;

beforeAll(async () => {
  io = await IoProcess.start(processes, ["--retry", "10ms", "--restore-grace", "30s"]);
  config = await io.publish([model]);
  const accountKey = await io.account("acme");
  client = new JobsClient(io.url, await io.apiKey("someone"));
  stranger = new JobsClient(io.url, await io.apiKey("stranger"));
  newAgent = () =>
    new ScriptedAgent({ url: io.url, root: io.root, account: "acme", accountKey, models: [model], config });
});
afterAll(() => processes.close());

const sessions: AgentSession[] = [];
// A test that fails leaves no node that would take the next one's jobs, and no jobs.
afterEach(async ({ task }) => {
  for (const session of sessions.splice(0)) session.drop();
  if (task.result?.state !== "fail" || !io.child?.running()) return;
  for (const { id, finished_at } of (await client.list("?limit=100")).body.data)
    if (finished_at === null) await client.cancel(id);
});

async function connected(agent = newAgent()): Promise<AgentSession> {
  await agent.register();
  const session = await agent.connect();
  sessions.push(session);
  return session;
}

const ask = (content: string) => ({ model, messages: [{ role: "user", content }] });

async function submitted(content = "Hi", idempotencyKey?: string): Promise<ShownJob> {
  const answer = await client.submit(ask(content), idempotencyKey === undefined ? {} : { idempotencyKey });
  expect(answer.status).toBe(202);
  return answer.body;
}

async function ended(id: string): Promise<ShownJob> {
  return until(
    `the end of ${id}`,
    async () => {
      const { body } = await client.job(id);
      return body.finished_at === null ? undefined : body;
    },
    { intervalMs: 20 },
  );
}

async function content(id: string): Promise<string | undefined> {
  return (await client.result(id)).body.choices?.[0]?.message.content;
}

/** kill -9 of the service, and its next start. */
async function restart(session?: AgentSession): Promise<void> {
  await io.kill();
  await session?.socket.close();
  await io.serve();
}

describe("an asynchronous job", () => {
  it("is taken with 202, done by a node that keeps its result, and answered whenever it is asked for", async () => {
    const answer = await client.submit(ask("Hi"), { prefer: "wait=5, Respond-Async" });
    const { id } = answer.body;
    expect(answer.status).toBe(202);
    expect(answer.headers.get("location")).toBe(`/v1/jobs/${id}`);
    expect(answer.headers.get("preference-applied")).toBe("respond-async");
    expect(answer.body).toMatchObject({ object: "job", status: "queued", model, finished_at: null });
    expect((await client.result(id)).body.error?.code).toBe("job_not_finished");

    const session = await connected();
    const offer = await session.offer();
    expect(offer).toMatchObject({ job: id, attempt: 1, durable: true, stream: false });
    expect(JSON.parse(offer.body ?? "")).toEqual(ask("Hi"));
    expect((await client.job(id)).body.status).toBe("in_progress");
    session.answer(offer, plainOf(offer, "there"));
    const job = await ended(id);
    expect(job).toMatchObject({ status: "completed", error: null, usage: { completion_tokens: 2 } });
    const result = await client.result(id);
    expect([result.status, result.headers.get("x-request-id")]).toEqual([200, id]);
    expect(result.body).toEqual(JSON.parse(plainOf(offer, "there")));
    expect((await session.next("ack")).payload.results).toMatchObject([{ job: id, status: "committed" }]);
    await until("the confirmation", async () => (await io.job(id))["state"] === "CONFIRMED");
    expect(await io.job(id)).toMatchObject({ mode: "async", outcome: "completed", httpStatus: 200 });
    expect(await ioDone("jobs", "list", "--data", io.data)).toMatch(new RegExp(`${id} +CONFIRMED +async`));
    session.drop();
  });

  it("is nobody's but its consumer's", async () => {
    const { id } = await submitted();
    for (const answer of [await stranger.job(id), await stranger.result(id), await stranger.cancel(id)])
      expect([answer.status, answer.body.error?.code]).toEqual([404, "job_not_found"]);
    expect((await stranger.list()).body.data).toEqual([]);
    expect((await stranger.job("../../etc/passwd")).status).toBe(404);
    expect((await client.job("job-that-never-was")).status).toBe(404);
    expect((await new JobsClient(io.url, "rk-unknown-key").job(id)).status).toBe(401);
    expect((await client.cancel(id)).body.status).toBe("cancelled");
  });

  it("is listed page by page, newest first", async () => {
    const made = [];
    for (let at = 0; at < 5; at++) made.unshift((await submitted()).id);
    const first = (await client.list("?limit=3")).body;
    const second = (await client.list(`?limit=2&after=${first.data[2]?.id ?? ""}`)).body;
    const seen = [...first.data, ...second.data].map(({ id }) => id);
    expect(new Set(seen)).toEqual(new Set(made));
    expect(first).toMatchObject({ object: "list", has_more: true, first_id: seen[0], last_id: seen[2] });
    for (const query of ["?limit=x", "?after=no/id", "?limit=10000"])
      expect([400, 200]).toContain((await client.list(query)).status);
    expect((await client.list("?limit=100000")).status).toBe(400);
    for (const id of made) await client.cancel(id);
  });

  it("is cancelled, waiting or running; its node is told, and its late result is refused", async () => {
    const waiting = await submitted();
    expect((await client.cancel(waiting.id)).body).toMatchObject({
      status: "cancelled",
      error: { code: "job_cancelled" },
    });
    const session = await connected();
    const { id } = await submitted();
    const offer = await session.offer();
    expect((await client.cancel(id)).body.status).toBe("cancelled");
    expect((await session.next("cancel")).payload).toMatchObject({ job: id, attempt: 1 });
    session.answer(offer, plainOf(offer, "late"));
    expect((await session.next("ack")).payload.results).toMatchObject([{ job: id, status: "stale" }]);
    expect((await client.cancel(id)).body.status).toBe("cancelled");
    const result = await client.result(id);
    expect([result.status, result.body.error?.code]).toEqual([409, "job_cancelled"]);
    session.drop();
  });

  it("F35 fails after three attempts, with the reasons of all three for those who run the service", async () => {
    const session = await connected();
    const { id } = await submitted();
    for (let attempt = 1; attempt <= 3; attempt++) {
      const offer = await session.offer();
      session.send("nack", { ...leaseOf(offer), code: "E_ENGINE", reason: "cuda" });
    }
    expect(await ended(id)).toMatchObject({ status: "failed", error: { code: "job_failed" } });
    const result = await client.result(id);
    expect([result.status, result.body.error?.code]).toEqual([502, "job_failed"]);
    const { state, error } = await io.job(id);
    expect(state).toBe("DEAD");
    for (const attempt of [1, 2, 3]) expect(error).toContain(`attempt ${attempt} on`);
    session.drop();
  });

  it("whose engine refuses it has that answer as its result", async () => {
    const session = await connected();
    const { id } = await submitted();
    const offer = await session.offer();
    const refusal = JSON.stringify({ error: { message: "too long", type: "x", param: null, code: null } });
    session.answer(offer, refusal, { status: 400 });
    expect(await ended(id)).toMatchObject({ status: "failed", error: { code: "engine_refused" } });
    expect(await client.result(id)).toMatchObject({ status: 400, body: JSON.parse(refusal) });
    session.drop();
  });

  it("B30 is refused as a request is: stream, model, body, idempotency key", async () => {
    const refusals = [
      [await client.submit({ ...ask("x"), stream: true }), 400, "invalid_value"],
      [await client.submit({ ...ask("x"), model: "other" }), 404, "model_not_found"],
      [await client.submit({ ...ask("x"), n: -1 }), 400, "invalid_value"],
      [await client.submit(ask("x"), { idempotencyKey: "k".repeat(256) }), 400, "invalid_value"],
    ] as const;
    for (const [answer, status, code] of refusals)
      expect([answer.status, answer.body.error?.code]).toEqual([status, code]);
    expect((await client.list()).body.data.every(({ finished_at }) => finished_at !== null)).toBe(true);
  });

  it("is the same job for the same idempotency key, at once, later and after a restart; another body is refused", async () => {
    const answers = await Promise.all(
      Array.from({ length: 8 }, () => client.submit(ask("once"), { idempotencyKey: "one" })),
    );
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 202));
    const [id] = new Set(answers.map(({ body }) => body.id));
    expect(new Set(answers.map(({ body }) => body.id)).size).toBe(1);
    await restart();
    expect((await submitted("once", "one")).id).toBe(id);
    const other = await client.submit(ask("twice"), { idempotencyKey: "one" });
    expect([other.status, other.body.error?.code]).toEqual([409, "idempotency_key_reused"]);
    const theirs = await stranger.submit(ask("twice"), { idempotencyKey: "one" });
    expect(theirs.status).toBe(202);
    expect(theirs.body.id).not.toBe(id);
    await stranger.cancel(theirs.body.id);
    const session = await connected();
    const offer = await session.offer();
    session.answer(offer, plainOf(offer, "done"));
    await ended(id ?? "");
    expect(await submitted("once", "one")).toMatchObject({ id, status: "completed" });
    session.drop();
  });
});

describe("the service is killed with SIGKILL", () => {
  it("F28 right after its 202: the job is done by the next process, for a client that polls on", async () => {
    const { id } = await submitted("after 202");
    await restart();
    expect((await client.job(id)).body.status).toBe("queued");
    const session = await connected();
    const offer = await session.offer();
    expect(offer).toMatchObject({ job: id, attempt: 1 });
    expect(JSON.parse(offer.body ?? "")).toEqual(ask("after 202"));
    session.answer(offer, plainOf(offer, "x"));
    expect((await ended(id)).status).toBe("completed");
    session.drop();
  });

  it.each(["offered", "running"])(
    "F28 while the job is %s: its node resumes the same attempt",
    async (at) => {
      const session = await connected();
      const { id } = await submitted();
      const offer = await session.offer();
      const output = plainOf(offer, "the whole answer");
      if (at === "running") {
        session.chunk(offer, 0, output.slice(0, 20));
        await until("the chunk", async () => (await io.job(id))["state"] === "RUNNING");
      }
      await restart(session);
      expect((await client.job(id)).body.status).toBe("in_progress");
      const back = await session.agent.connect([{ ...leaseOf(offer), next_offset: 20, finished: false }]);
      expect(back.verdict?.jobs).toEqual([{ job: id, attempt: 1, action: "keep", offset: 0 }]);
      back.answer(offer, output);
      expect((await back.next("ack")).payload.results).toMatchObject([{ job: id, status: "committed" }]);
      expect(await ended(id)).toMatchObject({ status: "completed" });
      expect(await content(id)).toBe("the whole answer");
      expect(await io.job(id)).toMatchObject({ attempt: 1 });
      back.drop();
    },
  );

  it("F28 between commit and ack, at whatever moment: one commit, and the receipt reaches the node", async () => {
    let session = await connected();
    for (const delay of [0, 1, 2, 4, 8]) {
      const { id } = await submitted(`delay ${delay}`);
      const offer = await session.offer();
      const output = plainOf(offer, `answer ${delay}`);
      session.answer(offer, output);
      await new Promise((resolve) => setTimeout(resolve, delay));
      await restart(session);
      const back = await session.agent.connect([{ ...leaseOf(offer), next_offset: 9, finished: true }]);
      const [verdict] = back.verdict?.jobs ?? [];
      if (verdict?.action === "keep") {
        expect(verdict.offset).toBe(0);
        back.answer(offer, output);
        const [acked] = (await back.next("ack")).payload.results;
        expect(acked).toMatchObject({ job: id, attempt: 1, status: "committed" });
        expect((await io.job(id))["receipt"]).toMatchObject({ countersign: acked?.receipt });
      } else {
        expect(verdict).toMatchObject({ action: "committed" });
        expect((await io.job(id))["receipt"]).toMatchObject({ countersign: verdict?.receipt });
      }
      expect(await ended(id)).toMatchObject({ status: "completed" });
      expect(await content(id)).toBe(`answer ${delay}`);
      expect(await io.job(id)).toMatchObject({
        attempt: 1,
        state: expect.stringMatching(/COMMITTED|CONFIRMED/),
      });
      session = back;
    }
    session.drop();
    await chainIsWhole();
  });

  it("F28 and its node lost what it was doing: another attempt, another node's result is refused", async () => {
    const session = await connected();
    const { id } = await submitted();
    const first = await session.offer();
    await restart(session);
    const other = await connected();
    const back = await session.agent.connect();
    const again = await Promise.race([other.offer(), back.offer()]);
    expect(again).toMatchObject({ job: id, attempt: 2 });
    const late = other.waiting.length > 0 ? other : back;
    late.answer(first, plainOf(first, "late"));
    expect((await late.next("ack")).payload.results).toMatchObject([{ status: "stale" }]);
    for (const each of [other, back]) each.serve();
    for (const each of [other, back]) each.answer(again, plainOf(again, "second"));
    expect(await ended(id)).toMatchObject({ status: "completed" });
    expect(await content(id)).toBe("second");
    other.drop();
    back.drop();
  });

  it("F30 acks dropped: the result comes again and again, and has one effect", async () => {
    let session = await connected();
    const { id } = await submitted();
    const offer = await session.offer();
    const output = plainOf(offer, "once");
    session.answer(offer, output);
    const { payload } = await session.next("ack");
    for (let again = 0; again < 3; again++) {
      session.send("result", session.agent.result(offer, output));
      expect((await session.next("ack")).payload.results).toEqual(payload.results);
    }
    session.drop();
    await until("the end of the session", async () => (await io.nodes()).every((node) => !node.connected));
    session = await session.agent.connect([{ ...leaseOf(offer), next_offset: 9, finished: true }]);
    expect(session.verdict?.jobs).toEqual([
      { job: id, attempt: 1, action: "committed", offset: 0, receipt: payload.results[0]?.receipt },
    ]);
    const node = (await io.nodes()).find((each) => each.id === session.agent.nodeId);
    expect(node?.committed).toBe(1);
    await chainIsWhole();
    session.drop();
  });

  it("SIGTERM does not wait for asynchronous jobs: they go on with the next process", async () => {
    const session = await connected();
    const { id } = await submitted();
    const offer = await session.offer();
    const begun = performance.now();
    io.child?.signal("SIGTERM");
    expect(await io.child?.exited).toMatchObject({ code: 0 });
    expect(performance.now() - begun).toBeLessThan(10_000);
    await session.socket.close();
    await io.serve();
    const back = await session.agent.connect([{ ...leaseOf(offer), next_offset: 0, finished: false }]);
    back.answer(offer, plainOf(offer, "after"));
    expect(await ended(id)).toMatchObject({ status: "completed" });
    back.drop();
  });
});

async function chainIsWhole(): Promise<void> {
  const chain = join(io.folder, "chain");
  writeFileSync(chain, await ioDone("receipts", "export", "acme", "--data", io.data));
  expect(await ioDone("receipts", "verify", chain, "--data", io.data)).toContain("the chain is whole");
}

/** Names of files in the data folder, and the service's log, that contain a text. */
function filesWith(text: string): string[] {
  const files = readdirSync(io.data, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
  return [...files, io.logFile].filter((file) => readFileSync(file).includes(text));
}

describe("the store cannot be written", () => {
  it("F37 a job is not taken before it is on the disk; meanwhile others get 503; what was taken goes on after", async () => {
    const session = await connected();
    const running = await submitted();
    const offer = await session.offer();
    const lock = new DatabaseSync(join(io.data, "io.db"));
    lock.exec("BEGIN IMMEDIATE");
    let taken = false;
    const waiting = client.submit(ask("patient")).then((answer) => {
      taken = true;
      return answer;
    });
    session.answer(offer, plainOf(offer, "x"));
    await until("the service to notice", async () => (await fetch(`${io.url}/healthz`)).status === 503);
    const refused = [await client.submit(ask("x")), await client.cancel(running.id)];
    expect(refused.map(({ status }) => status)).toEqual([503, 503]);
    expect(refused[0]?.headers.get("retry-after")).not.toBeNull();
    // Neither the client nor the node is told of what is not on the disk.
    expect((await client.job(running.id)).body.status).toBe("in_progress");
    expect(session.waiting.filter(({ kind }) => kind === "ack")).toEqual([]);
    expect(taken).toBe(false);
    lock.exec("ROLLBACK");
    lock.close();
    expect((await waiting).status).toBe(202);
    expect((await session.next("ack")).payload.results).toMatchObject([
      { job: running.id, status: "committed" },
    ]);
    expect((await ended(running.id)).status).toBe("completed");
    const second = await session.offer();
    expect(second.job).toBe((await waiting).body.id);
    session.answer(second, plainOf(second, "y"));
    expect((await ended(second.job)).status).toBe("completed");
    session.drop();
  });
});

describe("what lies on the disk", () => {
  it("holds neither prompt nor answer in the clear, and neither does the log", async () => {
    const session = await connected();
    const [prompt, answer] = ["sequoia-prompt-marker", "baobab-answer-marker"];
    const waits = await client.submit({ ...ask(prompt), user: prompt });
    const offer = await session.offer();
    session.answer(offer, plainOf(offer, answer));
    await ended(waits.body.id);
    session.drop();
    const queued = await submitted(prompt, prompt);
    expect(filesWith(queued.id).length).toBeGreaterThan(0);
    expect([...filesWith(prompt), ...filesWith(answer)]).toEqual([]);
    await restart();
    expect([...filesWith(prompt), ...filesWith(answer)]).toEqual([]);
    expect(await content(waits.body.id)).toBe(answer);
    await client.cancel(queued.id);
  });

  it("is not opened with another key: the service says which file it wants, and starts again with it", async () => {
    const key = join(io.data, "data.key");
    expect(existsSync(key)).toBe(true);
    await io.child?.stop();
    renameSync(key, `${key}.away`);
    await expect(io.serve()).rejects.toThrow();
    expect(await io.child?.exited).toMatchObject({ code: 1 });
    expect(io.log).toContain("put back the file data.key");
    renameSync(`${key}.away`, key);
    await io.serve();
    const help = await ioCommand("jobs", "list", "--data", io.data);
    expect(help.code).toBe(0);
  });
});

describe("bounds", () => {
  it("so many jobs and bytes of a consumer and no more, with 429; and one that finds no node in its life expires", async () => {
    await io.child?.stop();
    const small = await IoProcess.start(processes, [
      "--max-async-jobs",
      "4",
      "--max-async-bytes",
      "100000",
      "--async-timeout",
      "4s",
    ]);
    await small.publish([model]);
    const mine = new JobsClient(small.url, await small.apiKey("someone"));
    const theirs = new JobsClient(small.url, await small.apiKey("other"));
    const answers = [];
    for (let at = 0; at < 4; at++) answers.push(await mine.submit(ask("x")));
    expect(answers.map(({ status }) => status)).toEqual([202, 202, 429, 429]);
    expect(answers[2]?.headers.get("retry-after")).not.toBeNull();
    expect((await theirs.submit(ask("x".repeat(51_000)))).body.error?.code).toBe("too_many_jobs");
    expect((await theirs.submit(ask("x"))).status).toBe(202);
    const { id } = answers[0]?.body ?? { id: "" };
    const job = await until("the end", async () => {
      const { body } = await mine.job(id);
      return body.finished_at === null ? undefined : body;
    });
    expect(job).toMatchObject({ status: "expired", error: { code: "no_capacity" } });
    expect((await mine.result(id)).status).toBe(503);
    expect((await mine.submit(ask("x"))).status).toBe(202);
  });
});
