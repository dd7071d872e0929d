import { createServer, type Server } from "node:http";
import { afterEach, describe, expect, it } from "vitest";
import { Metrics } from "../../../src/lib/metrics.ts";
import { AgentStatuses, fetchStatus } from "../../../src/operator/node/agent-status.ts";
import { generateKey, importPrivateKey, type SigningKey } from "../../../src/protocol/keys.ts";
import { agentPort, type AgentStatus, sealStatus } from "../../../src/protocol/status.ts";
import { FakeClock } from "../../lib/fake-clock.ts";

const key = importPrivateKey(generateKey());
const nodeKey = "inference/gpu-0";

function statusFor(nonce: string, revision = 1): AgentStatus {
  return {
    nonce,
    time: 0,
    node_id: key.kid as unknown as AgentStatus["node_id"],
    instance: "A".repeat(22),
    desired_revision: revision,
    report: {
      agent_version: "0.1.0",
      engine: { type: "openai", version: null, image: null, health: "healthy" },
      hardware: { cpus: 1, memory_mib: 1, gpus: [] },
      config: { applied: null, target: null, staged: null, release_sequence: 0 },
      models: { installed: [], active: [] },
      load: { slots: 1, active: 0, accepting: true },
      subclouds: [],
    },
    config_error: null,
    drain: { state: "serving", jobs: 0, since: null },
    session: { connected: true, since: null, epoch: 1, last_error: null },
  };
}

/** Statuses whose agents answer what `answer` gives; `answered` resolves at the next answer or failure. */
function asking(answer: (nonce: string) => Promise<string>) {
  const clock = new FakeClock();
  const metrics = new Metrics();
  let questions = 0;
  let told = Promise.withResolvers<string>();
  const statuses = new AgentStatuses({
    clock,
    metrics,
    answered: (node) => told.resolve(node),
    fetch: (_ip, nonce) => answer(nonce),
  });
  const ask = async (podUid = "pod-1", by: SigningKey = key) => {
    told = Promise.withResolvers();
    statuses.ask({ nodeKey, podUid, podIp: "10.0.0.1", keys: [by] }, `question ${++questions}`);
    return told.promise;
  };
  return { clock, statuses, ask, asked: () => metrics.text() };
}

describe("the status of an agent", () => {
  it("is kept when it is signed by the node's key for this question", async () => {
    const { statuses, ask } = asking(async (nonce) => sealStatus(statusFor(nonce, 7), key));
    expect(await ask()).toBe(nodeKey);
    expect(statuses.view(nodeKey, "pod-1")).toMatchObject({ status: { desired_revision: 7 }, silentMs: 0 });
  });

  it("is believed from the next key too, while the node's key is rolled over", async () => {
    const next = importPrivateKey(generateKey());
    const { statuses } = asking(async (nonce) => sealStatus(statusFor(nonce, 9), next));
    statuses.ask({ nodeKey, podUid: "pod-1", podIp: "10.0.0.1", keys: [key, next] });
    await expect.poll(() => statuses.view(nodeKey, "pod-1").status?.desired_revision).toBe(9);
  });

  it("is not believed from another key, or for another question", async () => {
    const other = importPrivateKey(generateKey());
    const forged = asking(async (nonce) => sealStatus(statusFor(nonce), other));
    await forged.ask();
    expect(forged.statuses.view(nodeKey, "pod-1")).toMatchObject({ status: undefined });
    const recorded = asking(async () => sealStatus(statusFor(Buffer.alloc(32).toString("base64url")), key));
    await recorded.ask();
    expect(recorded.statuses.view(nodeKey, "pod-1").problem).toContain("another request");
  });

  it("stays known while the agent is silent, and the silence is measured from its beginning", async () => {
    let broken = false;
    const { clock, statuses, ask } = asking(async (nonce) => {
      if (broken) throw new Error("connection refused");
      return sealStatus(statusFor(nonce), key);
    });
    await ask();
    broken = true;
    await ask();
    clock.advance(70_000);
    expect(statuses.view(nodeKey, "pod-1")).toMatchObject({
      silentMs: 70_000,
      problem: "connection refused",
    });
    expect(statuses.view(nodeKey, "pod-1").status?.desired_revision).toBe(1);
    broken = false;
    await ask();
    expect(statuses.view(nodeKey, "pod-1").silentMs).toBe(0);
  });

  it("is asked for until it says something new, less and less often; load and times are not new", async () => {
    const clock = new FakeClock();
    const askedAt: number[] = [];
    const told: number[] = [];
    let revision = 1;
    const statuses = new AgentStatuses({
      clock,
      metrics: new Metrics(),
      answered: () => told.push(clock.monotonic()),
      fetch: async (_ip, nonce) => {
        askedAt.push(clock.monotonic());
        const status = statusFor(nonce, revision);
        const load = { slots: 1, active: askedAt.length % 2, accepting: true };
        return sealStatus(
          { ...status, time: Math.floor(clock.monotonic()), report: { ...status.report, load } },
          key,
        );
      },
    });
    const address = { nodeKey, podUid: "pod-1", podIp: "10.0.0.1", keys: [key] };
    /** Lets what was answered be read. */
    const settle = async () => {
      for (let turn = 0; turn < 20; turn++) await Promise.resolve();
    };
    statuses.ask(address, "a");
    await settle();
    expect(told).toEqual([0]);
    statuses.ask(address, "a");
    for (let step = 0; step < 240; step++) {
      clock.advance(250);
      await settle();
    }
    expect(told).toHaveLength(1);
    const pauses = askedAt.slice(1).map((at, index) => at - (askedAt[index] ?? 0));
    expect(pauses[0]).toBeLessThanOrEqual(500);
    expect(pauses.at(-1)).toBeGreaterThanOrEqual(5_000);
    // Another matter is asked about at once, and what is new is told.
    revision = 2;
    const before = askedAt.length;
    statuses.ask(address, "b");
    await settle();
    expect(askedAt).toHaveLength(before + 1);
    expect(told).toHaveLength(2);
    statuses.ask(address, "b");
    statuses.rest(nodeKey);
    clock.advance(60_000);
    expect(askedAt).toHaveLength(before + 1);
    expect(clock.pending).toBe(0);
  });

  it("that does not come is told once, and again when it has not come for long, and when it comes", async () => {
    let broken = true;
    const clock = new FakeClock();
    let told = 0;
    const statuses = new AgentStatuses({
      clock,
      metrics: new Metrics(),
      answered: () => told++,
      fetch: async (_ip, nonce) => {
        if (broken) throw new Error("connection refused");
        return sealStatus(statusFor(nonce), key);
      },
    });
    const address = { nodeKey, podUid: "pod-1", podIp: "10.0.0.1", keys: [key] };
    const pass = async (ms: number) => {
      for (let passed = 0; passed < ms; passed += 1_000) {
        clock.advance(1_000);
        for (let turn = 0; turn < 20; turn++) await Promise.resolve();
        statuses.ask(address, "a");
      }
    };
    statuses.ask(address, "a");
    await pass(50_000);
    expect(told).toBe(1);
    await pass(100_000);
    expect(told).toBe(2);
    broken = false;
    await pass(10_000);
    expect(told).toBe(3);
  });

  it("of an earlier pod says nothing about the present one", async () => {
    const { statuses, ask } = asking(async (nonce) => sealStatus(statusFor(nonce), key));
    await ask("pod-1");
    expect(statuses.view(nodeKey, "pod-2").status).toBeUndefined();
    await ask("pod-2");
    expect(statuses.view(nodeKey, "pod-1").status).toBeUndefined();
  });

  it("is asked for once at a time by node, and at 64 nodes at once", async () => {
    let open = 0;
    let most = 0;
    const gate = Promise.withResolvers<void>();
    const statuses = new AgentStatuses({
      clock: new FakeClock(),
      metrics: new Metrics(),
      answered: () => {},
      fetch: async () => {
        most = Math.max(most, ++open);
        await gate.promise;
        open--;
        throw new Error("enough");
      },
    });
    for (let node = 0; node < 100; node++) {
      const address = { nodeKey: `n/${node}`, podUid: "p", podIp: "10.0.0.1", keys: [key] };
      statuses.ask(address);
      statuses.ask(address);
    }
    expect(open).toBe(64);
    gate.resolve();
    await expect.poll(() => open).toBe(0);
    expect(most).toBe(64);
  });
});

describe("the request for it", () => {
  let server: Server | undefined;
  afterEach(() => server?.closeAllConnections());

  const serve = (body: Buffer, status = 200): Promise<string> =>
    new Promise((resolve) => {
      const ip = `127.9.${process.pid % 250}.${1 + (Math.floor(process.pid / 250) % 250)}`;
      server = createServer((_request, response) => response.writeHead(status).end(body));
      server.listen(agentPort, ip, () => resolve(ip));
    });

  it("gives the body, and refuses another status and more than 128 KiB", async () => {
    const ip = await serve(Buffer.from("signed"));
    expect(await fetchStatus(ip, "nonce")).toBe("signed");
    server?.close();
    await serve(Buffer.alloc(129 * 1024));
    await expect(fetchStatus(ip, "nonce")).rejects.toThrow("larger than");
    server?.close();
    await serve(Buffer.from("busy"), 503);
    await expect(fetchStatus(ip, "nonce")).rejects.toThrow("HTTP 503");
    server?.close();
  });
});
