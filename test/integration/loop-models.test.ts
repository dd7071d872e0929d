/**
 * Weights in the whole system: the operator stages a config whose weights have to be fetched first, in pods with real mounts.
 */
import { afterAll, beforeAll, expect, it } from "vitest";
import { makeFile, named, WeightsServer } from "../agent/fixture/weights.ts";
import { loopModel, loopSnapshot } from "../loop/authority.ts";
import { buildBundles } from "../loop/build.ts";
import { runLoad } from "../loop/load.ts";
import { type Loop, networkName, startLoop } from "../loop/loop.ts";
import { containerLines } from "../loop/pod-logs.ts";
import { until } from "../testbed/until.ts";

const mib = 1024 * 1024;
let loop: Loop;
let server: WeightsServer;

beforeAll(async () => {
  await buildBundles();
  server = await WeightsServer.start();
  loop = await startLoop({ hosts: 1, gpusPerHost: 2, tokenDelayMs: 5 });
  await loop.applySamples({ replicas: 1 });
  await loop.untilReady(1);
}, 1_500_000);

afterAll(async () => {
  await loop?.stop();
  await server?.stop();
});

/** Starts of engines, in any order: the weights with which each began. */
const starts = () =>
  containerLines(loop.hosts, "runtime")
    .filter(({ line }) => line["event"] === "start")
    .map(({ pod, line }) => ({ pod, weights: line["weights"] }));

const load = () =>
  runLoad({ baseURL: loop.ioURL, apiKey: loop.apiKey, total: 6, concurrency: 2, maxTokens: 4 });

const applied = async () => (await loop.nodes()).map(({ status }) => status?.config?.applied);

it("are fetched while the old engine serves; then the same pod runs the new one, and new pods wait for them", async () => {
  const weights = makeFile("sub/w.bin", 3 * mib);
  server.put("tiny", weights);
  server.bends.holdAfter = mib;
  const first = loopSnapshot(networkName, "v1", { tokenDelayMs: 5 });
  const digest = await loop.authority.publish({
    ...first,
    version: "v1-weights",
    runtimes: first.runtimes.map((runtime) => ({
      ...runtime,
      command: [...runtime.command, "--weights", `{model_path}/${weights.path}`],
    })),
    models: [
      { name: loopModel, engines: [], files: named(weights), sources: [`${server.url}/${loopModel}`] },
    ],
  });
  await until("the download", () => server.sent > 0, { deadlineMs: 60_000 });
  const [before] = await loop.pods();
  expect((await load()).every(({ ok }) => ok)).toBe(true);
  expect(starts()).toHaveLength(1);
  expect(await applied()).toEqual([loop.firstDigest]);

  server.flow();
  await until("the new config", async () => (await applied())[0] === digest, { deadlineMs: 60_000 });
  await loop.untilReady(1);
  expect(starts().map(({ weights: seen }) => seen)).toEqual([undefined, weights.sha256]);
  const [after] = await loop.pods();
  expect(after?.metadata.uid).toBe(before?.metadata.uid);
  expect(after?.status?.containerStatuses?.map(({ restartCount }) => restartCount)).toEqual([0]);
  expect((await load()).every(({ ok }) => ok)).toBe(true);

  await loop.scale(2);
  await loop.untilReady(2);
  expect(starts().map(({ weights: seen }) => seen)).toEqual([undefined, weights.sha256, weights.sha256]);
  expect(await applied()).toEqual([digest, digest]);
});
