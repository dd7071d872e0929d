/**
 * The node controller on a real kubelet and containerd: what it leans on (in-place patches, drain by `preStop`, image
 * volumes, the launcher's folder) is done by those who do it in a cluster. The rows follow each other on one node.
 */
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { findCondition } from "../../src/api/v1alpha1/conditions.ts";
import type { Pod } from "../../src/kube/resources.ts";
import { desiredAnnotation, parseDesired } from "../../src/protocol/desired.ts";
import { makeFile, named, WeightsServer } from "../agent/fixture/weights.ts";
import { buildingMs } from "../testbed/control-plane.ts";
import { whyNoRealKubelet } from "../testbed/real/parts.ts";
import { until } from "../testbed/until.ts";
import { model, namespace, type Stand, startStand, tokenDelayMs } from "./stand.ts";

const missing = await whyNoRealKubelet();
const name = "solo";

/** Guaranteed: requests are limits. */
const size = (cpu: string, memory: string) => ({ requests: { cpu, memory }, limits: { cpu, memory } });

const title = ["a node on a real kubelet", missing].filter((part) => part !== undefined).join(": ");
describe.skipIf(missing !== undefined)(title, () => {
  let stand: Stand;

  beforeAll(async () => {
    stand = await startStand((line) => console.error(line));
    await stand.createNode(name, { runtime: { engine: "openai", resources: size("200m", "256Mi") } });
    await stand.untilReady(name);
  }, buildingMs);
  afterAll(() => stand?.[Symbol.asyncDispose]());

  const podOf = async (of = name): Promise<Pod> => (await stand.pod(of)) ?? expect.fail(`no pod ${of}`);

  /** What tells one life of a pod's parts from another. */
  async function lives(of = name) {
    const { metadata, status } = await podOf(of);
    const [agent] = status?.initContainerStatuses ?? [];
    const [runtime] = status?.containerStatuses ?? [];
    const engine = stand.engineLines(of).findLast(({ event }) => event === "start");
    return {
      pod: metadata.uid,
      agent: agent?.containerID,
      runtime: runtime?.containerID,
      restarts: [agent?.restartCount, runtime?.restartCount],
      engine: engine?.time,
      epoch: (await stand.seen(await stand.node(of)))?.epoch,
    };
  }

  /** Calls `meanwhile` while completions are under way, which are to end well; resolves with the time when they have. */
  async function amidJobs(meanwhile: () => Promise<unknown>, maxTokens = 100): Promise<number> {
    const before = stand.engineLines(name).length;
    const jobs = stand.complete(2, maxTokens);
    await until("jobs under way", () => {
      const begun = stand.engineLines(name).slice(before);
      return begun.filter(({ event }) => event === "begin").length === 2;
    });
    await meanwhile();
    const entries = await jobs;
    expect(entries.map(({ error }) => error)).toEqual([undefined, undefined]);
    return Math.max(...entries.map(({ ended }) => ended));
  }

  async function serves(): Promise<void> {
    const entries = await stand.complete(2);
    expect(entries.map(({ error }) => error)).toEqual([undefined, undefined]);
  }

  /** The image that a prefetch holds by an image volume. */
  const heldBy = ({ spec }: Pod): string => spec?.volumes?.[0]?.image?.reference ?? "no image volume";

  const digestIn = (reference: string): string => reference.split("@")[1] ?? expect.fail(reference);

  it("runs as rendered: Guaranteed, the agent without rights, no token of Kubernetes, and answers", async () => {
    const { spec, status } = await podOf();
    expect(status?.qosClass).toBe("Guaranteed");
    expect(spec?.automountServiceAccountToken).toBe(false);
    expect(spec?.initContainers?.[0]).toMatchObject({
      image: stand.agentImage("v1"),
      restartPolicy: "Always",
      securityContext: {
        runAsNonRoot: true,
        readOnlyRootFilesystem: true,
        allowPrivilegeEscalation: false,
        capabilities: { drop: ["ALL"] },
      },
    });
    expect((await lives()).restarts).toEqual([0, 0]);
    await serves();
  });

  it("gets new arguments by the launcher: another engine in the same container", async () => {
    const before = await lives();
    await stand.patchNode(name, { runtime: { args: ["--version", "with arguments"] } });
    const version = "with arguments";
    await until("an engine with the arguments", () =>
      stand.engineLines(name).some((line) => line.event === "start" && line.version === version),
    );
    await stand.untilReady(name);
    await serves();
    const { engine, ...after } = await lives();
    expect({ ...after, engine: before.engine }).toEqual(before);
    expect(engine).toBeGreaterThan(before.engine ?? 0);
    await stand.patchNode(name, { runtime: { args: null } });
    await stand.untilReady(name);
  });

  it("moves to a new runtime image in its pod: held on the host first, running jobs end, session and agent stay", async () => {
    const before = await lives();
    const held = new Set<string>();
    let toldAt = Infinity;
    const ended = await amidJobs(async () => {
      const digest = await stand.publish("v2");
      await until("the new config", async () => {
        for (const prefetch of await stand.prefetches()) held.add(heldBy(prefetch));
        const orders = (await podOf()).metadata.annotations?.[desiredAnnotation] ?? "";
        if (parseDesired(orders).plannedStop === "runtime-image") toldAt = Math.min(toldAt, Date.now());
        return (await stand.node(name))?.status?.config?.applied === digest;
      });
    }, 500);
    await stand.untilReady(name);
    // It was told while the jobs ran, and its engine began when they had ended.
    expect(toldAt).toBeLessThan(ended);
    const after = await lives();
    expect(after.engine).toBeGreaterThan(ended - tokenDelayMs);
    expect({ ...after, runtime: "", restarts: [], engine: 0 }).toEqual({
      ...before,
      runtime: "",
      restarts: [],
      engine: 0,
    });
    expect(after.runtime).not.toBe(before.runtime);
    const [runtime] = (await podOf()).status?.containerStatuses ?? [];
    expect(runtime?.imageID).toContain(digestIn(stand.engineImage("v2")));
    expect([...held]).toEqual([stand.engineImage("v2")]);
    await until("nothing to be held any more", async () => (await stand.prefetches()).length === 0);
    await serves();
  });

  it("moves to a new agent image in its pod: the engine runs on", async () => {
    const before = await lives();
    await stand.patchNetwork({ agent: { image: stand.agentImage("v2") } });
    await until("the new agent and its session", async () => {
      const { agent, epoch = 0 } = await lives();
      return agent !== before.agent && epoch > (before.epoch ?? 0);
    });
    await stand.untilReady(name);
    const after = await lives();
    expect([after.pod, after.runtime, after.engine]).toEqual([before.pod, before.runtime, before.engine]);
    const [agent] = (await podOf()).status?.initContainerStatuses ?? [];
    expect(agent?.imageID).toContain(digestIn(stand.agentImage("v2")));
    await serves();
  });

  it("stays as it is while an image cannot be pulled, says why, and moves once it can", async () => {
    const before = await lives();
    const digest = await stand.publish("v3");
    const stuck = await until("the condition", async () => {
      const said = findCondition((await stand.node(name))?.status?.conditions, "ConfigApplied");
      return said?.reason === "PrefetchFailed" && said;
    });
    expect(stuck.message).toContain(stand.engineImage("v3"));
    expect(await lives()).toEqual(before);
    await serves();
    stand.bringLate();
    await stand.untilReady(name, ({ status }) => status?.config?.applied === digest);
    const after = await lives();
    expect([after.pod, after.agent, after.epoch]).toEqual([before.pod, before.agent, before.epoch]);
    expect(after.runtime).not.toBe(before.runtime);
    await serves();
  });

  it("gets other CPU and memory in its running container", async () => {
    const before = await lives();
    await stand.patchNode(name, { runtime: { resources: size("300m", "320Mi") } });
    await until("the new size", async () => {
      const [runtime] = (await podOf()).status?.containerStatuses ?? [];
      expect(runtime?.resources?.limits).toMatchObject({ cpu: "300m", memory: "320Mi" });
      return true;
    });
    await stand.untilReady(name);
    expect(await lives()).toEqual(before);
    await serves();
  });

  it("drains when it is deleted: the running jobs end, then the pod", async () => {
    await amidJobs(async () => {
      await stand.bed.kubectlOk(["-n", namespace, "delete", "rnode", name, "--wait=false"]);
      await until("the pod's end to begin", async () => (await podOf()).metadata.deletionTimestamp);
    });
    await until("the pod to be gone", async () => (await stand.pod(name)) === undefined);
  });

  it("has weights from a folder of the host, where they stay for its next pod, or from an image", async () => {
    const server = await WeightsServer.start(stand.host.hostIP);
    try {
      const file = makeFile("weights.bin", 1024 * 1024);
      server.put(model, file);
      const sources = [`${server.url}/${model}`];
      await stand.publish("v1", { models: [{ name: model, engines: [], files: named(file), sources }] });
      const hostPath = { path: `${stand.host.folder}/weights` };
      const imageVolume = { reference: stand.bringWeights(file) };
      await stand.createNode("disk", { modelCache: { hostPath } });
      await stand.createNode("image", { modelCache: { imageVolume } });
      await Promise.all([stand.untilReady("disk"), stand.untilReady("image")]);
      const { pod } = await lives("disk");
      await stand.kube.delete(`/api/v1/namespaces/${namespace}/pods/disk`);
      await until(
        "another pod",
        async () => ![pod, undefined].includes((await stand.pod("disk"))?.metadata.uid),
      );
      await stand.untilReady("disk");
      await serves();
      expect(server.served.map(({ path }) => path)).toEqual([`/${model}/${file.path}`]);
    } finally {
      await server.stop();
    }
  });
});
