/**
 * Fleets at rest as earlier versions of the operator left them, before the operator of this tree. What it renders, hashes or says
 * otherwise than they did would roll or rewrite every fleet that is upgraded: so it has to leave all of it as it is.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { settleMs } from "../../src/operator/node/pace.ts";
import {
  type RecordedFleet,
  recordedAddress,
  restoreFleet,
  serveRecorded,
  whenFree,
} from "../faults/fleet-at-rest.ts";
import { emptyScene, type Scene, type Stand, startStand } from "../faults/operator-scene.ts";
import { startScriptedIo } from "../operator/network/scripted-io.ts";
import type { KubeObject } from "../testbed/kube-json.ts";
import { until } from "../testbed/until.ts";

const folder = join(import.meta.dirname, "../faults/fleets");
const versions = readdirSync(folder).map((name) => name.replace(/\.json$/, ""));

let stand: Stand;

beforeAll(async () => {
  stand = await startStand();
}, 1_500_000);
afterAll(async () => {
  await stand?.[Symbol.asyncDispose]();
});

/** Every object of the fleet. */
async function identitiesOf(scene: Scene): Promise<readonly string[]> {
  const core = ["pods", "secrets", "configmaps"].map((plural) => scene.core(plural));
  const ours = ["resultitynetworks", "resultitynodepools", "resultitynodes"].map((plural) =>
    scene.path(plural),
  );
  const lists = await Promise.all(
    [...core, ...ours, scene.budgets].map((path) => scene.list<KubeObject>(path)),
  );
  return lists.flat().map(({ metadata }) => `${metadata.name} ${metadata.uid}`);
}

/** Starts the operator over the fleet and gives it time to have written whatever it has to; returns what it asked to be written. */
async function runOver(scene: Scene): Promise<readonly string[]> {
  const from = scene.proxy.log.length;
  const operator = await scene.startOperator();
  const { caches, configs, fleet } = operator.context;
  await until("both networks to be verified and heard", () => {
    const keys = ["testnet", "approved"].map((name) => `${scene.namespace}/${name}`);
    if (keys.every((key) => configs.get(key) && fleet.live(key))) return true;
    throw new Error(
      JSON.stringify([
        keys.map((key) => [configs.get(key)?.current, fleet.live(key)]),
        operator.log.slice(-3),
      ]),
    );
  });
  expect(caches.nodes.store.size).toBeGreaterThan(9);
  // Longer than a status is kept back, and two looks at the network.
  await scene.untilQuiet(settleMs + 6_000);
  await operator.stop();
  return scene.proxy.log
    .slice(from)
    .filter(({ write }) => write)
    .map(({ method, resource, name, body }) => `${method} ${resource} ${name} ${body.slice(0, 800)}`);
}

it.each(versions)(
  "writes nothing over a fleet of version %s, at its first start and at the next",
  async (version) => {
    const fleet: RecordedFleet = JSON.parse(readFileSync(join(folder, `${version}.json`), "utf8"));
    const io = await whenFree(() => startScriptedIo(recordedAddress));
    await using scene = await emptyScene(stand, fleet.namespace, io);
    serveRecorded(io, fleet);
    await restoreFleet(stand, fleet);
    await scene.play(fleet.io.told);
    const before = await identitiesOf(scene);
    expect(before.length).toBe(fleet.objects.length + 1);

    expect(await runOver(scene)).toEqual([]);
    expect(await runOver(scene)).toEqual([]);
    expect(await identitiesOf(scene)).toEqual(before);

    // It is not that it does nothing: what somebody takes away it restores.
    const operator = await scene.startOperator();
    await stand.kube.patch(scene.core("pods", "plain-0"), "merge", {
      metadata: { labels: { "resultity.com/node": null } },
    });
    await until("the label to be back", async () => {
      const pod = await scene.pod("plain-0");
      return pod?.metadata.labels?.["resultity.com/node"] === "plain-0";
    });
    await operator.stop();
  },
);
