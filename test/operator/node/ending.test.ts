/** Pods that are being deleted: who does not end in its time is deleted once more, with a short grace. */
import { describe, expect, it } from "vitest";
import { desiredAnnotation } from "../../../src/protocol/desired.ts";
import { configOf, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

type Stop = "recreate" | "parking" | null;

/** A node that serves, whose pod is being deleted from now on: by whom, what its agent was told before, and with what grace. */
function ending(by: string | undefined, plannedStop: Stop = null, graceSeconds?: number): World {
  const world = new World(nodeOf({ capacity: "Opportunistic" }), configOf([snapshotOf("v1")]));
  world.untilServing();
  if (plannedStop !== null)
    world.apply({ type: "annotate", desired: { ...world.desired, revision: 9, plannedStop }, reason: "" });
  if (by !== undefined)
    world.kubeletSays({
      conditions: [
        { type: "PodScheduled", status: "True" },
        { type: "Ready", status: "True" },
        { type: "DisruptionTarget", status: "True", reason: by, message: "as the cluster says" },
      ],
    });
  const grace = graceSeconds === undefined ? {} : { graceSeconds };
  world.apply({ type: "delete-pod", uid: "pod-1", finished: false, ...grace, reason: "" });
  world.log.length = 0;
  return world;
}

const deletions = (world: World) => world.plan().actions.filter(({ type }) => type === "delete-pod");
const waits = (world: World) =>
  world.plan().actions.flatMap((action) => (action.type === "wait" ? [action.ms] : []));

describe("a pod that is being deleted", () => {
  it.each([
    ["deleted by hand", undefined, null, 60, 10],
    ["evicted", "EvictionByEvictionAPI", null, 60, 10],
    ["preempted", "PreemptionByScheduler", null, 60, 10],
    ["stopped as planned", undefined, "recreate", 330, 10],
    ["parked", undefined, "parking", 330, 10],
    ["evicted in the middle of a planned stop", "EvictionByEvictionAPI", "recreate", 60, 10],
    // Its kubelet may hear of it when the host is back, and the engine have served all the while.
    ["given up with its host", "DeletionByTaintManager", null, 60, 40],
  ] as const)("%s has its time, and is then killed, once", (_, by, stop, seconds, graceSeconds) => {
    const world = ending(by, stop);
    const due = world.now + seconds * 1000;
    expect(waits(world)).toContain(due - world.now);
    world.now = due - 2_500;
    expect(deletions(world)).toEqual([]);
    expect(waits(world)).toContain(2_500);
    world.now = due;
    expect(deletions(world)).toEqual([
      {
        type: "delete-pod",
        uid: "pod-1",
        finished: false,
        graceSeconds,
        reason: `the pod has had ${seconds} s to end and is still there: it gets ${graceSeconds} s more`,
      },
    ]);
    world.reconcile();
    expect(world.pod?.metadata.deletionGracePeriodSeconds).toBe(graceSeconds);
    expect(world.condition("Draining")).toMatch(/^True (Deleted|Evicted|SpecChange|ScaleDown)$/);
    for (const later of [0, 1_000, 15_000, 3_900_000]) {
      world.now = due + later;
      expect(deletions(world)).toEqual([]);
    }
  });

  it.each([
    ["is left alone where its deadline is near anyway", 65],
    ["is left alone where who deleted it gave it less", 5],
  ])("%s", (_, graceSeconds) => {
    const world = ending(undefined, null, graceSeconds);
    for (const at of [0, 30, 60, 70, 200]) {
      world.now = Date.UTC(2026, 0, 1) + at * 1000;
      expect(deletions(world)).toEqual([]);
    }
  });

  it.each([
    ["has an eviction's time from then on", 140, 140 + 30],
    ["has no more time than the stop had", 290, 300],
  ])("and is evicted late in a planned stop %s, of which its agent is told first", (_, after, drained) => {
    const world = ending(undefined, "recreate");
    const began = world.now;
    world.now += after * 1000;
    const at = new Date(world.now).toISOString();
    world.kubeletSays({
      conditions: [
        { type: "Ready", status: "True" },
        { type: "DisruptionTarget", status: "True", reason: "EvictionByEvictionAPI", lastTransitionTime: at },
      ],
    });
    expect(world.plan().actions[0]).toMatchObject({ type: "hasten", ms: 30_000 });
    world.now = began + (drained + 30) * 1000 - 1_000;
    expect(deletions(world)).toEqual([]);
    world.now += 1_000;
    expect(world.plan().actions.slice(0, 2)).toMatchObject([{ type: "hasten" }, { type: "delete-pod" }]);
  });

  it("whose orders cannot be read has the time of an eviction", () => {
    const world = ending(undefined, "recreate");
    if (world.pod) world.pod.metadata.annotations = { [desiredAnnotation]: "garbled" };
    expect(waits(world)).toContain(60_000);
    world.now += 60_000;
    expect(deletions(world)).toMatchObject([{ graceSeconds: 10 }]);
  });

  it("keeps the time that its agent was told, whatever the spec says meanwhile", () => {
    const world = ending(undefined, "recreate");
    world.changeSpec({ drain: { timeoutSeconds: 1, evictionTimeoutSeconds: 1 } });
    world.now += 329_000;
    expect(deletions(world)).toEqual([]);
    world.now += 1_000;
    expect(deletions(world)).toHaveLength(1);
  });

  it("counts as one of a lost host only when the time is over that it got at last", () => {
    const world = ending(undefined, "recreate");
    world.now += 330_000;
    world.reconcile();
    expect(world.condition("Degraded")).toBe("False NothingWrong");
    world.now += 70_000;
    world.reconcile();
    expect(world.condition("Degraded")).toBe("False NothingWrong");
    const soon = waits(world);
    expect(Math.min(...soon)).toBe(1_000);
    world.now += 1_000;
    world.reconcile();
    expect(world.condition("Degraded")).toBe("True HostLost");
  });
});
