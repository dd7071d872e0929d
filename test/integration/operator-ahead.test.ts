import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Pod } from "../../src/kube/resources.ts";
import { conditionOf, type Scene, type Stand, startScene, startStand } from "../faults/operator-scene.ts";
import { buildingMs } from "../testbed/control-plane.ts";
import { until } from "../testbed/until.ts";

/** What is fetched before nodes are stopped for it, on a real API server; hosts and agents are played. */

let stand: Stand;
beforeAll(async () => {
  stand = await startStand();
}, buildingMs);
afterAll(() => stand[Symbol.asyncDispose]());

const gib = 2 ** 30;

/** A pool of two nodes that serve. */
async function servingPool(name: string, prefetch: object, freeBytes = 100 * gib): Promise<Scene> {
  const scene = await startScene(stand, name);
  scene.imageDisk = { free: freeBytes, total: 200 * gib };
  await scene.startOperator();
  await scene.createPool("chat", 2, { strategy: { rollingUpdate: { maxUnavailable: 1, prefetch } } });
  await scene.untilReady(2);
  await scene.untilQuiet();
  return scene;
}

const prefetches = async (scene: Scene): Promise<readonly Pod[]> => {
  const all = await scene.list<Pod>(scene.core("pods"));
  return all.filter(({ metadata }) => metadata.labels?.["resultity.com/prefetch"] === "runtime");
};

/** Sets the network's maintenance windows. */
async function windows(scene: Scene, maintenanceWindows: readonly object[]): Promise<void> {
  const path = scene.path("resultitynetworks", "testnet");
  await stand.kube.patch(path, "merge", { spec: { config: { maintenanceWindows } } });
}

/** A window that is not open today. */
const farWindow = { schedule: `0 0 1 ${((new Date().getUTCMonth() + 6) % 12) + 1} *`, durationMinutes: 1 };

const untilApplied = (scene: Scene, digest: string) =>
  until(
    `two nodes at ${digest}`,
    async () => {
      const nodes = await scene.nodes();
      const done = nodes.filter(
        (node) => node.status?.config?.applied === digest && conditionOf(node, "Ready") === "True AllWell",
      );
      if (done.length === 2) return true;
      throw new Error(JSON.stringify(nodes.map(({ status }) => [status?.config, status?.conditions])));
    },
    { deadlineMs: 100_000 },
  );

describe("the disk of a host", () => {
  it("that is too full stops a rollout before an image comes: the node says so and serves on, and all goes on when there is room", async () => {
    await using scene = await servingPool("disk", { minFreeDisk: "20Gi" }, 3 * gib);
    const digest = scene.publish("v2");
    const full = await until("a node that says so", async () => {
      const nodes = await scene.nodes();
      const found = nodes.find((node) => conditionOf(node, "ConfigApplied") === "False HostDiskFull");
      if (found) return found;
      throw new Error(JSON.stringify(nodes.map(({ status }) => [status?.config, status?.conditions])));
    });
    expect(conditionOf(full, "Ready")).toBe("True HostDiskFull");
    await until("the pool to name the node", async () => {
      const pool = await scene.pool("chat");
      const text = JSON.stringify(pool?.status?.conditions);
      for (const part of [full.metadata.name, "host-1", `${3 * gib} bytes`, `${20 * gib} bytes`])
        expect(text).toContain(part);
      return true;
    });
    expect(await prefetches(scene)).toEqual([]);
    const applied = (await scene.nodes()).filter(({ status }) => status?.config?.applied === digest);
    expect(applied).toEqual([]);
    scene.imageDisk = { free: 30 * gib, total: 200 * gib };
    await untilApplied(scene, digest);
  }, 180_000);
});

describe("before the maintenance window", () => {
  it("nodes get image and weights while none is told to move; when it opens they are restarted, and nothing is fetched any more", async () => {
    await using scene = await servingPool("window", { maxParallel: 1 });
    await windows(scene, [farWindow]);
    const before = (await scene.nodes())[0]?.status?.config?.applied;
    const digest = scene.publish("v2");
    await until("two nodes that are ready for it", async () => {
      const nodes = await scene.nodes();
      const preparing = nodes.filter(
        ({ status: { config } = {} }) => config?.next === digest && config.staged !== digest,
      );
      expect(preparing.length).toBeLessThanOrEqual(1);
      if (nodes.every(({ status }) => status?.config?.staged === digest)) return true;
      throw new Error(JSON.stringify(nodes.map(({ status }) => [status?.config, status?.conditions])));
    });
    await scene.untilQuiet();
    for (const node of await scene.nodes()) {
      expect(node.status?.config).toMatchObject({ target: before, applied: before, next: digest });
      expect(conditionOf(node, "Ready")).toBe("True AllWell");
    }
    expect(conditionOf((await scene.pool("chat")) ?? {}, "Progressing")).toBe("True MaintenanceWindow");
    // One host, one image: the two share it, and it is held until it runs.
    expect(await prefetches(scene)).toHaveLength(1);

    const from = scene.proxy.accepted().length;
    await windows(scene, []);
    await untilApplied(scene, digest);
    await until("nothing to be held any more", async () => (await prefetches(scene)).length === 0);
    const made = scene.proxy
      .accepted()
      .slice(from)
      .filter(({ method, resource }) => method === "POST" && resource === "pods");
    expect(made).toEqual([]);
    for (const node of await scene.nodes()) expect(node.status?.config?.next).toBeUndefined();
  }, 180_000);
});
