/**
 * The whole system, whose parts are killed with SIGKILL in the middle of jobs. Client, store, receipts and engines are
 * reconciled by job id; afterwards it must be whole again without a person.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { buildBundles } from "../loop/build.ts";
import { type ClientEntry, runLoad } from "../loop/load.ts";
import { type Loop, namespace, startLoop } from "../loop/loop.ts";
import { engineLines } from "../loop/pod-logs.ts";
import { openStream, type RawStream } from "../loop/raw-stream.ts";
import { receiptJobs } from "../loop/receipts.ts";
import { type FaultReconciliation, reconcileFaults } from "../loop/reconcile-faults.ts";
import { containerOf, enginePid, engineStarts, hostOf, inFlight } from "../loop/victims.ts";
import { until } from "../testbed/until.ts";

const nodes = ["chat-0", "chat-1", "chat-2"];
const tokenDelayMs = 30;
const maxJobs = 4;

// Each test takes a tenth of that on a machine that does nothing else.
vi.setConfig({ testTimeout: 240_000 });

let loop: Loop;
/** Every completion that was ever asked for, since the store knows all of them. */
const asked: ClientEntry[] = [];
/** Problems that a test has failed of. */
const told = new Set<string>();
let killedAt: number | undefined;

beforeAll(async () => {
  await buildBundles();
  loop = await startLoop({ hosts: 2, gpusPerHost: 3, tokenDelayMs, maxJobs });
  await loop.applySamples({ replicas: nodes.length });
  await loop.untilReady(nodes.length);
}, 1_500_000);

afterAll(() => loop?.stop());
// A test that fails in an outage ends it for the next.
afterEach(async () => {
  if (!loop.io.child.running()) await loop.io.restart();
});

/**
 * Keeps all nodes busy with completions until the engine of one is in the middle of a plain one, of a streamed one and of a
 * raw stream of which the client has read something; then asks for no more and calls `kill` with that node's name.
 */
async function killAmidJobs(kill: (node: string) => void | Promise<void>) {
  const enough = new AbortController();
  const busy = {
    total: 1_000,
    concurrency: nodes.length * maxJobs - 1,
    maxTokens: 60,
    signal: enough.signal,
  };
  const load = runLoad({ ...client(), ...busy });
  const raw = await openStream({ ...client(), maxTokens: 900 });
  try {
    const [victim, flights] = await until("a node in the middle of jobs of both kinds", () => {
      // Of those that were begun a while ago; and that last for another second, so that none ends before the kill.
      const now = Date.now();
      for (const [pod, all] of inFlight(loop)) {
        const flights = all.filter(
          ({ id, begun }) => begun < now - 300 && (id === raw.id || begun > now - 800),
        );
        const both = [true, false].every((stream) =>
          flights.some((flight) => flight.stream === stream && flight.id !== raw.id),
        );
        if (both && flights.some(({ id }) => id === raw.id)) return [pod, flights] as const;
      }
      return undefined;
    });
    enough.abort();
    await kill(victim);
    return { victim, flights, entries: await load, raw };
  } finally {
    enough.abort();
    asked.push(...(await load), await raw.ended);
  }
}

const client = () => ({ baseURL: loop.ioURL, apiKey: loop.apiKey });

async function reconciled(): Promise<FaultReconciliation> {
  const logs = { client: asked, engine: engineLines(loop.hosts) };
  // A commit reaches the disk after the client's answer.
  await until("the last commits", async () => {
    const states = new Set((await loop.ioJobs()).map(({ state }) => state));
    return !["QUEUED", "OFFERED", "RUNNING", "RESULT_RECEIVED", "COMMITTED"].some((state) =>
      states.has(state),
    );
  });
  const all = reconcileFaults(
    { ...logs, store: await loop.ioJobs(), receipts: await receiptJobs(loop) },
    { killedAt },
  );
  // A problem belongs to the test that first sees it.
  const problems = all.problems.filter((problem) => !told.has(problem));
  for (const problem of problems) told.add(problem);
  return { ...all, problems };
}

/** All nodes are Ready and in session, and a new completion is answered. */
async function whole(): Promise<void> {
  await loop.untilReady(nodes.length, 60_000);
  const connected = async () => (await loop.ioNodes()).filter((node) => node.connected).length;
  // Those that found nobody wait up to a minute before they try again.
  await until("all sessions", async () => (await connected()) === nodes.length, { deadlineMs: 80_000 });

  const entries = await runLoad({ ...client(), total: 4, concurrency: 4, maxTokens: 4 });
  asked.push(...entries);
  expect(entries.map(({ ok, error }) => ({ ok, error }))).toEqual(
    entries.map(() => ({ ok: true, error: undefined })),
  );
}

function expectNodeLost(raw: RawStream): void {
  const { events, complete } = raw.seen();
  expect(complete).toBe(true);
  expect(events).not.toContain("[DONE]");
  expect(JSON.parse(events.at(-1) ?? "")).toMatchObject({
    error: { code: "node_lost", type: "server_error" },
  });
}

const stateOf = async (id: string | undefined) => (await loop.ioJobs()).find((job) => job.id === id);

describe("the whole loop, when a process is killed in the middle of jobs", () => {
  it("F39 an agent: its plain jobs are answered by others, its streams end with node_lost, its engine runs on", async () => {
    const engines = new Map(nodes.map((node) => [node, enginePid(loop, node)]));
    const { victim, flights, entries, raw } = await killAmidJobs((node) => {
      process.kill(containerOf(loop, node, "agent").pid, "SIGKILL");
    });

    const { problems, retried, interrupted } = await reconciled();
    expect(problems).toEqual([]);
    expectNodeLost(raw);
    expect(await stateOf(raw.id)).toMatchObject({ state: "INTERRUPTED" });
    const plain = flights.filter(({ stream }) => !stream).map(({ id }) => id);
    expect(retried).toEqual(expect.arrayContaining(plain));
    expect(interrupted).toEqual(
      expect.arrayContaining(flights.filter(({ stream }) => stream).map(({ id }) => id)),
    );
    expect(entries.filter(({ ok }) => !ok).every(({ stream }) => stream)).toBe(true);

    await whole();
    expect(containerOf(loop, victim, "agent").attempt).toBe(1);
    for (const node of nodes) expect(enginePid(loop, node)).toBe(engines.get(node));
  });

  it("F21 an engine: its plain jobs are answered by others, its streams end, its launcher starts it anew", async () => {
    const launchers = new Map(nodes.map((node) => [node, containerOf(loop, node, "runtime").pid]));
    const sessions = await loop.ioNodes();
    let killed = 0;
    const { victim, flights, raw } = await killAmidJobs((node) => {
      killed = enginePid(loop, node);
      process.kill(killed, "SIGKILL");
    });

    const { problems, retried, interrupted } = await reconciled();
    expect(problems).toEqual([]);
    expectNodeLost(raw);
    expect(await stateOf(raw.id)).toMatchObject({ state: "INTERRUPTED" });
    const plain = flights.filter(({ stream }) => !stream).map(({ id }) => id);
    expect(retried).toEqual(expect.arrayContaining(plain));
    expect(interrupted).toEqual(
      expect.arrayContaining(flights.filter(({ stream }) => stream).map(({ id }) => id)),
    );

    await whole();
    expect(enginePid(loop, victim)).not.toBe(killed);
    for (const node of nodes) expect(containerOf(loop, node, "runtime").pid).toBe(launchers.get(node));
    const epochs = (list: typeof sessions) => list.map(({ id, epoch }) => `${id} ${epoch}`).sort();
    expect(epochs(await loop.ioNodes())).toEqual(epochs(sessions));
  });

  it("the IO service: connections are cut, its jobs are CANCELLED or committed, all nodes come back to it", async () => {
    const processes = () =>
      nodes.map((node) => `${containerOf(loop, node, "agent").pid} ${enginePid(loop, node)}`);
    const before = processes();
    const { entries, raw } = await killAmidJobs(async () => {
      killedAt = Date.now();
      await loop.io.kill();
      await loop.io.restart();
    });

    const { problems, cut } = await reconciled();
    expect(problems).toEqual([]);
    expect(cut).toBeGreaterThanOrEqual(3);
    expect(raw.seen().complete).toBe(false);
    expect(raw.seen().events).not.toContain("[DONE]");
    expect(await stateOf(raw.id)).toMatchObject({ state: "CANCELLED" });
    expect(entries.filter(({ ok, code }) => !ok && code !== undefined)).toEqual([]);

    await whole();
    expect(processes()).toEqual(before);
    await until("engines to have dropped what nobody waits for", () => inFlight(loop).size === 0);
    expect((await reconciled()).problems).toEqual([]);
  });
});

describe("a host that loses its power while the IO service is away", () => {
  it("F43 has its engines warm from the last good config before IO returns", async () => {
    const host = hostOf(loop, nodes[0] ?? "");
    const pods = new Set(host.kubelet.containers().map(({ pod }) => pod));
    const untouched = nodes
      .filter((node) => !pods.has(node))
      .map((node) => [node, enginePid(loop, node)] as const);
    await loop.io.kill();
    const cutAt = Date.now();
    await host.reboot();
    for (const pod of pods) await untilServes(pod, cutAt);
    expect(loop.io.child.running()).toBe(false);
    for (const [node, pid] of untouched) expect(enginePid(loop, node)).toBe(pid);

    // A pod that is new has no state of its own: its config comes from the network's ConfigMap.
    const [fresh] = pods;
    const uid = (await podOf(fresh ?? ""))?.metadata.uid;
    const deletedAt = Date.now();
    await loop.bed.kubectlOk(["-n", namespace, "delete", "pod", fresh ?? "", "--wait=false"]);
    await until("another pod", async () => {
      const pod = await podOf(fresh ?? "");
      return pod !== undefined && pod.metadata.uid !== uid;
    });
    await untilServes(fresh ?? "", deletedAt);
    expect(loop.io.child.running()).toBe(false);

    await loop.io.restart();
    await whole();
    expect((await reconciled()).problems).toEqual([]);
  });
});

describe("people who work on the cluster while the IO service is away", () => {
  it("F47 drain a host: evictions go on one by one as the budget says, and no other engine restarts", async () => {
    const host = hostOf(loop, nodes[0] ?? "");
    const leaving = new Set(host.kubelet.containers().map(({ pod }) => pod));
    const staying = nodes.filter((node) => !leaving.has(node));
    const engines = () => staying.map((node) => `${node} ${enginePid(loop, node)}`);
    const before = engines();
    await loop.io.kill();
    const since = Date.now();
    try {
      const drain = ["drain", host.name, "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=100s"];
      await loop.bed.kubectlOk(drain, { timeoutMs: 110_000 });
      for (const node of leaving) await untilServes(node, since);
      expect(loop.io.child.running()).toBe(false);
      for (const node of leaving) {
        expect(hostOf(loop, node).name).not.toBe(host.name);
        expect(engineStarts(loop, node).filter((time) => time > since)).toHaveLength(1);
      }
      expect(engines()).toEqual(before);
    } finally {
      await loop.bed.kubectlOk(["uncordon", host.name]);
      await loop.io.restart();
    }
    await whole();
    expect((await reconciled()).problems).toEqual([]);
  });
});

const podOf = async (name: string) => (await loop.pods()).find(({ metadata }) => metadata.name === name);

/** The pod's engine was started after `since`, and the pod is ready by its own word and the API server's. */
async function untilServes(name: string, since: number): Promise<void> {
  await until(
    `pod ${name} to serve`,
    async () => {
      if (!engineStarts(loop, name).some((time) => time > since))
        throw new Error("its engine has not been started");
      const pod = await podOf(name);
      const answer = await fetch(`http://${pod?.status?.podIP}:9440/ready`);
      if (answer.status !== 200) throw new Error(`/ready answers ${answer.status}: ${await answer.text()}`);
      return pod?.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True");
    },
    { deadlineMs: 90_000 },
  );
}
