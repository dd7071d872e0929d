/**
 * Fleets at rest as earlier versions of the operator left them, before the operator of this tree. What it renders, hashes or says
 * otherwise than they did would roll or rewrite every fleet that is upgraded: so it has to leave all of it as it is.
 */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import type { PlansView } from "../../src/cli/plan/command.ts";
import { parseOptions } from "../../src/cli/options.ts";
import { run } from "../../src/cli/run.ts";
import { plainScreen } from "../../src/cli/text/screen.ts";
import { Client } from "../../src/kube/client.ts";
import { fromKubeconfig } from "../../src/kube/config.ts";
import { Transport } from "../../src/kube/transport.ts";
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
    // The controller manager puts one ConfigMap of its own into each namespace, in its own time.
    const before = await until("all objects", async () => {
      const found = await identitiesOf(scene);
      expect(found.length).toBe(fleet.objects.length + 1);
      return found;
    });

    expect(await runOver(scene)).toEqual([]);
    expect(await runOver(scene)).toEqual([]);
    expect(await identitiesOf(scene)).toEqual(before);

    // So says `kubectl resultity plan`, from what the operator has put into the ConfigMap; and of a change, what it does.
    const admin = new Transport({
      connection: await fromKubeconfig(stand.bed.adminKubeconfig),
      userAgent: "plan",
    });
    try {
      const client = new Client(admin);
      const plan = async (line: string, manifest = "") => {
        const options = parseOptions(["plan", ...line.split(" "), "-o", "json"]);
        if (typeof options === "string") throw new Error(options);
        const { text } = await run(options, {
          reader: client,
          writer: client,
          namespace: scene.namespace,
          now: Date.now(),
          screen: plainScreen,
          readFile: () => Promise.resolve(manifest),
        });
        const view: PlansView = JSON.parse(text);
        expect(view.notes).toEqual([]);
        return [...view.pools.flatMap((pool) => pool.nodes ?? []), ...view.nodes].map(
          ({ node, does }) => `${node} ${does}`,
        );
      };
      expect(await plan("rnet/approved")).toEqual(["whole-0 none", "whole-1 none"]);
      const whole = await scene.pool("whole");
      if (!whole) throw new Error("pool whole is gone");
      const { apiVersion, kind, spec } = whole;
      const template = { ...spec.template, spec: { ...spec.template.spec, models: [] } };
      const { runtime } = template.spec;
      const changed = { ...template, spec: { ...template.spec, runtime: { ...runtime, args: ["--new"] } } };
      const manifest = {
        apiVersion,
        kind,
        metadata: { name: "whole" },
        spec: { ...spec, template: changed },
      };
      expect(await plan("-f -", JSON.stringify(manifest))).toEqual([
        "whole-0 restart-engine",
        "whole-1 restart-engine",
      ]);
      const wrong = { ...manifest, spec: { ...manifest.spec, replicas: -1 } };
      await expect(plan("-f -", JSON.stringify(wrong))).rejects.toThrow("spec.replicas");
      expect((await scene.pool("whole"))?.metadata.generation).toBe(whole.metadata.generation);
    } finally {
      admin.close();
    }

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
