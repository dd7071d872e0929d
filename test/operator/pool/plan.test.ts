import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { isLeaving, isMoving, isParked, isReady } from "../../../src/operator/pool/child.ts";
import { budgetSize, type PoolAction } from "../../../src/operator/pool/plan.ts";
import { poolStatus } from "../../../src/operator/pool/status.ts";
import { maxUnavailableOf, minAvailableOf } from "../../../src/operator/pool/window.ts";
import { digest, Fleet, makePool } from "./fleet.ts";

/** A settled pool of `replicas` nodes on config a. */
function settled(replicas: number, spec: Parameters<typeof makePool>[0] = {}): Fleet {
  const fleet = new Fleet(makePool({ replicas, ...spec }));
  fleet.settle();
  return fleet;
}

/** Who gets ready for a turn that is yet to come is told of in prepare.test.ts. */
const brief = (actions: readonly PoolAction[]): string[] =>
  actions
    .filter(({ type }) => type !== "budget" && type !== "prepare")
    .map(
      (action) =>
        `${action.type} ${"child" in action ? action.child.metadata.name : "name" in action ? action.name : ""}`,
    );

const withSpec = (fleet: Fleet, spec: object) => {
  fleet.pool = {
    ...fleet.pool,
    spec: { ...fleet.pool.spec, ...spec },
    metadata: { ...fleet.pool.metadata, generation: 2 },
  };
};

describe("scale", () => {
  it("makes children with the lowest free numbers and gives each a config", () => {
    const fleet = new Fleet(makePool({ replicas: 2 }));
    expect(brief(fleet.reconcile())).toEqual(["create chat-0", "create chat-1"]);
    expect(brief(fleet.reconcile())).toEqual(["target chat-0", "target chat-1"]);
    expect(brief(fleet.reconcile())).toEqual([]);
  });

  it("fills the gap that a deleted child left, so that its identity comes back", () => {
    const fleet = settled(3);
    fleet.children.delete("chat-1");
    expect(brief(fleet.reconcile())).toEqual(["create chat-1"]);
  });

  it("retires the highest numbers, those that serve nobody first, and deletes each when its pod is gone", () => {
    const fleet = settled(4);
    fleet.fail("chat-1");
    withSpec(fleet, { replicas: 2 });
    expect(brief(fleet.reconcile())).toEqual(["retire chat-1", "retire chat-3"]);
    expect(brief(fleet.reconcile())).toEqual([]);
    fleet.arrive("chat-3");
    expect(brief(fleet.reconcile())).toEqual(["delete chat-3"]);
    fleet.arrive("chat-1");
    expect(brief(fleet.reconcile())).toEqual(["delete chat-1"]);
    expect([...fleet.children.keys()]).toEqual(["chat-0", "chat-2"]);
  });

  it("F04 takes a retiring child back when the pool grows again", () => {
    const fleet = settled(3);
    withSpec(fleet, { replicas: 2 });
    fleet.reconcile();
    withSpec(fleet, { replicas: 3 });
    expect(brief(fleet.reconcile())).toEqual(["revive chat-2"]);
    fleet.settle();
    expect([...fleet.children.values()].every((child) => isReady(child) && !isLeaving(child))).toBe(true);
  });

  it("leaves a parked child parked, and out of the budget", () => {
    const fleet = settled(3);
    fleet.change("chat-0", (child) => ({ ...child, spec: { ...child.spec, replicas: 0 } }));
    fleet.arrive("chat-0");
    fleet.settle();
    expect(fleet.children.get("chat-0")?.spec.replicas).toBe(0);
    expect(fleet.budget?.minAvailable).toBe(1);
  });

  it("is done with an update when all but the parked nodes have it, and these take it up when they come back", () => {
    const fleet = settled(3);
    fleet.change("chat-1", (child) => ({ ...child, spec: { ...child.spec, replicas: 0 } }));
    fleet.arrive("chat-1");
    fleet.settle();
    const { template } = fleet.pool.spec;
    fleet.current = digest("b");
    const spec = { ...template.spec, runtime: { ...template.spec.runtime, args: ["--new"] } };
    withSpec(fleet, { template: { ...template, spec } });
    for (let step = 0; step < 8; step++) {
      fleet.reconcile();
      for (const name of ["chat-0", "chat-2"]) fleet.arrive(name);
    }
    const parked = fleet.children.get("chat-1");
    expect(parked?.status?.config?.applied).toBe(digest("a"));
    expect(fleet.reconcile()).toEqual([]);
    const { conditions, rollout, parkedReplicas } = poolStatus(fleet.observe());
    const said = (type: string) => conditions?.find((one) => one.type === type);
    expect(said("Progressing")).toMatchObject({ status: "True", reason: "NewestConfig" });
    expect(said("Ready")).toMatchObject({ status: "True", reason: "AllWell" });
    expect(rollout).toMatchObject({ updated: 2, total: 2 });
    expect(rollout?.waitingOn).toBeUndefined();
    expect(parkedReplicas).toBe(1);
    fleet.change("chat-1", (child) => ({ ...child, spec: { ...child.spec, replicas: 1 } }));
    fleet.settle();
    expect(fleet.children.get("chat-1")?.status?.config?.applied).toBe(digest("b"));
  });

  it("I7 counts on no child that it retires, when the pool shrinks and changes at once", () => {
    const fleet = settled(3);
    withSpec(fleet, { replicas: 2 });
    fleet.current = digest("b");
    expect(brief(fleet.reconcile())).toEqual(["retire chat-2", "target chat-0"]);
  });

  it("does nothing for a pool that is being deleted", () => {
    const fleet = settled(2);
    fleet.pool = {
      ...fleet.pool,
      metadata: { ...fleet.pool.metadata, deletionTimestamp: "2026-01-01T00:00:00Z" },
    };
    fleet.children.clear();
    expect(fleet.reconcile()).toEqual([]);
  });
});

describe("rolling update", () => {
  it("moves one node at a time, in order, and the next when the one before is in service again", () => {
    const fleet = settled(3);
    fleet.current = digest("b");
    for (const name of ["chat-0", "chat-1", "chat-2"]) {
      expect(brief(fleet.reconcile())).toEqual([`target ${name}`]);
      expect(brief(fleet.reconcile())).toEqual([]);
      fleet.arrive(name);
    }
    expect(brief(fleet.reconcile())).toEqual([]);
    expect(poolStatus(fleet.observe())).toMatchObject({
      updatedReplicas: 3,
      rollout: { updated: 3, total: 3 },
    });
  });

  it("moves nodes that are out of service at once, and none besides while they use up the window", () => {
    const fleet = settled(4);
    fleet.fail("chat-2");
    fleet.current = digest("b");
    expect(brief(fleet.reconcile())).toEqual(["target chat-2"]);
    fleet.arrive("chat-2");
    expect(brief(fleet.reconcile())).toEqual(["target chat-0"]);
  });

  it("rolls a changed template through the same window", () => {
    const fleet = settled(3);
    const { template } = fleet.pool.spec;
    withSpec(fleet, { template: { ...template, spec: { ...template.spec, models: ["tiny"] } } });
    expect(brief(fleet.reconcile())).toEqual(["update chat-0"]);
    expect(brief(fleet.reconcile())).toEqual([]);
    fleet.arrive("chat-0");
    expect(brief(fleet.reconcile())).toEqual(["update chat-1"]);
  });

  it("F16 restores labels at once: they interrupt nothing", () => {
    const fleet = settled(3);
    for (const name of fleet.children.keys()) {
      fleet.change(name, (child) => ({ ...child, metadata: { ...child.metadata, labels: {} } }));
    }
    expect(brief(fleet.reconcile())).toEqual(["update chat-0", "update chat-1", "update chat-2"]);
  });

  it("stops when paused, and gives a new node what its siblings run", () => {
    const fleet = settled(3);
    fleet.current = digest("b");
    withSpec(fleet, { replicas: 4, strategy: { ...fleet.pool.spec.strategy, paused: true } });
    fleet.reconcile();
    expect(brief(fleet.reconcile())).toEqual(["target chat-3"]);
    expect(fleet.children.get("chat-3")?.status?.config?.target).toBe(digest("a"));
    expect(poolStatus(fleet.observe()).conditions?.find(({ type }) => type === "Progressing")?.reason).toBe(
      "Paused",
    );
  });

  it("prefers the template's pin to the network's current config", () => {
    const fleet = settled(1);
    const { template } = fleet.pool.spec;
    withSpec(fleet, { template: { ...template, spec: { ...template.spec, config: { pin: digest("c") } } } });
    fleet.settle();
    expect(fleet.children.get("chat-0")?.status?.config?.applied).toBe(digest("c"));
  });

  it("names the node that it waits for, the stuck one first", () => {
    const fleet = settled(4, { strategy: { rollingUpdate: { maxUnavailable: 2 } } });
    fleet.current = digest("b");
    fleet.reconcile();
    fleet.change("chat-1", (child) => ({
      ...child,
      status: {
        ...child.status,
        conditions: [
          {
            type: "RuntimeReady",
            status: "False",
            observedGeneration: 1,
            lastTransitionTime: "2026-01-01T00:00:05Z",
            reason: "ImagePullFailed",
            message: "no such image",
          },
        ],
      },
    }));
    const status = poolStatus(fleet.observe());
    expect(status.rollout?.waitingOn).toMatchObject({ node: "chat-1", since: "2026-01-01T00:00:05Z" });
    expect(status.conditions?.find(({ type }) => type === "Progressing")).toMatchObject({
      status: "False",
      reason: "WaitingForNode",
    });
  });
});

describe("status", () => {
  const readyOf = (fleet: Fleet) =>
    poolStatus(fleet.observe()).conditions?.find(({ type }) => type === "Ready");

  it("of a settled pool with a node that is not well names the node, and the cause if it lasts", () => {
    const fleet = settled(3);
    expect(readyOf(fleet)).toMatchObject({ status: "True", reason: "AllWell" });
    fleet.fail("chat-1");
    expect(readyOf(fleet)).toMatchObject({
      status: "False",
      reason: "WaitingForNode",
      message: "2 of 3 nodes are in service; chat-1: it is on its way",
    });
    fleet.change("chat-1", ({ status, ...child }) => ({
      ...child,
      status: {
        ...status,
        conditions: (status?.conditions ?? []).map((condition) => ({
          ...condition,
          reason: "AgentFailed",
          message: "container agent does not stay up",
        })),
      },
    }));
    expect(readyOf(fleet)?.message).toBe(
      "2 of 3 nodes are in service; chat-1: AgentFailed: container agent does not stay up",
    );
  });
});

describe("maxUnavailable", () => {
  it.each([
    [1, 3, 1],
    [5, 3, 3],
    ["25%", 10, 2],
    ["10%", 3, 1],
    ["100%", 7, 7],
  ])("%s of %i is %i", (maxUnavailable, size, expected) => {
    const pool = makePool({ strategy: { rollingUpdate: { maxUnavailable } } });
    expect(maxUnavailableOf(pool, size)).toBe(expected);
    expect(minAvailableOf(pool, size)).toBe(size - expected);
  });
});

/** What happens to the fleet between two reconciles. */
const event = fc.oneof(
  { weight: 5, arbitrary: fc.record({ type: fc.constant("arrive" as const), at: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("fail" as const), at: fc.nat() }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("release" as const), at: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("scale" as const), at: fc.nat(12) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("template" as const), at: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ type: fc.constant("park" as const), at: fc.nat() }) },
);

describe("any fleet, any history", () => {
  it("I7 is never taken under its budget by an update, and I8 settles as the newest spec has it, writing nothing more", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 12 }),
        fc.oneof(fc.integer({ min: 1, max: 4 }), fc.constantFrom("10%", "25%", "50%")),
        fc.array(event, { maxLength: 80 }),
        (replicas, maxUnavailable, events) => {
          const fleet = settled(replicas, { strategy: { rollingUpdate: { maxUnavailable } } });
          for (const { type, at } of events) {
            const names = [...fleet.children.keys()];
            const name = names[at % Math.max(1, names.length)];
            if (type === "release") fleet.current = digest("abcd"[at] ?? "a");
            else if (type === "scale") withSpec(fleet, { replicas: at });
            else if (type === "template") {
              const { template } = fleet.pool.spec;
              withSpec(fleet, { template: { ...template, spec: { ...template.spec, models: [`m${at}`] } } });
            } else if (name !== undefined && type === "arrive") fleet.arrive(name);
            else if (name !== undefined && type === "fail") fleet.fail(name);
            else if (name !== undefined && !isLeaving(fleet.children.get(name) as never)) {
              fleet.change(name, (child) => ({
                ...child,
                metadata: { ...child.metadata, generation: child.metadata.generation + 1 },
                spec: { ...child.spec, replicas: 1 - child.spec.replicas },
              }));
            }
            const before = inService(fleet);
            const actions = fleet.reconcile();
            const interrupted = actions.filter(
              (action) => action.type === "target" || action.type === "update",
            );
            const floor = minAvailableOf(fleet.pool, budgetSize(fleet.pool, [...fleet.children.values()]));
            const after = inService(fleet);
            if (interrupted.length > 0)
              expect(after).toBeGreaterThanOrEqual(Math.min(before, floor) - retired(actions));
          }
          fleet.settle();
          expect(fleet.reconcile()).toEqual([]);
          const staying = [...fleet.children.values()];
          expect(staying).toHaveLength(fleet.pool.spec.replicas);
          for (const child of staying) {
            expect(child.status?.config?.applied).toBe(fleet.current);
            expect(child.spec.models).toEqual(fleet.pool.spec.template.spec.models);
          }
        },
      ),
      { numRuns: 400 },
    );
  });

  it("keeps the window full: with room left, an outdated node is always on its way", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 2, max: 30 }),
        fc.integer({ min: 1, max: 5 }),
        (replicas, maxUnavailable) => {
          const fleet = settled(replicas, { strategy: { rollingUpdate: { maxUnavailable } } });
          fleet.current = digest("b");
          let steps = 0;
          for (; steps <= replicas; steps++) {
            fleet.reconcile();
            const moving = [...fleet.children.values()].filter(isMoving);
            if (moving.length === 0) break;
            const left = [...fleet.children.values()].filter(
              ({ status }) => status?.config?.applied !== digest("b"),
            ).length;
            expect(moving).toHaveLength(Math.min(maxUnavailable, replicas, left));
            const first = moving[0];
            if (first) fleet.arrive(first.metadata.name);
          }
          expect(steps).toBe(replicas);
        },
      ),
    );
  });
});

function inService(fleet: Fleet): number {
  return [...fleet.children.values()].filter(
    (child) => isReady(child) && !isMoving(child) && !isParked(child) && !isLeaving(child),
  ).length;
}

const retired = (actions: readonly PoolAction[]): number =>
  actions.filter(({ type }) => type === "retire").length;

describe("what a config may interrupt", () => {
  const names = ["chat-0", "chat-1", "chat-2"];

  it("moves all at once where no job is interrupted", () => {
    const fleet = settled(3);
    fleet.current = digest("b");
    fleet.interrupts = () => false;
    expect(brief(fleet.reconcile())).toEqual(names.map((name) => `target ${name}`));
  });

  it("I7 retargets nodes on a move that interrupts nothing to one that does only within the budget", () => {
    const fleet = settled(3);
    const live = digest("b");
    fleet.interrupts = (_child, asked) => asked !== live;
    fleet.current = live;
    expect(brief(fleet.reconcile())).toHaveLength(3);
    fleet.current = digest("c");
    expect(brief(fleet.reconcile())).toEqual(["target chat-0"]);
  });

  it("waits for the maintenance window with nodes in service, and with no others", () => {
    const fleet = settled(3);
    fleet.mayRestart = false;
    fleet.restartsUntil = Date.UTC(2026, 0, 3, 2);
    fleet.fail("chat-1");
    fleet.current = digest("b");
    expect(brief(fleet.reconcile())).toEqual(["target chat-1"]);
    fleet.arrive("chat-1");
    expect(brief(fleet.reconcile())).toEqual([]);
    const progress = poolStatus(fleet.observe()).conditions?.find(({ type }) => type === "Progressing");
    expect(progress).toMatchObject({ status: "True", reason: "MaintenanceWindow" });
    expect(progress?.message).toContain("2026-01-03T02:00:00Z");
    fleet.mayRestart = true;
    expect(brief(fleet.reconcile())).toEqual(["target chat-0"]);
  });

  it("outside of the window moves what interrupts nobody, makes new nodes and carries out edits of the pool", () => {
    const fleet = settled(2);
    fleet.mayRestart = false;
    fleet.current = digest("b");
    fleet.interrupts = (child) => child.metadata.name !== "chat-1";
    expect(brief(fleet.reconcile())).toEqual(["target chat-1"]);
    fleet.arrive("chat-1");
    withSpec(fleet, { replicas: 3 });
    fleet.reconcile();
    expect(brief(fleet.reconcile())).toEqual(["target chat-2"]);
    fleet.settle();
    const { template } = fleet.pool.spec;
    const runtime = { ...template.spec.runtime, args: ["--other"] };
    withSpec(fleet, { template: { ...template, spec: { ...template.spec, runtime } } });
    expect(brief(fleet.reconcile())).toContain("update chat-0");
  });
});

describe("a partition", () => {
  it("leaves the nodes under it as they are, and says so when the others are done", () => {
    const fleet = settled(3, { strategy: { rollingUpdate: { maxUnavailable: "100%", partition: 2 } } });
    fleet.current = digest("b");
    expect(brief(fleet.reconcile())).toEqual(["target chat-2"]);
    fleet.arrive("chat-2");
    expect(brief(fleet.reconcile())).toEqual([]);
    const progress = poolStatus(fleet.observe()).conditions?.find(({ type }) => type === "Progressing");
    expect(progress).toMatchObject({ status: "True", reason: "Partitioned" });
    const rollingUpdate = { maxUnavailable: "100%", partition: 0 };
    withSpec(fleet, { strategy: { ...fleet.pool.spec.strategy, rollingUpdate } });
    expect(brief(fleet.reconcile())).toEqual(["target chat-0", "target chat-1"]);
  });

  it("gives a new node under it what its siblings run", () => {
    const fleet = settled(3, { strategy: { rollingUpdate: { partition: 3 } } });
    fleet.current = digest("b");
    fleet.children.delete("chat-1");
    fleet.reconcile();
    fleet.reconcile();
    expect(fleet.children.get("chat-1")?.status?.config?.target).toBe(digest("a"));
  });
});
