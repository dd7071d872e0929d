/**
 * Lent GPUs: a pool whose capacity is Opportunistic has all eight GPUs of a host until others want some. Real API server,
 * scheduler with preemption, operator, service, agents and engines; clients ask all the time, and every job is reconciled by its id.
 */
import { spawn } from "node:child_process";
import { setTimeout as wait } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import OpenAI from "openai";
import type { ResultityNode } from "../../src/api/v1alpha1/node.ts";
import { findCondition } from "../../src/api/v1alpha1/conditions.ts";
import { buildBundles } from "../loop/build.ts";
import { tenantImage } from "../loop/images.ts";
import { type ClientEntry, complete, runLoad } from "../loop/load.ts";
import { type Loop, namespace, poolName, startLoop } from "../loop/loop.ts";
import { AuditTail, isRealWrite, operatorUser, requestLine } from "../loop/operator-run.ts";
import { bundle } from "../loop/paths.ts";
import { containerLines, engineLines } from "../loop/pod-logs.ts";
import { receiptJobs } from "../loop/receipts.ts";
import { type FaultReconciliation, reconcileFaults } from "../loop/reconcile-faults.ts";
import { inFlight } from "../loop/victims.ts";
import type { KubeObject } from "../testbed/kube-json.ts";
import { until } from "../testbed/until.ts";

const gpus = 8;
const taken = 3;
const tokenDelayMs = 30;
/** Jobs at once on a node. */
const maxJobs = 2;
const evictionTimeoutSeconds = 30;
const patience = { deadlineMs: 120_000, intervalMs: 200 };
// Each test takes a sixth of that on a machine that does nothing else.
vi.setConfig({ testTimeout: 240_000, hookTimeout: 240_000 });

let loop: Loop;
let tail: AuditTail;
/** Every completion that was ever asked for, since the store knows all of them. */
const asked: ClientEntry[] = [];

beforeAll(async () => {
  await buildBundles();
  loop = await startLoop({
    hosts: 1,
    gpusPerHost: gpus,
    hostCapacity: { cpu: "64", memory: "256Gi" },
    tokenDelayMs,
    maxJobs,
  });
  tail = new AuditTail(loop, operatorUser);
  await loop.applySamples({
    replicas: gpus,
    pool: {
      capacity: "Opportunistic",
      "strategy.rollingUpdate.maxUnavailable": 2,
      "template.spec.drain": { timeoutSeconds: 60, evictionTimeoutSeconds },
    },
  });
  await loop.untilReady(gpus, 120_000);
}, 1_500_000);

afterAll(() => loop?.stop());

const client = () => ({ baseURL: loop.ioURL, apiKey: loop.apiKey });

/** Asks for short completions, of which every second one is streamed, while `work` is done. */
async function underLoad<T>(work: () => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const short = { total: 100_000, concurrency: 8, maxTokens: 15, signal: stop.signal };
  const load = runLoad({ ...client(), ...short });
  try {
    return await work();
  } finally {
    stop.abort();
    asked.push(...(await load));
  }
}

interface Victim extends KubeObject {
  readonly metadata: KubeObject["metadata"] & { readonly uid: string; readonly deletionTimestamp?: string };
  readonly spec: {
    readonly nodeName?: string;
    readonly priority?: number;
    readonly preemptionPolicy?: string;
  };
  readonly status?: {
    readonly phase?: string;
    readonly conditions?: readonly { type: string; status: string; reason?: string }[];
  };
}

/** Somebody else's pod, of the cluster's usual priority. Resolves with its name. */
async function tenant(name: string, count: number): Promise<string> {
  await loop.kube.create("/api/v1/namespaces/default/pods", {
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name },
    spec: {
      terminationGracePeriodSeconds: 5,
      containers: [
        { name: "work", image: tenantImage, resources: { limits: { "nvidia.com/gpu": String(count) } } },
      ],
    },
  });
  return name;
}

const tenantPath = (name: string) => `/api/v1/namespaces/default/pods/${name}`;

const untilRuns = (name: string) =>
  until(
    `pod ${name} to run`,
    async () => {
      const pod = await loop.kube.get<Victim>(tenantPath(name));
      if (pod?.status?.phase === "Running") return pod;
      throw new Error(JSON.stringify(pod?.status));
    },
    patience,
  );

const leave = (name: string) => loop.kube.delete(tenantPath(name));

const pods = async () => (await loop.pods()) as readonly Victim[];
/** Pods that are on the host. */
const placed = async () => (await pods()).filter(({ spec }) => spec.nodeName !== undefined);
const said = (node: ResultityNode, type: "Ready" | "Scheduled" | "Degraded" | "Draining") => {
  const condition = findCondition(node.status?.conditions, type);
  return `${condition?.status} ${condition?.reason}`;
};
const lacking = async () => (await loop.nodes()).filter((node) => said(node, "Ready") === "False NoCapacity");
const progress = async () => findCondition((await loop.pool())?.status?.conditions, "Progressing");

/** All jobs so far, in all logs. */
async function reconciled(): Promise<FaultReconciliation> {
  // A commit reaches the disk after the client's answer.
  await until("the last commits", async () => {
    const open = ["QUEUED", "OFFERED", "RUNNING", "RESULT_RECEIVED", "COMMITTED"];
    return (await loop.ioJobs()).every(({ state }) => !open.includes(state));
  });
  const logs = { client: asked, engine: engineLines(loop.hosts), store: await loop.ioJobs() };
  return reconcileFaults({ ...logs, receipts: await receiptJobs(loop) });
}

async function expectNoneLost(): Promise<FaultReconciliation> {
  expect(asked.filter(({ ok }) => !ok)).toEqual([]);
  const all = await reconciled();
  expect(all.problems).toEqual([]);
  expect(all.interrupted).toEqual([]);
  return all;
}

/** What a command of `kubectl resultity` prints. */
function resultity(...args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const place = ["-n", namespace, "--kubeconfig", loop.bed.adminKubeconfig];
    const child = spawn(process.execPath, [bundle("kubectl-resultity"), ...args, ...place]);
    let told = "";
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (part: Buffer) => (told += part.toString()));
    child.once("error", reject);
    child.once("close", () => resolve(told));
  });
}

describe("a tenant's pod that takes 3 of 8 lent GPUs", () => {
  let digest: string;

  it("runs within the eviction timeout, in mid-rollout and under load; the rollout ends without those it parks", async () => {
    for (const { spec } of await pods())
      expect(spec).toMatchObject({ priority: -1000, preemptionPolicy: "Never" });
    const took = await underLoad(async () => {
      digest = await loop.publish("v2");
      await until(
        "the rollout to be in the middle",
        async () => {
          const moved = (await loop.nodes()).filter(({ status }) => status?.config?.applied === digest);
          return moved.length >= 2 && moved.length <= gpus - taken;
        },
        patience,
      );
      const since = performance.now();
      await tenant("training", taken);
      await untilRuns("training");
      const took = performance.now() - since;
      await until(
        "the rollout to end",
        async () => {
          const status = (await loop.pool())?.status;
          expect(status).toMatchObject({ parkedReplicas: taken, availableReplicas: gpus - taken });
          expect(status?.rollout).toMatchObject({
            target: digest,
            updated: gpus - taken,
            total: gpus - taken,
          });
          expect(status?.rollout?.waitingOn).toBeUndefined();
          expect(await progress()).toMatchObject({ status: "True", reason: "NewestConfig" });
          return true;
        },
        patience,
      );
      return took;
    });
    expect(took).toBeLessThan(evictionTimeoutSeconds * 1000);
    await expectNoneLost();
  });

  it("leaves nodes behind that are parked, and well; nobody is alarmed, and nothing is written while they wait", async () => {
    await until("the statuses to settle", async () => (await lacking()).length === taken, patience);
    await tail.untilQuiet();
    const parked = await lacking();
    expect(parked).toHaveLength(taken);
    for (const node of parked) {
      expect(said(node, "Scheduled")).toBe("False NoCapacity");
      expect(said(node, "Degraded")).toBe("False NothingWrong");
      expect(said(node, "Draining")).toBe("False NotDraining");
      expect(node.status?.config?.target).toBe(digest);
      const why = await resultity("why", node.metadata.name);
      expect(why).toContain("NoCapacity: nothing: it is parked until GPUs are lent to it");
      expect(why).not.toMatch(/logs|describe pods|unpark/);
    }
    expect(findCondition((await loop.pool())?.status?.conditions, "Ready")).toMatchObject({
      status: "True",
      reason: "AllWell",
      message: `${gpus - taken} nodes are in service; ${taken} more are parked for want of capacity`,
    });
    const budget = await loop.kube.get<KubeObject & { spec: object }>(
      `/apis/policy/v1/namespaces/${namespace}/poddisruptionbudgets/${poolName}`,
    );
    expect(budget?.spec).toMatchObject({ minAvailable: gpus - taken - 2 });
    // Their pods wait, each the same one: none is made again and again.
    const waiting = (await pods()).filter(({ spec }) => spec.nodeName === undefined);
    expect(waiting.map(({ metadata }) => metadata.name)).toEqual(parked.map(({ metadata }) => metadata.name));
    const before = tail.writes();
    const uids = waiting.map(({ metadata }) => metadata.uid);
    await tail.untilQuiet(5_000);
    expect(tail.entries.filter(isRealWrite).slice(before).map(requestLine)).toEqual([]);
    expect(
      (await pods()).filter(({ spec }) => spec.nodeName === undefined).map(({ metadata }) => metadata.uid),
    ).toEqual(uids);
  });

  it("gives them back when it leaves: they return with the newest config, and have run no other", async () => {
    const returning = (await lacking()).map(({ metadata }) => metadata.name);
    const since = Date.now();
    await underLoad(async () => {
      await leave("training");
      await loop.untilReady(gpus, 120_000);
    });
    for (const { status } of await loop.nodes()) expect(status?.config?.applied).toBe(digest);
    const started = containerLines(loop.hosts, "runtime").filter(
      ({ pod, line }) => returning.includes(pod) && line["event"] === "start" && Number(line["time"]) > since,
    );
    expect(started.map(({ pod }) => pod).sort()).toEqual(returning.sort());
    for (const { line } of started) expect(line["version"]).toBe("v2");
    await until("the pool's status", async () => {
      const status = (await loop.pool())?.status;
      expect(status?.availableReplicas).toBe(gpus);
      expect(status).not.toHaveProperty("parkedReplicas");
      return true;
    });
    await expectNoneLost();
  });
});

describe("a node that has to go in the middle of jobs that take longer than it has", () => {
  const timeoutMs = 4_000;
  /** For a busy machine, ms. */
  const slackMs = 4_000;
  /** How long a job takes: still under way when its node has had its time, however late it was told. */
  const jobMs = 4 * timeoutMs;
  const drain = { timeoutSeconds: 60, evictionTimeoutSeconds: timeoutMs / 1000 };

  beforeAll(async () => {
    const patch = JSON.stringify({ spec: { template: { spec: { drain } } } });
    const starts = engineStarts();
    await loop.bed.kubectlOk(["-n", namespace, "patch", "rpool", poolName, "--type=merge", "-p", patch]);
    await until(
      "the agents to have the new timeout",
      async () => {
        const nodes = await loop.nodes();
        return nodes.every(
          ({ spec, status, metadata }) =>
            spec.drain.evictionTimeoutSeconds === drain.evictionTimeoutSeconds &&
            status?.observedGeneration === metadata.generation &&
            findCondition(status?.conditions, "ConfigApplied")?.status === "True",
        );
      },
      patience,
    );
    expect(engineStarts()).toBe(starts);
  });

  const engineStarts = () => engineLines(loop.hosts).filter(({ event }) => event === "start").length;

  /**
   * Has all nodes in the middle of jobs of `lastsMs`, then does `disturb`, which says what has to go. All are answered, those of
   * the victims by others, to which they went in time.
   */
  async function amidJobs(
    lastsMs: number,
    disturb: () => Promise<readonly { pod: string; since: number }[]>,
  ) {
    const url = `${loop.ioURL}/v1`;
    const openai = new OpenAI({ baseURL: url, apiKey: loop.apiKey, maxRetries: 0, timeout: 120_000 });
    const tokens = Math.ceil(lastsMs / tokenDelayMs);
    // As many as the nodes take. Even ones are not streamed: what a stream has begun to say, no other node may go on with.
    const jobs = Array.from({ length: gpus * maxJobs }, (_, at) => complete(openai, 2 * at, tokens));
    const flights = await until("all nodes to be busy", () => {
      const all = inFlight(loop);
      return [...all.values()].flat().length === jobs.length ? all : undefined;
    });
    const victims = await disturb();
    asked.push(...(await Promise.all(jobs)));
    const moved = victims.flatMap(({ pod }) => (flights.get(pod) ?? []).map(({ id }) => id));
    expect(moved).toHaveLength(victims.length * maxJobs);
    const { retried } = await expectNoneLost();
    expect(retried).toEqual(expect.arrayContaining(moved));
    for (const { pod, since } of victims) {
      const [back] = agentSaid(pod, /handed back/, since);
      expect((back?.time ?? Number.NaN) - since).toBeLessThan(timeoutMs + slackMs);
    }
  }

  /** Lines of a pod's agents since then. */
  const agentSaid = (pod: string, what: RegExp, since: number) =>
    containerLines(loop.hosts, "agent")
      .map((entry) => ({ ...entry, time: Date.parse(String(entry.line["time"])) }))
      .filter((entry) => entry.pod === pod && entry.time >= since && what.test(String(entry.line["msg"])));

  /** When the drain of a pod began, which nobody had planned. */
  function drainOf(pod: string, since: number): { pod: string; since: number } {
    const [begun] = agentSaid(pod, /^draining$/, since);
    expect(begun?.line).toMatchObject({ planned: false, timeoutMs });
    return { pod, since: begun?.time ?? Number.NaN };
  }

  const uidOf = async (name: string) =>
    (await pods()).find(({ metadata }) => metadata.name === name)?.metadata.uid;

  /** Evicts a pod as `kubectl drain` does, which asks again while the budget says no; resolves when there is another. */
  async function evict(name: string): Promise<void> {
    const uid = await uidOf(name);
    await until("the eviction to be taken", async () => {
      await loop.kube.create(`/api/v1/namespaces/${namespace}/pods/${name}/eviction`, {
        apiVersion: "policy/v1",
        kind: "Eviction",
        metadata: { name, namespace },
      });
      return true;
    });
    const isOther = async () => ![uid, undefined].includes(await uidOf(name));
    await until(`another pod ${name}`, isOther, patience);
  }

  it("F44 [×3] preempted: its jobs go back when the eviction timeout is over, and others answer them", async () => {
    await amidJobs(jobMs, async () => {
      const since = Date.now();
      const before = await placed();
      await tenant("inference-of-others", taken);
      await untilRuns("inference-of-others");
      const left = new Set((await placed()).map(({ metadata }) => metadata.uid));
      const victims = before.filter(({ metadata }) => !left.has(metadata.uid));
      expect(victims).toHaveLength(taken);
      return victims.map(({ metadata }) => drainOf(metadata.name, since));
    });
    await leave("inference-of-others");
    await loop.untilReady(gpus, 120_000);
  });

  it("F44 evicted by the API: the same, and it comes back on what its host has free", async () => {
    const name = `${poolName}-0`;
    await amidJobs(jobMs, async () => {
      const since = Date.now();
      await evict(name);
      return [drainOf(name, since)];
    });
    await loop.untilReady(gpus, 120_000);
  });

  it("F44 evicted while a rollout drains it, which has more time: the eviction's time counts", async () => {
    let digest = "";
    // So long that they outlast the rollout's beginning and the timeout.
    await amidJobs(10 * timeoutMs, async () => {
      const from = Date.now();
      digest = await loop.publish("v3");
      const draining = await until(
        "a node that drains for the rollout",
        async () =>
          (await loop.nodes()).find(
            ({ metadata }) => agentSaid(metadata.name, /^draining$/, from).length > 0,
          ),
        patience,
      );
      const { name } = draining.metadata;
      const [begun] = agentSaid(name, /^draining$/, from);
      expect(begun?.line).toMatchObject({ planned: true, timeoutMs: drain.timeoutSeconds * 1000 });
      const since = Date.now();
      await evict(name);
      return [{ pod: name, since }];
    });
    // The one that was evicted may stay without a host for a minute and more.
    await until(
      "the rollout to end",
      async () => (await loop.nodes()).every(({ status }) => status?.config?.applied === digest),
      { ...patience, deadlineMs: 240_000 },
    );
    await loop.untilReady(gpus, 120_000);
  }, 480_000);
});

describe("a pod that is deleted while its programs start", () => {
  const rounds = 5;
  const stepMs = 40;
  /** Less than the operator waits before it has a pod killed that has had its time. */
  const endsWithinMs = 20_000;

  /** Deletes a node's pod again and again, each time a little later after it came to its host. Returns how long each one took, ms. */
  async function deleteAtStart(name: string, afterMs: number): Promise<number[]> {
    const path = `/api/v1/namespaces/${namespace}/pods/${name}`;
    const took: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const { metadata } = await until(
        `a pod ${name} on the host`,
        async () => {
          const pod = await loop.kube.get<Victim>(path);
          return pod?.spec.nodeName !== undefined && pod.metadata.deletionTimestamp === undefined
            ? pod
            : undefined;
        },
        { ...patience, intervalMs: 50 },
      );
      await wait(afterMs + round * stepMs);
      const since = performance.now();
      await loop.kube.delete(path);
      const isGone = async () => (await loop.kube.get<Victim>(path))?.metadata.uid !== metadata.uid;
      await until(`pod ${name} to end`, isGone, patience);
      took.push(performance.now() - since);
    }
    return took;
  }

  it("ends within seconds: none of them misses its SIGTERM", async () => {
    const names = Array.from({ length: gpus }, (_, number) => `${poolName}-${number}`);
    const took = await Promise.all(names.map((name, at) => deleteAtStart(name, at * rounds * stepMs)));
    expect(Math.max(...took.flat())).toBeLessThan(endsWithinMs);
    await loop.untilReady(gpus, 120_000);
  });
});
