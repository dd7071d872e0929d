/** Nodes on lent GPUs: what their pods are, and what is said while there are no GPUs for them. */
import { describe, expect, it } from "vitest";
import type { Pod } from "../../../src/kube/resources.ts";
import { podInputsHash } from "../../../src/operator/node/inputs.ts";
import { configOf, digestOfSnapshot, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const [v1, v2] = [snapshotOf("v1"), snapshotOf("v2")];
const config = configOf([v1, v2]);
const [d1, d2] = [digestOfSnapshot(v1), digestOfSnapshot(v2)];

type Condition = NonNullable<NonNullable<Pod["status"]>["conditions"]>[number];

/** What the scheduler says of a pod that it has no place for; the words change with every pod of the cluster. */
const noPlace = (words: string, reason = "Unschedulable"): Condition => ({
  type: "PodScheduled",
  status: "False",
  reason,
  message: words,
});
const disruption = (reason: string): Condition => ({
  type: "DisruptionTarget",
  status: "True",
  reason,
  message: `said with ${reason}`,
});
const ready: readonly Condition[] = [
  { type: "PodScheduled", status: "True" },
  { type: "Ready", status: "True" },
];

function lent(capacity: "Guaranteed" | "Opportunistic" = "Opportunistic"): World {
  return new World(nodeOf({ capacity }), config);
}

/** A node that serves, and is told to end by `reason`. */
function disrupted(reason: string, capacity?: "Guaranteed"): World {
  const world = lent(capacity);
  world.untilServing();
  world.kubeletSays({ conditions: [...ready, disruption(reason)] });
  world.apply({ type: "delete-pod", uid: world.pod?.metadata.uid ?? "", finished: false, reason: "" });
  world.reconcile();
  return world;
}

const message = (world: World, type: string): string =>
  world.node.status?.conditions?.find((one) => one.type === type)?.message ?? "";

describe("the pod of a node on lent GPUs", () => {
  it.each([
    ["Opportunistic", undefined, "resultity-opportunistic"],
    ["Guaranteed", undefined, undefined],
    ["Guaranteed", "batch", "batch"],
    [undefined, "batch", "batch"],
  ] as const)("%s, overrides %s: its PriorityClass is %s", (capacity, own, expected) => {
    const node = nodeOf({
      ...(capacity && { capacity }),
      ...(own && { podOverrides: { priorityClassName: own } }),
    });
    const world = new World(node, config);
    world.reconcile();
    expect(world.pod?.spec?.priorityClassName).toBe(expected);
  });

  it("is another one when its GPUs are lent from now on; for who never lent the hash is what it was", () => {
    const hash = (capacity?: "Guaranteed" | "Opportunistic") =>
      podInputsHash(nodeOf(capacity ? { capacity } : {}), config);
    expect(hash("Guaranteed")).toBe(hash());
    expect(hash("Opportunistic")).not.toBe(hash());
  });
});

describe("a node without GPUs", () => {
  it.each([
    ["Opportunistic", "Unschedulable", "False NoCapacity"],
    ["Opportunistic", "SchedulingGated", "False NoCapacity"],
    ["Guaranteed", "Unschedulable", "False Unschedulable"],
  ] as const)("%s whose pod is %s: %s, and not degraded", (capacity, reason, expected) => {
    const world = lent(capacity);
    world.reconcile();
    world.kubeletSays({ conditions: [noPlace("0/3 nodes", reason)] });
    world.reconcile();
    expect(world.condition("Scheduled")).toBe(expected);
    expect(world.condition("Ready")).toBe(expected);
    expect(world.condition("Degraded")).toBe("False NothingWrong");
    expect(world.condition("RuntimeReady")).toBe("False PodNotReady");
  });

  it("waits for the scheduler's first look as any other does", () => {
    const world = lent();
    world.reconcile();
    world.reconcile();
    expect(world.condition("Scheduled")).toBe("False PodPending");
  });

  it("writes nothing more however often the scheduler finds other words, and does nothing", () => {
    const world = lent();
    world.reconcile();
    world.kubeletSays({ conditions: [noPlace("0/3 nodes: 3 Insufficient nvidia.com/gpu")] });
    world.reconcile();
    const { status } = world.node;
    for (const words of ["0/4 nodes", "0/5 nodes: 2 cordoned"]) {
      world.kubeletSays({ conditions: [noPlace(words)] });
      expect(world.reconcile().filter((type) => type !== "ask-agent")).toEqual([]);
      expect(world.node.status).toEqual(status);
    }
  });

  it("says what is free when one looks: how many GPUs, and where the scheduler's words are", () => {
    const world = new World(
      nodeOf({ capacity: "Opportunistic", gpu: { count: 4, resourceName: "nvidia.com/gpu" } }),
      config,
    );
    world.reconcile();
    world.kubeletSays({ conditions: [noPlace("0/3 nodes")] });
    world.reconcile();
    expect(message(world, "Ready")).toBe(
      "parked: no host has 4 nvidia.com/gpu to lend; the node comes back by itself when one does (what the scheduler says: kubectl -n inference describe pod gpu-0)",
    );
  });

  it("is told a newer config while it waits: its pod is made anew, and it is parked throughout", () => {
    const world = lent();
    world.reconcile();
    world.kubeletSays({ conditions: [noPlace("0/3 nodes")] });
    world.reconcile();
    world.retarget(d2);
    expect(world.reconcile()).toContain("delete-pod");
    world.kubeletRemoves();
    expect(world.reconcile()).toEqual(["create-pod"]);
    expect(world.desired.target).toBe(d2);
    expect(world.condition("Ready")).toBe("False NoCapacity");
    world.reconcile();
    expect(world.condition("Ready")).toBe("False NoCapacity");
  });

  it("is not parked any more once its pod is on a host, or its GPUs are its own", () => {
    const world = lent();
    world.reconcile();
    world.kubeletSays({ conditions: [noPlace("0/3 nodes")] });
    world.reconcile();
    world.kubeletRunsAgent(false);
    world.reconcile();
    expect(world.condition("Scheduled")).toBe("True PodScheduled");
    const own = lent();
    own.reconcile();
    own.kubeletSays({ conditions: [noPlace("0/3 nodes")] });
    own.reconcile();
    own.changeSpec({ capacity: "Guaranteed" });
    own.reconcile();
    expect(own.condition("Scheduled")).toBe("False Unschedulable");
  });

  it("does not hide behind it that there is no config to make a pod for", () => {
    const world = lent();
    world.reconcile();
    world.kubeletSays({ conditions: [noPlace("0/3 nodes")] });
    world.reconcile();
    world.pod = undefined;
    world.config = undefined;
    world.reconcile();
    expect(world.condition("Scheduled")).toBe("False PodNotCreated");
  });
});

describe("a node that serves and whose pod has to go", () => {
  it.each([
    ["PreemptionByScheduler", undefined, "False NoCapacity"],
    ["EvictionByEvictionAPI", undefined, "True Evicted"],
    ["DeletionByTaintManager", undefined, "True Evicted"],
    ["PreemptionByScheduler", "Guaranteed", "True Evicted"],
  ] as const)("by %s, %s: Ready says %s", (reason, capacity, expected) => {
    const world = disrupted(reason, capacity);
    const because = expected.split(" ")[1];
    expect(world.condition("Ready")).toBe(`False ${because}`);
    expect(world.condition("Draining")).toBe("True Evicted");
    expect(world.condition("Degraded")).toBe("False NothingWrong");
  });

  it("is one thing from the preemption to the next pod that waits: one text, so one write", () => {
    const world = disrupted("PreemptionByScheduler");
    const said = new Set([message(world, "Ready")]);
    world.kubeletRemoves();
    expect(world.reconcile()).toEqual(["create-pod"]);
    said.add(message(world, "Ready"));
    world.kubeletSays({ conditions: [noPlace("0/1 nodes")] });
    world.reconcile();
    said.add(message(world, "Ready"));
    expect(said.size).toBe(1);
    expect(world.condition("Ready")).toBe("False NoCapacity");
    expect(world.condition("Draining")).toBe("False NotDraining");
    // What ran on the host that it had is no news of the one to come.
    expect(world.node.status).not.toHaveProperty("hostName");
    expect(world.node.status).not.toHaveProperty("models");
    expect(world.node.status).not.toHaveProperty("runtime");
    expect(world.node.status?.config?.applied).toBe(d1);
  });

  it("has no session then, which is said at once and not after a minute and a half", () => {
    const world = disrupted("PreemptionByScheduler");
    if (world.feed) world.feed = { ...world.feed, connected: false, since: world.now };
    world.reconcile();
    expect(world.condition("Connected")).toBe("False SessionClosed");
  });
});

describe("an eviction in the middle of a planned stop", () => {
  /** The agent is told of a stop that has the drain timeout, then the pod is ended by `reason`; undefined = by the operator. */
  function overtaken(reason: string | undefined, plannedStop: "runtime-image" | null): World {
    const world = lent();
    world.untilServing();
    world.apply({ type: "annotate", desired: { ...world.desired, revision: 9, plannedStop }, reason: "" });
    world.kubeletSays({ conditions: reason === undefined ? [...ready] : [...ready, disruption(reason)] });
    world.apply({ type: "delete-pod", uid: world.pod?.metadata.uid ?? "", finished: false, reason: "" });
    world.log.length = 0;
    return world;
  }

  it.each([
    ["PreemptionByScheduler", "runtime-image", 0, ["hasten 30000"], "Evicted"],
    ["EvictionByEvictionAPI", "runtime-image", 12_000, ["hasten 18000"], "Evicted"],
    ["EvictionByEvictionAPI", "runtime-image", 40_000, ["hasten 0"], "Evicted"],
    // The agent knows no better than that it is one.
    ["PreemptionByScheduler", null, 0, [], "Evicted"],
    // It is the planned stop itself.
    [undefined, "runtime-image", 0, [], "SpecChange"],
  ] as const)("%s, planned %s, %d ms ago: %s", (reason, plannedStop, ms, log, said) => {
    const world = overtaken(reason, plannedStop);
    world.now += ms;
    world.reconcile();
    expect(world.log).toEqual(log);
    expect(world.condition("Draining")).toBe(`True ${said}`);
  });
});
