import { describe, expect, it } from "vitest";
import { RecoveryMemory } from "../../../../src/operator/node/recovery/memory.ts";
import { FakeClock } from "../../../lib/fake-clock.ts";
import type { nodeOf } from "../world.ts";
import { at, fine, minute, Patient } from "./patient.ts";

describe("a host that is lost", () => {
  function lost(spec: Parameters<typeof nodeOf>[0], since: number): Patient {
    const world = new Patient(spec);
    world.stopServing();
    world.agent = { status: undefined, silentMs: 30_000, problem: "connect ETIMEDOUT" };
    if (world.feed) world.feed = { ...world.feed, connected: false };
    world.hostLook = {
      state: { is: "lost", since, what: "its Ready is Unknown (NodeStatusUnknown)" },
      ageMs: 0,
    };
    return world;
  }
  const never = Date.UTC(2026, 0, 1);

  it("is looked at when its pod is not ready and its agent silent, not before", () => {
    const world = lost({}, never);
    world.hostLook = undefined;
    expect(world.reconcile()).toContain("look-at-host");
    world.agent = { ...world.agent, silentMs: 0 };
    expect(world.reconcile()).not.toContain("look-at-host");
    // The first silence brings it up; five seconds of it bring the look.
    world.agent = { ...world.agent, silentMs: 1 };
    expect(world.plan().actions).toContainEqual({ type: "wait", ms: 5_499, reason: "the host may be lost" });
  });

  it("keeps its pod for ever unless the spec says otherwise, and says what to do", () => {
    const world = lost({}, never);
    for (let hour = 0; hour < 72; hour++, world.now += 60 * minute) world.reconcile();
    expect(world.log.filter((line) => line !== "look at host-1")).toEqual([]);
    expect(world.condition("Degraded")).toBe("True HostLost");
    expect(world.message).toMatch(/since spec.unreachable.replaceAfterSeconds is not set: repair the host/);
  });

  it("is left at the time that the condition tells, with its UID and no grace", () => {
    const world = lost({ unreachable: { replaceAfterSeconds: 600 } }, never);
    expect(world.watch(9 * minute)).toEqual([]);
    expect(world.message).toMatch(/at 2026-01-01T00:10:00Z the pod is given up/);
    expect(world.node.status?.recovery?.next).toEqual({ step: "LostHost", time: "2026-01-01T00:10:00Z" });
    world.now += 2 * minute;
    world.reconcile();
    expect(world.plan().actions).toMatchObject([{ type: "delete-pod", uid: "pod-1", graceSeconds: 0 }]);
  });

  it("also when its pod has been ending since the cluster gave it up", () => {
    const world = lost({ unreachable: { replaceAfterSeconds: 600 } }, never);
    if (world.pod)
      world.pod = {
        ...world.pod,
        metadata: {
          ...world.pod.metadata,
          deletionTimestamp: at(never + 3_900_000),
          deletionGracePeriodSeconds: 3_900,
        },
      };
    world.now += 11 * minute;
    world.reconcile();
    expect(world.plan().actions).toMatchObject([{ type: "delete-pod", graceSeconds: 0 }]);
  });

  it("is looked at when its pod has been ending for a minute, or at once when the cluster ends it for a taint", () => {
    const world = lost({}, never);
    world.hostLook = undefined;
    world.agent = { status: undefined, silentMs: 0, problem: "" };
    const end = (reason: string) => {
      if (!world.pod) return;
      const metadata = {
        ...world.pod.metadata,
        deletionTimestamp: at(never + 3_900_000),
        deletionGracePeriodSeconds: 3_900,
      };
      world.pod = { ...world.pod, metadata };
      world.kubeletSays({ conditions: [{ type: "DisruptionTarget", status: "True", reason }] });
    };
    end("EvictionByEvictionAPI");
    expect(world.plan().actions).toContainEqual({ type: "wait", ms: 61_000, reason: "the host may be lost" });
    world.now += minute + 1_000;
    expect(world.reconcile()).toContain("look-at-host");
    world.now = never;
    end("DeletionByTaintManager");
    expect(world.reconcile()).toContain("look-at-host");
  });

  it.each<[string, (world: Patient) => void]>([
    [
      "the network has its session",
      (world) => {
        if (world.feed) world.feed = { ...world.feed, connected: true };
      },
    ],
    [
      "more than half of the network is lost with it",
      (world) => {
        world.fleet = { ...fine, network: { nodes: 8, failing: 5 } };
      },
    ],
    [
      "the host is back",
      (world) => {
        world.hostLook = { state: { is: "ready" }, ageMs: 0 };
      },
    ],
    [
      "nobody may read Node objects",
      (world) => {
        world.hostLook = { state: { is: "unknown", why: "forbidden" }, ageMs: 0 };
      },
    ],
  ])("but not while %s", (_, upset) => {
    const world = lost({ unreachable: { replaceAfterSeconds: 60 } }, never);
    upset(world);
    world.now += 60 * minute;
    world.agent = { ...world.agent, silentMs: 60 * minute };
    world.stopServing();
    expect(world.watch(5 * minute).filter((line) => /delete|recover LostHost/.test(line))).toEqual([]);
  });

  it("is left although the agent had answered before its pod began to end", () => {
    const world = lost({ unreachable: { replaceAfterSeconds: 600 } }, never);
    const { agent } = new Patient();
    world.now += 11 * minute;
    world.agent = { ...agent, silentMs: 0, ageMs: 10_000 };
    expect(world.watch(2_000)).toEqual([]);
    world.agent = { ...agent, silentMs: 0, ageMs: 10 * minute };
    if (world.pod) {
      const deletionTimestamp = at(never + 10_000);
      const metadata = { ...world.pod.metadata, deletionTimestamp, deletionGracePeriodSeconds: 10 };
      world.pod = { ...world.pod, metadata };
    }
    expect(world.watch(2_000)).toEqual(["recover LostHost", "delete"]);
  });

  it("is looked at once more before it is left", () => {
    const world = lost({ unreachable: { replaceAfterSeconds: 600 } }, never);
    world.now += 11 * minute;
    world.reconcile();
    if (world.hostLook) world.hostLook = { ...world.hostLook, ageMs: 40_000 };
    const types = world.plan().actions.map(({ type }) => type);
    expect(types).toContain("look-at-host");
    expect(types).not.toContain("delete-pod");
  });

  it("is forgotten a minute after the look: a host may be well since", () => {
    const clock = new FakeClock();
    const memory = new RecoveryMemory(clock);
    memory.hostSeen("host-1", { is: "gone" });
    clock.advance(59_000);
    expect(memory.hostLook("host-1")).toEqual({ state: { is: "gone" }, ageMs: 59_000 });
    clock.advance(1_000);
    expect(memory.hostLook("host-1")).toBeUndefined();
  });

  it("that is not lost keeps nobody from seeing what else is wrong: an agent that hangs costs its pod", () => {
    const world = lost({}, never);
    world.hostLook = { state: { is: "ready" }, ageMs: 0 };
    world.agent = { ...world.agent, silentMs: 3 * minute };
    expect(world.watch(9 * minute)).toEqual([]);
    expect(world.condition("Degraded")).toBe("True AgentUnreachable");
    expect(world.watch(2 * minute)).toEqual(["recover NewPod", "delete"]);
  });
});
