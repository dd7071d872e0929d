import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type AccountKey, mintBinding } from "../../src/protocol/binding.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { JobsClient } from "../io/fixture/jobs-client.ts";
import { IoProcess, sha256 } from "../io/fixture/network.ts";
import { smallDisk, whyNoSmallDisk } from "../lib/small-disk.ts";
import { freePort } from "../testbed/ports.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/** A real agent and engine on a real service: results that outlive the agent, and bodies larger than frames. */
const model = "m1";
const mib = 1024 * 1024;
const processes = supervise();
let io: IoProcess;
let key: string;
let client: JobsClient;
let accountKey: AccountKey;
let config: ConfigDigest;
let way: Awaited<ReturnType<typeof heldWay>>;
let node: NodeProcesses | undefined;

/** A way to the service on which a test can hold everything back, and then lose it. */
async function heldWay(to: number) {
  const port = await freePort();
  const open = new Set<Socket>();
  const nodes = new Set<Socket>();
  let held = false;
  const server = createServer((from) => {
    const onward = connect(to, "127.0.0.1");
    nodes.add(from);
    from.once("close", () => nodes.delete(from));
    for (const [socket, other] of [
      [from, onward],
      [onward, from],
    ] as const) {
      open.add(socket);
      if (held) socket.pause();
      socket.on("data", (bytes) => {
        if (!held) other.write(bytes);
      });
      socket.on("error", () => {});
      socket.on("close", () => {
        open.delete(socket);
        other.destroy();
      });
    }
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${port}`,
    /** From now on nothing comes through, either way. */
    hold() {
      held = true;
      for (const socket of open) socket.pause();
    },
    /** From now on the service reads nothing of what nodes say, and they hear it. */
    deafen() {
      for (const socket of nodes) socket.pause();
    },
    /** What was held back is lost; new connections come through. */
    lose() {
      held = false;
      for (const socket of open) socket.destroy();
    },
    close() {
      for (const socket of open) socket.destroy();
      server.close();
    },
  };
}

beforeAll(async () => {
  io = await IoProcess.start(processes, [
    "--heartbeat=1s",
    "--lease=20s",
    "--disconnect-grace=15s",
    "--retry=100ms",
  ]);
  way = await heldWay(Number(new URL(io.url).port));
  await io.allowAudience(way.url);
  accountKey = await io.account("acme");
  key = await io.apiKey("someone");
  client = new JobsClient(io.url, key);
  const log = join(io.folder, "engine.log");
  const command = engineCommand({ log, tokenDelayMs: 20 });
  config = await io.publish([model], { engine: "test", command, maxOutputBytes: 32 * mib });
});
afterEach(async () => {
  await node?.agent?.stop();
  await node?.launcher?.stop();
  node = undefined;
});
afterAll(async () => {
  way.close();
  await processes.close();
});

/** A node in session that serves the model. @param stateDir a folder to be its state, in place of one of its own. */
async function serving(endpoint: string, stateDir?: string): Promise<NodeProcesses> {
  const made = await NodeProcesses.make(processes, new TestNetwork());
  node = made;
  const { nodeId } = made.identity;
  made.write("identity/binding.json", JSON.stringify(mintBinding(accountKey, io.network, "acme", nodeId)));
  made.write("identity/root.json", readFileSync(join(io.keys, "root.json"), "utf8"));
  made.desire({ target: config });
  if (stateDir !== undefined) {
    rmSync(join(made.dir, "state"), { recursive: true });
    symlinkSync(stateDir, join(made.dir, "state"));
  }
  made.startAgent(endpoint);
  await made.startLauncher();
  await connected(made);
  return made;
}

async function connected({ identity }: NodeProcesses): Promise<void> {
  await until(
    "the node to serve",
    async () => {
      const seen = (await io.nodes()).find(({ id }) => id === String(identity.nodeId));
      return seen?.connected === true && seen.models.includes(model);
    },
    { deadlineMs: 60_000, intervalMs: 200 },
  );
}

const ask = (content: string, more: object = {}) => ({
  model,
  messages: [{ role: "user", content }],
  max_tokens: 20,
  ...more,
});

/** Lasts for 2 s: its result does not get through before the test holds the way. */
const unhurried = { max_tokens: 100 };

async function submitted(request: Readonly<Record<string, unknown>>): Promise<string> {
  const { status, body } = await client.submit(request);
  expect(status).toBe(202);
  return body.id;
}

async function ended(id: string) {
  return until(
    `the end of ${id}`,
    async () => {
      const { body } = await client.job(id);
      return body.finished_at === null ? undefined : body;
    },
    { intervalMs: 50, deadlineMs: 60_000 },
  );
}

/** What the engines logged of a job. */
function engineLines(id: string): { event: string; bytes?: number; sha256?: string }[] {
  const lines = readFileSync(join(io.folder, "engine.log"), "utf8").trim().split("\n");
  return lines
    .map((line) => JSON.parse(line) as { event: string; id?: string; bytes?: number; sha256?: string })
    .filter((line) => line.id === id);
}

const kept = ({ dir }: NodeProcesses): string[] => {
  const folder = join(dir, "state/results");
  return existsSync(folder) ? readdirSync(folder).filter((name) => /^job-.*\.\d+$/.test(name)) : [];
};

describe("a result on the agent's disk", () => {
  it("F19 is sent by the next process when the first was killed before the ack: one commit, one inference", async () => {
    const made = await serving(way.url);
    const id = await submitted(ask("F19", unhurried));
    await until("the engine to begin", () => engineLines(id).length > 0, { intervalMs: 10 });
    way.hold();
    await until("the result on the disk", () => kept(made).length > 0, { intervalMs: 10 });
    expect(kept(made)).toEqual([`${id}.1`]);
    made.agent?.signal("SIGKILL");
    await made.agent?.exited;
    way.lose();
    expect((await client.job(id)).body.status).toBe("in_progress");

    made.startAgent(way.url);
    expect(await ended(id)).toMatchObject({ status: "completed", error: null });
    await until("the ack to delete the result", () => kept(made).length === 0);
    expect(engineLines(id).filter(({ event }) => event === "begin")).toHaveLength(1);
    const job = await io.job(id);
    expect(job).toMatchObject({ attempt: 1, outcome: "completed" });
    expect(job["receipt"]).toMatchObject({ account: "acme", attempt: 1 });
    expect((await client.result(id)).body.choices?.[0]?.message.content).not.toBe("");
  });

  it("tells nothing to who reads the disk, and one that is damaged is put aside and harms nobody", async () => {
    const made = await serving(way.url);
    const id = await submitted(ask("a very private question", unhurried));
    await until("the engine to begin", () => engineLines(id).length > 0, { intervalMs: 10 });
    way.hold();
    await until("the result on the disk", () => kept(made).length > 0, { intervalMs: 10 });
    made.agent?.signal("SIGKILL");
    await made.agent?.exited;
    way.lose();
    const file = join(made.dir, "state/results", `${id}.1`);
    const sealed = readFileSync(file);
    expect(sealed.toString("latin1")).not.toMatch(/choices|content|someone/);
    sealed[sealed.length >> 1] = (sealed[sealed.length >> 1] ?? 0) ^ 1;
    writeFileSync(file, sealed);

    made.startAgent(way.url);
    // Nobody has it any more, so it is done again.
    expect(await ended(id)).toMatchObject({ status: "completed" });
    expect((await io.job(id))["attempt"]).toBe(2);
    expect(readdirSync(join(made.dir, "state/results/aside"))).toEqual([`${id}.1`]);
    expect(readFileSync(made.agentLog, "utf8")).toContain("a kept result cannot be read");
  });
});

/** Most memory that a process has had, MiB. */
function peakMib(pid: number | undefined): number {
  return Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${pid ?? 0}/status`, "utf8"))?.[1]) / 1024;
}

/** The node's receipt inside the countersigned one. */
function receiptOf(job: Readonly<Record<string, unknown>>): unknown {
  const payload = (jws: string) => JSON.parse(Buffer.from(jws.split(".")[1] ?? "", "base64url").toString());
  const { countersign } = job["receipt"] as { readonly countersign: string };
  return payload((payload(countersign) as { readonly receipt: string }).receipt);
}

describe("a large body", () => {
  it("of 20 MiB in and 20 MiB out goes through agent and engine, synchronous and not", async () => {
    const made = await serving(io.url);
    const request = ask("0123456789abcdef".repeat((20 * mib) / 16), { answer_bytes: 20 * mib });
    const body = JSON.stringify(request);
    const answer = await fetch(`${io.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      body,
    });
    const id = answer.headers.get("x-request-id") ?? "";
    const text = await answer.text();
    expect([answer.status, text.length > 20 * mib]).toEqual([200, true]);
    const engineSaw = () => engineLines(id).find(({ event }) => event === "begin");
    expect(engineSaw()).toMatchObject({ bytes: body.length, sha256: sha256(body) });
    // Of a synchronous job the client hears before the disk does.
    const row = await until("the receipt", async () => {
      const seen = await io.job(id);
      return seen["receipt"] ? seen : undefined;
    });
    expect(receiptOf(row)).toMatchObject({
      input_sha256: sha256(body),
      output_sha256: sha256(text),
      outcome: "completed",
    });

    const later = await submitted(request);
    expect(await ended(later)).toMatchObject({ status: "completed" });
    const result = await fetch(`${io.url}/v1/jobs/${later}/result`, {
      headers: { authorization: `Bearer ${key}` },
    });
    const again = await result.text();
    expect(sha256(again.replaceAll(later, ""))).toBe(sha256(text.replaceAll(id, "")));
    expect(engineLines(later).find(({ event }) => event === "begin")?.sha256).toBe(sha256(body));
    await until("the ack to delete the result", () => kept(made).length === 0);
    // The container of an agent has 512 MiB.
    expect(peakMib(made.agent?.pid)).toBeLessThan(400);
  }, 120_000);
});

describe("a service that does not read", () => {
  it("holds the engine up: what agent and engine have on their way stays bounded", async () => {
    const made = await serving(way.url);
    await made.switchEngine({ mode: "huge" });
    way.deafen();
    const gone = new AbortController();
    const answer = fetch(`${io.url}/v1/chat/completions`, {
      method: "POST",
      headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
      body: JSON.stringify(ask("flood", { stream: true })),
      signal: gone.signal,
    }).catch(() => undefined);
    // An engine that is read stops at 32 MiB, which is the most that an answer may have.
    const sent = await until(
      "the engine to stand still",
      async () => {
        const before = await bytesOf(made);
        await new Promise((resolve) => setTimeout(resolve, 300));
        return before > 0 && before === (await bytesOf(made)) ? before : undefined;
      },
      { intervalMs: 10 },
    );
    expect(sent).toBeLessThan(16 * mib);
    expect(readFileSync(made.agentLog, "utf8")).not.toContain("larger than");
    gone.abort();
    await answer;
    way.lose();
    await made.switchEngine({ mode: "ok" });
  });
});

/** Bytes that the engine has sent of an answer without end. */
async function bytesOf(made: NodeProcesses): Promise<number> {
  const answer = await fetch(`http://127.0.0.1:${made.enginePort()}/__switch`, {
    method: "POST",
    body: "{}",
  });
  return ((await answer.json()) as { readonly sent: number }).sent;
}

describe("a full disk", () => {
  const why = whyNoSmallDisk();

  it.skipIf(why !== undefined)(
    `F26 refuses durable jobs with the reason, keeps the results that it has, and takes jobs again when there is room${why === undefined ? "" : ` (${why})`}`,
    async () => {
      const { folder, fill, free } = smallDisk(processes, 4);
      const state = join(folder, "state");
      mkdirSync(state);
      const made = await serving(way.url, state);
      const before = await submitted(ask("before", unhurried));
      await until("the engine to begin", () => engineLines(before).length > 0, { intervalMs: 10 });
      way.hold();
      await until("the result on the disk", () => kept(made).length > 0, { intervalMs: 10 });
      // Somebody else fills the disk to its last byte, while the result waits for its acknowledgement.
      fill();
      made.agent?.signal("SIGKILL");
      await made.agent?.exited;
      way.lose();
      made.startAgent(way.url);
      expect(await ended(before)).toMatchObject({ status: "completed" });
      expect((await io.job(before))["attempt"]).toBe(1);
      expect(engineLines(before).filter(({ event }) => event === "begin")).toHaveLength(1);
      await until("the ack to delete the result", () => kept(made).length === 0);

      fill();
      const during = await submitted(ask("during"));
      const { report } = await made.sees("the reason in the report", ({ report: told }) =>
        told.load.reason?.includes("ENOSPC") === true ? { report: told } : undefined,
      );
      expect(report.load.reason).toMatch(/^results cannot be kept on disk: .*ENOSPC/);
      // The job waits for a node that can keep its result; one whose client waits needs no disk.
      expect((await client.job(during)).body.finished_at).toBeNull();
      const answer = await fetch(`${io.url}/v1/chat/completions`, {
        method: "POST",
        headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
        body: JSON.stringify(ask("synchronous")),
      });
      expect(answer.status).toBe(200);

      free();
      expect(await ended(during)).toMatchObject({ status: "completed" });
    },
    120_000,
  );
});
