import { describe, expect, it, test } from "vitest";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import { isResizable, type Resources } from "../../../src/operator/size.ts";
import { configOf, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const v1 = snapshotOf("v1");
const size = (cpu: string, memory: string): Resources => ({ limits: { cpu, memory } });
const runtime = (resources?: Resources): Partial<ResultityNode["spec"]> => ({
  runtime: { engine: "openai", ...(resources ? { resources } : {}) },
});

/** A node that serves with 2 cores and 4 GiB. */
function serving(resources: Resources = size("2", "4Gi")): World {
  const world = new World(nodeOf(runtime(resources)), configOf([v1]));
  world.untilServing();
  return world;
}

const pending = (reason: string, observedGeneration?: number) => ({
  type: "PodResizePending",
  status: "True",
  reason,
  message: "as the kubelet says",
  ...(observedGeneration === undefined ? {} : { observedGeneration }),
});

describe("which sizes a running pod can be taken to", () => {
  const requests = (cpu: string, memory: string) => ({ requests: { cpu, memory } });
  const rows: readonly [string, Resources, Resources, boolean][] = [
    ["more of both, requests as limits", size("2", "4Gi"), size("4", "8Gi"), true],
    ["less of both", size("2", "4Gi"), size("500m", "1Gi"), true],
    ["the same, written otherwise", size("2", "4Gi"), size("2000m", "4096Mi"), true],
    ["requests alone, burstable", requests("1", "1Gi"), requests("2", "2Gi"), true],
    [
      "a limit is added, burstable",
      requests("1", "1Gi"),
      { ...requests("1", "1Gi"), limits: { cpu: "2" } },
      true,
    ],
    ["a limit is taken away", { ...requests("1", "1Gi"), limits: { cpu: "2" } }, requests("1", "1Gi"), false],
    ["a request is taken away", requests("1", "1Gi"), { requests: { cpu: "1" } }, false],
    [
      "guaranteed becomes burstable",
      size("2", "4Gi"),
      { ...size("2", "4Gi"), ...requests("1", "4Gi") },
      false,
    ],
    ["burstable becomes guaranteed", requests("1", "1Gi"), size("1", "1Gi"), false],
    ["none, and then some", {}, size("1", "1Gi"), false],
    [
      "storage too",
      { limits: { cpu: "1", "ephemeral-storage": "1Gi" } },
      { limits: { cpu: "2", "ephemeral-storage": "2Gi" } },
      false,
    ],
    [
      "an extended resource stays",
      { limits: { cpu: "1", "rdma/hca": "1" } },
      { limits: { cpu: "2", "rdma/hca": 1 } },
      true,
    ],
  ];
  test.each(rows)("%s", (_name, from, to, expected) => {
    expect(isResizable(from, to)).toBe(expected);
  });
});

describe("CPU and memory of a node that serves", () => {
  it("are changed in its running pod, and nothing else happens to it", () => {
    const world = serving();
    world.changeSpec(runtime(size("4", "8Gi")));
    expect(world.reconcile()).toEqual(["resize"]);
    expect(world.reconcile()).toEqual([]);
    expect(world.log).toEqual(["resize"]);
    expect(world.condition("Ready")).toBe("True AllWell");
    expect(world.condition("Draining")).toBe("False NotDraining");
  });

  it("are changed too where only their spelling is new, once", () => {
    const world = serving();
    world.changeSpec(runtime({ ...size("2", "4Gi"), requests: { cpu: "2", memory: "4Gi" } }));
    expect(world.reconcile()).toEqual(["resize"]);
    expect(world.reconcile()).toEqual([]);
  });

  it("come with a new pod where the QoS class would change, after a drain", () => {
    const world = serving();
    world.changeSpec(runtime({ ...size("2", "4Gi"), requests: { cpu: "1", memory: "4Gi" } }));
    world.turn = false;
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired.plannedStop).toBe("recreate");
  });

  it("come with a new pod where something else changes that only a new pod has", () => {
    const world = serving();
    world.changeSpec({ ...runtime(size("4", "8Gi")), gpu: { count: 2, resourceName: "nvidia.com/gpu" } });
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired.plannedStop).toBe("recreate");
  });

  it("come with a new pod, when it is the node's turn, where the API server does not serve it", () => {
    const world = serving();
    world.changeSpec(runtime(size("4", "8Gi")));
    world.resizeRefused = "the server could not find the requested resource";
    world.turn = false;
    expect(world.reconcile()).toEqual(["wait"]);
    world.turn = true;
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired.plannedStop).toBe("recreate");
    world.agentAnswers();
    expect(world.reconcile()).toEqual(["delete-pod"]);
    world.kubeletRemoves();
    world.resizeRefused = undefined;
    expect(world.reconcile()).toEqual(["create-pod"]);
    expect(world.pod?.spec?.containers[0]?.resources?.limits).toMatchObject({ cpu: "4", memory: "8Gi" });
  });

  it("that have no room on the host now are waited for, and the node says so and serves on", () => {
    const world = serving();
    world.changeSpec(runtime(size("4", "8Gi")));
    world.reconcile();
    world.kubeletSays({ conditions: [...(world.pod?.status?.conditions ?? []), pending("Deferred")] });
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("Scheduled")).toBe("True ResizeDeferred");
    expect(world.condition("Ready")).toBe("True ResizeDeferred");
    const said = world.node.status?.conditions?.find(({ type }) => type === "Scheduled")?.message;
    expect(said).toContain("requests cpu 4 memory 8Gi, limits cpu 4 memory 8Gi");
    expect(said).toContain("as the kubelet says");
  });

  it("that the host can never give make a new pod, when it is the node's turn", () => {
    const world = serving();
    world.changeSpec(runtime(size("400", "8Gi")));
    world.reconcile();
    world.kubeletSays({ conditions: [...(world.pod?.status?.conditions ?? []), pending("Infeasible")] });
    world.turn = false;
    expect(world.reconcile()).toEqual(["wait"]);
    expect(world.condition("Ready")).toBe("True ResizeInfeasible");
    world.turn = true;
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired.plannedStop).toBe("recreate");
  });

  it("what the kubelet said of the size before does not count", () => {
    const world = serving();
    if (world.pod) world.pod = { ...world.pod, metadata: { ...world.pod.metadata, generation: 3 } };
    world.kubeletSays({ conditions: [...(world.pod?.status?.conditions ?? []), pending("Infeasible", 2)] });
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("Ready")).toBe("True AllWell");
    world.kubeletSays({
      conditions: [
        { type: "PodScheduled", status: "True" },
        { type: "Ready", status: "True" },
        pending("Infeasible", 3),
      ],
    });
    expect(world.reconcile()).toEqual(["annotate"]);
  });

  it("that the kubelet tries to give and cannot are told", () => {
    const world = serving();
    const failed = { type: "PodResizeInProgress", status: "True", reason: "Error", message: "below usage" };
    world.kubeletSays({ conditions: [...(world.pod?.status?.conditions ?? []), failed] });
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("Ready")).toBe("True ResizeFailed");
  });

  it("of a pod in which nothing runs yet come with a new pod at once", () => {
    const world = new World(nodeOf(runtime(size("400", "4Gi"))), configOf([v1]));
    world.reconcile();
    world.changeSpec(runtime(size("4", "4Gi")));
    expect(world.reconcile()).toEqual(["delete-pod"]);
  });

  it("wait for no move, and hold up none", () => {
    const v2 = snapshotOf("v2");
    const world = new World(nodeOf(runtime(size("2", "4Gi"))), configOf([v1, v2]));
    world.inPool = true;
    world.untilServing();
    world.changeSpec({ ...runtime(size("4", "8Gi")), participation: { accept: false } });
    expect(world.reconcile()).toEqual(["annotate"]);
    world.agentAnswers();
    expect(world.reconcile()).toEqual(["resize"]);
  });

  it("of a pod that does not say what it was given come with a new pod, by turns", () => {
    const world = serving();
    if (world.pod?.metadata.annotations) delete world.pod.metadata.annotations["resultity.com/resources"];
    expect(world.reconcile()).toEqual([]);
    world.changeSpec(runtime(size("4", "8Gi")));
    world.turn = false;
    expect(world.reconcile()).toEqual(["wait"]);
    world.turn = true;
    expect(world.reconcile()).toEqual(["annotate"]);
  });
});
