import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, describe, expect, it } from "vitest";
import { databasePath } from "../../src/io/admin/data-folder.ts";
import { CloseCode } from "../../src/protocol/codes.ts";
import { answerTo, type Offer, ScriptedAgent } from "../io/fixture/agent.ts";
import { JobsClient } from "../io/fixture/jobs-client.ts";
import { ioDone, IoProcess } from "../io/fixture/network.ts";
import { smallDisk } from "../lib/small-disk.ts";
import { supervise, type Supervisor } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/** A real service whose disk refuses for a while. */
const processes = supervise();
afterAll(() => processes.close());

const model = "m";
const request = { model, messages: [{ role: "user" as const, content: "Hi" }] };

/** A way to take a service's disk from it and to give it back. */
interface Outage {
  readonly begin: () => void | Promise<void>;
  readonly end: () => void | Promise<void>;
}

/** Every write and sync of the database fails with EIO: strace takes the calls' place in the running process. */
function ioErrors(io: IoProcess): Outage {
  const db = databasePath(io.data);
  let strace: ChildProcess | undefined;
  return {
    begin: async () => {
      const { pid } = io.child ?? {};
      const calls = "pwrite64,fsync,fdatasync";
      const paths = [db, `${db}-wal`].flatMap((path) => ["-P", path]);
      strace = spawn(
        "strace",
        ["-f", "-p", String(pid), ...paths, "-e", `trace=${calls}`, "-e", `inject=${calls}:error=EIO`],
        { stdio: ["ignore", "ignore", "pipe"] },
      );
      let said = "";
      strace.stderr?.on("data", (part: Buffer) => (said += part.toString()));
      await until("strace", () => said.includes("attached"), {
        giveUp: () => {
          if (strace?.exitCode !== null) throw new Error(said);
        },
      });
    },
    end: () => void strace?.kill("SIGTERM"),
  };
}

/** A supervisor whose first folder has its `data` on another disk; {@link IoProcess} is none the wiser. */
function withDataOn(disk: string): Supervisor {
  const folder = (name: string) => {
    const path = processes.folder(name);
    mkdirSync(join(disk, "data"));
    symlinkSync(join(disk, "data"), join(path, "data"));
    return path;
  };
  return { ...processes, folder };
}

describe.each([
  [
    "the disk answers EIO",
    async () => {
      const io = await IoProcess.start(processes);
      return { io, outage: ioErrors(io) };
    },
  ],
  [
    "the disk is full",
    async () => {
      const { folder, fill, free } = smallDisk(processes, 4);
      return { io: await IoProcess.start(withDataOn(folder)), outage: { begin: fill, end: free } };
    },
  ],
])("F37 the store is away: %s", (_how, start) => {
  it("sessions get 1013, requests 503 with Retry-After, nothing that was acknowledged is lost, and it goes on by itself", async () => {
    const { io, outage } = await start();
    const config = await io.publish([model]);
    const accountKey = await io.account("acme");
    const newAgent = () =>
      new ScriptedAgent({ url: io.url, root: io.root, account: "acme", accountKey, models: [model], config });
    const client = new OpenAI({
      baseURL: `${io.url}/v1`,
      apiKey: await io.apiKey("someone"),
      maxRetries: 0,
    });
    const later = new JobsClient(io.url, await io.apiKey("later"));
    const agent = newAgent();
    await agent.register();
    const session = await agent.connect();
    const held: Offer[] = [];
    let holding = false;
    const answer = (offer: Offer) => session.answer(offer, answerTo(offer));
    session.serve((offer) => (holding ? held.push(offer) : answer(offer)));
    const beating = setInterval(() => session.heartbeat(), 2_000);
    session.socket.ws.once("close", () => clearInterval(beating));
    const complete = async () => {
      const { response } = await client.chat.completions.create(request).withResponse();
      return response.headers.get("x-request-id") ?? "";
    };
    const acknowledged = [await complete(), await complete()];
    const done = (await later.submit(request)).body.id;
    await until("an asynchronous job", async () => (await later.job(done)).body.status === "completed");
    const acks = () =>
      session.waiting.flatMap((frame) => (frame.kind === "ack" ? frame.payload.results : [])).length;
    await until("the acks", () => acks() === 3);

    holding = true;
    const waiting = complete();
    await until("its offer", () => held.length === 1);
    await outage.begin();
    holding = false;
    // Of the same moment: it waits for the disk, or is refused.
    const caught = Promise.allSettled([later.submit(request)]);
    held.forEach(answer);
    // Who waits for an answer gets it; the node keeps the result until the disk has the commit.
    const inFlight = await waiting;
    const refused = await until("the refusal of requests", async () => {
      const answer = await fetch(`${io.url}/v1/chat/completions`, {
        method: "POST",
        headers: { authorization: `Bearer ${client.apiKey}`, "content-type": "application/json" },
        body: JSON.stringify(request),
      });
      await answer.text();
      return answer.status === 503 && answer;
    });
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    const submission = await later.submit(request);
    expect([submission.status, submission.headers.get("retry-after")]).toEqual([503, expect.any(String)]);
    expect((await fetch(`${io.url}/healthz`)).status).toBe(503);
    const registration = await newAgent().register();
    expect(registration.status).toBe(503);
    const socket = await agent.dial();
    expect(await socket.close()).toEqual({ code: CloseCode.TryLater, reason: "the store is away" });
    // What is on the disk can be read, and the session that is open stays so.
    expect((await later.job(done)).body.status).toBe("completed");
    session.heartbeat();
    await session.next("heartbeat-ack");
    expect(session.socket.closed).toBeUndefined();
    expect(acks()).toBe(3);

    await outage.end();
    await until("health", async () => (await fetch(`${io.url}/healthz`)).status === 200);
    await until("the ack that was held back", () => acks() > 3);
    acknowledged.push(inFlight, done, await complete());
    const [submitted] = await caught;
    if (submitted.status === "rejected") throw submitted.reason;
    const { status, body } = submitted.value;
    if (status === 202) {
      await until("the job that waited", async () => (await later.job(body.id)).body.status === "completed");
      acknowledged.push(body.id);
    } else expect(status).toBe(503);
    const another = newAgent();
    await another.register();
    (await another.connect()).drop();

    await io.kill();
    await io.serve();
    const states = await io.states();
    for (const job of acknowledged) expect(states.get(job), job).toMatch(/^(COMMITTED|CONFIRMED)$/);
    expect((await later.result(done)).body.choices?.[0]?.message.content).toBe("Hello there");
    const chain = join(io.folder, "chain");
    writeFileSync(chain, await ioDone("receipts", "export", "acme", "--data", io.data));
    expect(await ioDone("receipts", "verify", chain, "--data", io.data)).toContain("the chain is whole");
    session.drop();
  });
});

describe("F37 SIGTERM while the disk is full", () => {
  it("ends the service, which says what it has not kept; the node still has what was not acknowledged", async () => {
    const { folder, fill, free } = smallDisk(processes, 4);
    const io = await IoProcess.start(withDataOn(folder), ["--grace", "1s"]);
    const config = await io.publish([model]);
    const agent = new ScriptedAgent({
      url: io.url,
      root: io.root,
      account: "acme",
      accountKey: await io.account("acme"),
      models: [model],
      config,
    });
    await agent.register();
    const session = await agent.connect();
    session.serve((offer) => session.answer(offer, answerTo(offer)));
    const apiKey = await io.apiKey("someone");
    const client = new OpenAI({ baseURL: `${io.url}/v1`, apiKey, maxRetries: 0 });
    await client.chat.completions.create(request);
    await session.next("ack");
    fill();
    await client.chat.completions.create(request);
    io.child?.signal("SIGTERM");
    expect(await io.child?.exited).toMatchObject({ code: 70 });
    expect(io.log).toContain("the store takes no more writes");
    expect(session.waiting.filter(({ kind }) => kind === "ack")).toEqual([]);
    free();
    await io.serve();
    expect([...(await io.states()).values()].filter((state) => state.startsWith("CO"))).toHaveLength(1);
  });
});
