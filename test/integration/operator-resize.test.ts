import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ResultityNodePool } from "../../src/api/v1alpha1/pool.ts";
import type { Pod } from "../../src/kube/resources.ts";
import { conditionOf, type Scene, type Stand, startScene, startStand } from "../faults/operator-scene.ts";
import { buildingMs } from "../testbed/control-plane.ts";
import type { KubeObject } from "../testbed/kube-json.ts";
import { until } from "../testbed/until.ts";

/** CPU and memory of nodes that serve, on a real API server; hosts are played. */

let stand: Stand;
beforeAll(async () => {
  stand = await startStand();
}, buildingMs);
afterAll(() => stand[Symbol.asyncDispose]());

const size = (cpu: string, memory: string) => ({ limits: { cpu, memory } });

/** A pool of three nodes that serve with 2 cores and 4 GiB. */
async function servingPool(name: string): Promise<Scene> {
  const scene = await startScene(stand, name);
  await scene.startOperator();
  await scene.createPool("chat", 3, { template: templateOf("2", "4Gi") });
  await scene.untilReady(3);
  await scene.untilQuiet();
  return scene;
}

const templateOf = (cpu: string, memory: string) => ({
  spec: {
    networkRef: { name: "testnet" },
    gpu: { count: 0 },
    runtime: { engine: "openai", resources: size(cpu, memory) },
  },
});

async function ask(scene: Scene, cpu: string, memory: string): Promise<void> {
  const path = scene.path("resultitynodepools", "chat");
  await stand.kube.patch<ResultityNodePool>(path, "merge", { spec: { template: templateOf(cpu, memory) } });
}

const limitsOf = (pod: Pod | undefined) => {
  const { cpu, memory } =
    pod?.spec?.containers.find(({ name }) => name === "runtime")?.resources?.limits ?? {};
  return { cpu, memory };
};

/** Resolves when all pods have this size; returns the fewest nodes that were ready meanwhile. */
async function untilSized(scene: Scene, cpu: string, memory: string, count = 3): Promise<number> {
  let fewest = count;
  await until(
    `${count} pods with ${cpu} cores and ${memory}`,
    async () => {
      const nodes = await scene.nodes();
      fewest = Math.min(
        fewest,
        nodes.filter((node) => conditionOf(node, "Ready")?.startsWith("True")).length,
      );
      const sizes = (await scene.pods())
        .filter(({ metadata }) => metadata.deletionTimestamp === undefined)
        .map(limitsOf);
      const done = sizes.filter((seen) => seen.cpu === cpu && seen.memory === memory);
      if (done.length === count) return true;
      throw new Error(JSON.stringify([sizes, nodes.map(({ status }) => status?.conditions)]));
    },
    { deadlineMs: 60_000 },
  );
  return fewest;
}

interface Role extends KubeObject {
  readonly rules?: readonly { readonly resources: readonly string[] }[];
}

const uids = async (scene: Scene) => (await scene.pods()).map(({ metadata }) => metadata.uid).toSorted();

/** What the kubelet says of a pod's new size. */
async function say(scene: Scene, name: string, reason: string): Promise<void> {
  const pod = await scene.pod(name);
  const condition = {
    type: "PodResizePending",
    status: "True",
    reason,
    message: "Node didn't have enough resource: cpu",
    observedGeneration: pod?.metadata.generation,
  };
  const path = `${scene.core("pods", name)}/status`;
  await stand.kube.patch(path, "strategic", { status: { conditions: [condition] } });
}

describe("CPU and memory of nodes that serve", () => {
  it("are changed in the running pods of a pool at once: no pod is stopped, no agent is told, no node is out of service", async () => {
    await using scene = await servingPool("resize");
    const before = await uids(scene);
    const from = scene.proxy.accepted().length;
    await ask(scene, "4", "8Gi");
    expect(await untilSized(scene, "4", "8Gi")).toBe(3);
    await scene.untilQuiet();
    expect(await uids(scene)).toEqual(before);
    const writes = scene.proxy.accepted().slice(from);
    expect(writes.filter(({ method }) => method === "DELETE")).toEqual([]);
    expect(writes.filter(({ body }) => body.includes("plannedStop"))).toEqual([]);
    const [pod] = await scene.pods();
    expect(pod?.status?.qosClass).toBe("Guaranteed");
    // Less again, written otherwise.
    await ask(scene, "2500m", "4096Mi");
    expect(await untilSized(scene, "2500m", "4Gi")).toBe(3);
    expect(await uids(scene)).toEqual(before);
  });

  it("that a host has no room for are waited for and told; that it can never have make a new pod, one node after the other", async () => {
    await using scene = await servingPool("infeasible");
    const before = await uids(scene);
    await ask(scene, "4", "8Gi");
    await untilSized(scene, "4", "8Gi");
    await scene.untilQuiet();
    for (const name of ["chat-0", "chat-1"]) await say(scene, name, "Deferred");
    await scene.untilCondition("chat-0", "Scheduled", "True ResizeDeferred");
    const node = await scene.untilCondition("chat-1", "Ready", "True ResizeDeferred");
    expect(JSON.stringify(node.status?.conditions)).toContain("free some there");
    await scene.untilQuiet();
    expect(await uids(scene)).toEqual(before);
    for (const name of ["chat-0", "chat-1"]) await say(scene, name, "Infeasible");
    let fewest = 3;
    await until("two new pods", async () => {
      const nodes = await scene.nodes();
      fewest = Math.min(fewest, nodes.filter((one) => conditionOf(one, "Ready")?.startsWith("True")).length);
      const kept = (await uids(scene)).filter((uid) => before.includes(uid));
      return kept.length === 1 && nodes.every((one) => conditionOf(one, "Ready") === "True AllWell");
    });
    expect(fewest).toBeGreaterThanOrEqual(2);
  });

  it("that the API server finds too much for the host make a new pod when it is a node's turn, and the others stay", async () => {
    await using scene = await servingPool("too-much");
    const before = await uids(scene);
    await ask(scene, "65", "8Gi");
    // Played hosts take whatever is bound to them, as no real one does; here the first new pod stays where it is.
    const replaced = new Set<string>();
    scene.treat = ({ metadata }) => {
      if (before.includes(metadata.uid)) return "run";
      replaced.add(metadata.uid);
      return "ignore";
    };
    await until("one new pod", () => replaced.size === 1);
    await until("the others to say so", async () => {
      const said = (await scene.nodes()).map((node) => conditionOf(node, "Ready"));
      return said.filter((ready) => ready === "True ResizeInfeasible").length === 2;
    });
    await scene.untilQuiet();
    expect((await uids(scene)).filter((uid) => before.includes(uid))).toHaveLength(2);
    const node = (await scene.nodes()).find((one) => conditionOf(one, "Ready") === "True ResizeInfeasible");
    expect(JSON.stringify(node?.status?.conditions)).toContain("requested: 65500, allocatable: 64000");
  });

  it("of hosts that cannot change a running pod come with new pods, one node after the other", async () => {
    await using scene = await startScene(stand, "old-hosts");
    scene.resizes = false;
    await scene.startOperator();
    await scene.createPool("chat", 3, { template: templateOf("2", "4Gi") });
    await scene.untilReady(3);
    await scene.untilQuiet();
    const before = await uids(scene);
    await ask(scene, "4", "8Gi");
    expect(await untilSized(scene, "4", "8Gi")).toBeGreaterThanOrEqual(2);
    await scene.untilReady(3);
    expect((await uids(scene)).filter((uid) => before.includes(uid))).toEqual([]);
  });

  it("F18 the operator may not resize pods: a condition and an event say so, and the node serves on", async () => {
    await using scene = await startScene(stand, "no-resize");
    const role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/resultity-operator";
    const { rules = [] } = (await stand.kube.get<Role>(role)) ?? {};
    const without = rules.filter(({ resources }) => !resources.includes("pods/resize"));
    expect(without.length).toBe(rules.length - 1);
    await stand.kube.patch(role, "merge", { rules: without });
    await scene.startOperator();
    await scene.createPool("chat", 1, { template: templateOf("2", "4Gi") });
    await scene.untilReady(1);
    await ask(scene, "4", "8Gi");
    const node = await scene.untilCondition("chat-0", "Ready", "True PermissionMissing");
    expect(JSON.stringify(node.status?.conditions)).toContain("may not patch pods/resize");
    const written = () => scene.proxy.accepted().map(({ body }) => body);
    await until("an event that names the verb", () =>
      written().some((body) => body.includes("PermissionMissing") && body.includes("pods/resize")),
    );
    // The rest works: another config reaches the node.
    const digest = scene.publish("v2");
    await until(
      "the new config",
      async () => (await scene.node("chat-0"))?.status?.config?.applied === digest,
    );
    await stand.kube.patch(role, "merge", { rules });
    await untilSized(scene, "4", "8Gi", 1);
  });
});
