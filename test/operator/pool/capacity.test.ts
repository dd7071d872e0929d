/** Pools on lent GPUs: who has none is parked. It takes no room in the budget, and no update waits for it. */
import { describe, expect, it } from "vitest";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import { observeNode } from "../../../src/operator/network/observe.ts";
import { isParked } from "../../../src/operator/pool/child.ts";
import { commonDigest } from "../../../src/operator/pool/digest.ts";
import type { PoolAction } from "../../../src/operator/pool/plan.ts";
import { poolStatus } from "../../../src/operator/pool/status.ts";
import { digest, Fleet, makePool } from "./fleet.ts";

type Spec = Parameters<typeof makePool>[0];

/** A settled pool on lent GPUs, on config a. */
function lent(replicas: number, spec: Spec = {}): Fleet {
  const fleet = new Fleet(makePool({ replicas, capacity: "Opportunistic", ...spec }));
  fleet.settle();
  return fleet;
}

/** Who gets ready for a turn that is yet to come is told of in prepare.test.ts. */
const brief = (actions: readonly PoolAction[]): string[] =>
  actions
    .filter(({ type }) => type !== "budget" && type !== "prepare")
    .map((action) => `${action.type} ${"child" in action ? action.child.metadata.name : ""}`.trim());

const condition = (fleet: Fleet, type: string) =>
  poolStatus(fleet.observe()).conditions?.find((one) => one.type === type);
const said = (fleet: Fleet, type: string) => {
  const found = condition(fleet, type);
  return `${found?.status} ${found?.reason}`;
};

const nodeOf = (fleet: Fleet, name: string): ResultityNode => {
  const child = fleet.children.get(name);
  if (!child) throw new Error(`no node ${name}`);
  return child;
};

describe("the budget", () => {
  it.each([
    { parked: [], minAvailable: 7 },
    { parked: [0, 3, 7], minAvailable: 4 },
    { parked: [0, 1, 2, 3, 4, 5, 6], minAvailable: 0 },
    { parked: [0, 1, 2, 3, 4, 5, 6, 7], minAvailable: 0 },
  ])("of 8 nodes, of which $parked have no GPUs: $minAvailable stay", ({ parked, minAvailable }) => {
    const fleet = lent(8);
    for (const at of parked) fleet.park(`chat-${at}`);
    fleet.reconcile();
    expect(fleet.budget?.minAvailable).toBe(minAvailable);
  });

  it("is about all of a pool whose GPUs are its own, whatever a status says", () => {
    const fleet = lent(3, { capacity: "Guaranteed" });
    fleet.park("chat-0");
    fleet.reconcile();
    expect(isParked(nodeOf(fleet, "chat-0"))).toBe(false);
    expect(fleet.budget?.minAvailable).toBe(2);
  });
});

describe("an update", () => {
  it("tells those without GPUs at once and for nothing, and takes the others one by one", () => {
    const fleet = lent(4);
    fleet.park("chat-0");
    fleet.park("chat-2");
    fleet.current = digest("b");
    expect(brief(fleet.reconcile())).toEqual(["target chat-0", "target chat-1", "target chat-2"]);
    fleet.arrive("chat-1");
    expect(brief(fleet.reconcile())).toEqual(["target chat-3"]);
    fleet.arrive("chat-3");
    expect(brief(fleet.reconcile())).toEqual([]);
  });

  it("ends without them, and they are not waited for", () => {
    const fleet = lent(4);
    fleet.park("chat-0");
    fleet.park("chat-2");
    fleet.current = digest("b");
    fleet.reconcile();
    fleet.arrive("chat-1");
    fleet.reconcile();
    expect(poolStatus(fleet.observe()).rollout).toMatchObject({
      updated: 1,
      total: 2,
      waitingOn: { node: "chat-3" },
    });
    fleet.arrive("chat-3");
    const status = poolStatus(fleet.observe());
    expect(status.rollout).toMatchObject({ target: digest("b"), updated: 2, total: 2 });
    expect(status.rollout).not.toHaveProperty("waitingOn");
    expect(said(fleet, "Progressing")).toBe("True NewestConfig");
    expect(said(fleet, "Ready")).toBe("True AllWell");
  });

  it("that loses a node to others in its middle goes on with the rest", () => {
    const fleet = lent(3);
    fleet.current = digest("b");
    expect(brief(fleet.reconcile())).toEqual(["target chat-0"]);
    fleet.park("chat-0");
    expect(brief(fleet.reconcile())).toEqual(["target chat-1"]);
    fleet.arrive("chat-1");
    expect(brief(fleet.reconcile())).toEqual(["target chat-2"]);
    fleet.arrive("chat-2");
    expect(said(fleet, "Progressing")).toBe("True NewestConfig");
  });

  it("waits for those that come back until they serve, as for any that is out of service", () => {
    const fleet = lent(4);
    fleet.park("chat-0");
    fleet.park("chat-1");
    fleet.current = digest("b");
    expect(brief(fleet.reconcile())).toEqual(["target chat-0", "target chat-1", "target chat-2"]);
    fleet.arrive("chat-2");
    fleet.schedule("chat-0");
    expect(brief(fleet.reconcile())).toEqual([]);
    fleet.arrive("chat-0");
    expect(brief(fleet.reconcile())).toEqual(["target chat-3"]);
    expect(nodeOf(fleet, "chat-0").status?.config?.applied).toBe(digest("b"));
  });

  it("takes no edit of the pool to be done by them, and needs no room for it", () => {
    const fleet = lent(3);
    fleet.park("chat-1");
    const { template } = fleet.pool.spec;
    fleet.pool = {
      ...fleet.pool,
      spec: { ...fleet.pool.spec, template: { ...template, spec: { ...template.spec, models: ["m"] } } },
    };
    expect(brief(fleet.reconcile())).toEqual(["update chat-0", "update chat-1"]);
    fleet.arrive("chat-0");
    expect(brief(fleet.reconcile())).toEqual(["update chat-2"]);
    fleet.arrive("chat-2");
    expect(said(fleet, "Progressing")).toBe("True NewestConfig");
  });

  it("is not tried on them first", () => {
    const fleet = lent(3, { strategy: { rollingUpdate: { canary: { replicas: 1 } } } });
    fleet.park("chat-0");
    fleet.current = digest("b");
    expect(brief(fleet.reconcile())).toEqual(["target chat-1"]);
    expect(poolStatus(fleet.observe()).rollout).toMatchObject({ canary: "Running" });
  });

  it("goes back to nothing that they alone ran last", () => {
    const fleet = lent(3);
    fleet.current = digest("b");
    fleet.park("chat-0");
    fleet.park("chat-1");
    fleet.reconcile();
    fleet.arrive("chat-2");
    expect(commonDigest(fleet.observe())).toBe(digest("b"));
    expect(commonDigest(fleet.observe(), digest("b"))).toBeUndefined();
  });
});

describe("whose GPUs they are", () => {
  it("reaches the nodes one by one, and is nothing to do where it was never said", () => {
    const fleet = lent(3, { capacity: "Guaranteed" });
    for (const name of fleet.children.keys())
      fleet.change(name, ({ spec: { capacity: _, ...spec }, ...child }) => ({ ...child, spec }));
    expect(brief(fleet.reconcile())).toEqual([]);
    fleet.pool = { ...fleet.pool, spec: { ...fleet.pool.spec, capacity: "Opportunistic" } };
    expect(brief(fleet.reconcile())).toEqual(["update chat-0"]);
    expect(nodeOf(fleet, "chat-0").spec.capacity).toBe("Opportunistic");
    fleet.arrive("chat-0");
    expect(brief(fleet.reconcile())).toEqual(["update chat-1"]);
  });
});

describe("a smaller pool", () => {
  it("lets those go first that have no GPUs", () => {
    const fleet = lent(4);
    fleet.park("chat-1");
    fleet.pool = { ...fleet.pool, spec: { ...fleet.pool.spec, replicas: 3 } };
    expect(brief(fleet.reconcile())).toEqual(["retire chat-1"]);
  });
});

describe("the status", () => {
  it.each([
    {
      parked: [1],
      Available: "True MinimumAvailable",
      Ready: "True AllWell",
      message: "2 nodes are in service; 1 more is parked for want of capacity",
    },
    {
      parked: [0, 2],
      Available: "True MinimumAvailable",
      Ready: "True AllWell",
      message: "1 nodes are in service; 2 more are parked for want of capacity",
    },
    {
      parked: [0, 1, 2],
      Available: "True NoCapacity",
      Ready: "True NoCapacity",
      message: "no node is in service; 3 more are parked for want of capacity; they come back by themselves",
    },
  ])("of 3 nodes, of which $parked have no GPUs, alarms nobody", ({ parked, Available, Ready, message }) => {
    const fleet = lent(3);
    for (const at of parked) fleet.park(`chat-${at}`);
    fleet.reconcile();
    expect(said(fleet, "Available")).toBe(Available);
    expect(said(fleet, "Ready")).toBe(Ready);
    expect(condition(fleet, "Ready")?.message).toBe(message);
    expect(poolStatus(fleet.observe())).toMatchObject({
      replicas: 3,
      availableReplicas: 3 - parked.length,
      parkedReplicas: parked.length,
    });
  });

  it("alarms when one that has GPUs does not serve", () => {
    const fleet = lent(3);
    fleet.park("chat-0");
    fleet.fail("chat-1");
    fleet.fail("chat-2");
    expect(said(fleet, "Available")).toBe("False MinimumUnavailable");
    expect(said(fleet, "Ready")).toBe("False MinimumUnavailable");
  });
});

describe("the network", () => {
  it("keeps no config for a node that runs nothing, but the one that it begins with", () => {
    const fleet = lent(2);
    fleet.park("chat-0");
    fleet.current = digest("b");
    fleet.reconcile();
    expect(observeNode(nodeOf(fleet, "chat-0"))).toMatchObject({ target: digest("b"), applied: undefined });
    expect(observeNode(nodeOf(fleet, "chat-1"))).toMatchObject({ applied: digest("a") });
  });
});
