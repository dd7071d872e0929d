/**
 * A pool of three tries each new config on its first node: real operator, pods, agents, service and engines. What the trial
 * is judged by is what the service says of the jobs in the fleet feed.
 */
import { spawn } from "node:child_process";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { PoolStatus } from "../../src/api/v1alpha1/pool.ts";
import type { Snapshot } from "../../src/protocol/config/snapshot.ts";
import { loopSnapshot } from "../loop/authority.ts";
import { buildBundles } from "../loop/build.ts";
import { type ClientEntry, runLoad } from "../loop/load.ts";
import { type Loop, namespace, networkName, poolName, startLoop } from "../loop/loop.ts";
import { bundle } from "../loop/paths.ts";
import { until } from "../testbed/until.ts";

/** Slow enough that the clients, who ask without a pause, leave this machine time for others. */
const tokenDelayMs = 20;
const canary = { replicas: 1, jobs: 20, soakSeconds: 2, maxErrorRatePercent: 5 };
/** Slots of a node: fewer than there are clients, so that a node which the service would rather leave out has jobs too. */
const maxJobs = 2;
const patience = { deadlineMs: 90_000, intervalMs: 200 };
let loop: Loop;
/** Digest that the pool runs when a test begins. */
let good: string;

beforeAll(async () => {
  await buildBundles();
  loop = await startLoop({ hosts: 1, gpusPerHost: 3, tokenDelayMs, maxJobs });
  await loop.applySamples({ replicas: 3 });
  await kubectl("patch", "rpool", poolName, "--type=merge", "-p", patchOf({ canary }));
  await loop.untilReady(3);
  good = loop.firstDigest;
}, 1_500_000);

afterAll(() => loop?.stop());

const patchOf = (rollingUpdate: object) => JSON.stringify({ spec: { strategy: { rollingUpdate } } });
const kubectl = (...args: readonly string[]) => loop.bed.kubectlOk(["-n", namespace, ...args]);

const status = async (): Promise<PoolStatus> => (await loop.pool())?.status ?? {};
const progress = async () => (await status()).conditions?.find(({ type }) => type === "Progressing");
/** What each node runs, by its number. */
const applied = async () => (await loop.nodes()).map(({ status: { config } = {} }) => config?.applied);

/** A config like the first, under another version, with more flags for the engine. */
function publish(version: string, flags: readonly string[] = []): Promise<string> {
  const first = loopSnapshot(networkName, "v1", { tokenDelayMs, maxJobs });
  const withFlags = ({ command, ...runtime }: Snapshot["runtimes"][number]) => ({
    ...runtime,
    command: [...command, "--version", version, ...flags],
  });
  return loop.authority.publish({ ...first, version, runtimes: first.runtimes.map(withFlags) });
}

const load = (total: number, signal?: AbortSignal) =>
  runLoad({
    baseURL: loop.ioURL,
    apiKey: loop.apiKey,
    total,
    concurrency: 8,
    maxTokens: 6,
    ...(signal ? { signal } : {}),
  });

/** Asks for completions until `done` is; no client may have noticed anything. */
async function underLoad(done: () => Promise<unknown>): Promise<readonly ClientEntry[]> {
  const stop = new AbortController();
  const running = load(100_000, stop.signal);
  try {
    await done();
  } finally {
    stop.abort();
  }
  return running;
}

const unanswered = (entries: readonly ClientEntry[]) => entries.filter(({ ok }) => !ok);

const untilWaits = (digest: string) =>
  until(
    "the trial to wait for traffic",
    async () => {
      const { reason, status: is, message } = (await progress()) ?? {};
      expect({ is, reason }).toEqual({ is: "True", reason: "Canary" });
      expect(message).toBe(
        `config ${digest} is tried: ${poolName}-0 have to answer 20 jobs first; without traffic it waits`,
      );
      return true;
    },
    patience,
  );

const untilAll = (digest: string) =>
  until(
    "all nodes to run the config",
    async () => {
      expect(await applied()).toEqual([digest, digest, digest]);
      return true;
    },
    patience,
  );

it("one without traffic waits and says so; with traffic that is well it passes, and the others move", async () => {
  const digest = await publish("better");
  await untilWaits(digest);
  expect(await applied()).toEqual([digest, good, good]);
  expect((await status()).rollout).toMatchObject({ target: digest, canary: "Running", updated: 1, total: 3 });
  const entries = await underLoad(() => untilAll(digest));
  expect(unanswered(entries)).toEqual([]);
  expect(entries.length).toBeGreaterThanOrEqual(20);
  expect((await status()).rollout).toMatchObject({ canary: "Passed" });
  await loop.untilReady(3);
  good = digest;
});

it("one with 10 % errors goes back by itself, and no job is lost by it", async () => {
  const bad = await publish("worse", ["--fail-every", "10"]);
  const entries = await underLoad(async () => {
    await until(
      "the config to be rejected",
      async () => {
        const [rejected] = (await status()).rejected ?? [];
        expect(rejected).toMatchObject({ digest: bad, instead: good });
        expect(rejected?.reason).toMatch(/^\d+ of \d+ jobs failed on chat-0, at most 5 % may$/);
        return true;
      },
      patience,
    );
    await untilAll(good);
  });
  expect(unanswered(entries)).toEqual([]);
  await loop.untilReady(3);
  await until(
    "the reason to be told",
    async () => {
      expect(await progress()).toMatchObject({ status: "False", reason: "RolledBack" });
      return true;
    },
    patience,
  );
  expect((await progress())?.message).toContain("kubectl resultity rollout promote chat -n inference");
  // The others never ran it.
  const targets = (await loop.nodes()).map(({ status: { config } = {} }) => config?.target);
  expect(targets).toEqual([good, good, good]);
});

it("a person lets a config through that has no traffic to be judged by", async () => {
  const digest = await publish("trusted");
  await untilWaits(digest);
  expect(await applied()).toEqual([digest, good, good]);
  await promote();
  await untilAll(digest);
  await loop.untilReady(3);
  expect(unanswered(await load(12))).toEqual([]);
  // A commit reaches the disk after the client's answer.
  await until("the last commits", async () => {
    expect((await loop.ioJobs()).filter(({ state }) => !["COMMITTED", "CONFIRMED"].includes(state))).toEqual(
      [],
    );
    return true;
  });
});

/** `kubectl resultity rollout promote`, as a person types it. */
function promote(): Promise<void> {
  const args = ["rollout", "promote", poolName, "-n", namespace, "--kubeconfig", loop.bed.adminKubeconfig];
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [bundle("kubectl-resultity"), ...args]);
    let told = "";
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (part: Buffer) => (told += part.toString()));
    child.once("error", reject);
    child.once("close", (code) =>
      code === 0 ? resolve() : reject(new Error(`promote ended with ${code}: ${told}`)),
    );
  });
}
