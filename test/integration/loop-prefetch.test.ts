/**
 * A config whose image no host can get, in the whole system under load: it costs nothing, is said where people look, and the next
 * config goes through; its image comes to the host once for all nodes of it.
 */
import { afterAll, beforeAll, expect, it } from "vitest";
import { findCondition } from "../../src/api/v1alpha1/conditions.ts";
import { buildBundles } from "../loop/build.ts";
import { engineImage } from "../loop/images.ts";
import { type ClientEntry, runLoad } from "../loop/load.ts";
import { isNodeReady, type Loop, startLoop } from "../loop/loop.ts";
import { AuditTail, isRealWrite, operatorUser } from "../loop/operator-run.ts";
import { enginePid } from "../loop/victims.ts";
import { until } from "../testbed/until.ts";

const nodes = ["chat-0", "chat-1"];

let loop: Loop;

beforeAll(async () => {
  await buildBundles();
  loop = await startLoop({ hosts: 1, gpusPerHost: 2, tokenDelayMs: 10 });
  await loop.applySamples({ replicas: nodes.length });
  await loop.untilReady(nodes.length);
}, 1_500_000);

afterAll(() => loop?.stop());

it("costs no second of service, is told, and the next config rolls", async () => {
  const tail = new AuditTail(loop, operatorUser);
  const enough = new AbortController();
  const entries: ClientEntry[] = [];
  const load = runLoad({
    baseURL: loop.ioURL,
    apiKey: loop.apiKey,
    total: 100_000,
    concurrency: 4,
    maxTokens: 8,
    signal: enough.signal,
    onEntry: (entry) => entries.push(entry),
  });
  try {
    const engines = nodes.map((node) => enginePid(loop, node));
    const digest = await loop.publish("nowhere");
    const stuck = await until("a node whose image does not come", async () => {
      const seen = await loop.nodes();
      return seen.find(
        ({ status }) => findCondition(status?.conditions, "ConfigApplied")?.reason === "PrefetchFailed",
      );
    });
    const why = findCondition(stuck.status?.conditions, "ConfigApplied")?.message;
    expect(why).toContain(engineImage("nowhere"));
    expect(why).toMatch(/ErrImagePull|ImagePullBackOff/);
    expect(stuck.status?.config?.target).toBe(digest);
    await until("the pool to say so", async () => {
      const progress = findCondition((await loop.pool())?.status?.conditions, "Progressing");
      return progress?.status === "False" && progress.message.includes("PrefetchFailed");
    });

    // It is asked for answers as before, and gives them.
    const since = new Set((await loop.ioJobs()).map(({ id }) => id));
    await until("answers of that node", async () => {
      expect((await loop.nodes()).filter(isNodeReady)).toHaveLength(nodes.length);
      const jobs = await loop.ioJobs();
      return jobs.filter(({ id, node }) => !since.has(id) && node === stuck.status?.nodeId).length >= 20;
    });
    expect(nodes.map((node) => enginePid(loop, node))).toEqual(engines);
    expect((await loop.pods()).map(({ status }) => status?.containerStatuses?.[0]?.restartCount)).toEqual([
      0, 0,
    ]);

    const next = await loop.publish("v2");
    await until(
      "the next config on all nodes",
      async () => {
        const seen = await loop.nodes();
        return seen.every(({ status }) => status?.config?.applied === next) && seen.every(isNodeReady);
      },
      { deadlineMs: 60_000, intervalMs: 200 },
    );
    await until("nothing to be held any more", async () => (await loop.prefetches()).length === 0);
  } finally {
    enough.abort();
    await load;
  }
  expect(entries.length).toBeGreaterThan(50);
  expect(entries.filter(({ ok }) => !ok)).toEqual([]);
  tail.read();
  const made = tail.entries.filter((entry) => isRealWrite(entry) && entry.verb === "create");
  // One for the image that never came and one for the other, of which the second node finds the first's.
  expect(made.filter(({ name }) => name.startsWith("prefetch-"))).toHaveLength(2);
});
