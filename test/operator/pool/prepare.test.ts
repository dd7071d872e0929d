import { describe, expect, it } from "vitest";
import { digest, Fleet, makePool } from "./fleet.ts";

const [a, b, c] = [digest("a"), digest("b"), digest("c")];

/** Ten nodes that serve `a`, while no window is open and the network is at `b`. */
function closed(spec: Parameters<typeof makePool>[0] = {}): Fleet {
  const fleet = new Fleet(makePool({ replicas: 10, ...spec }));
  fleet.current = a;
  fleet.settle();
  fleet.current = b;
  fleet.mayRestart = false;
  return fleet;
}

const prepared = (fleet: Fleet) =>
  [...fleet.children.values()].flatMap(({ metadata, status }) =>
    status?.config?.next === undefined ? [] : [metadata.name],
  );

/** Those that get ready have all that it takes. */
function stage(fleet: Fleet): void {
  for (const [name, { status }] of fleet.children) {
    const next = status?.config?.next;
    if (next !== undefined)
      fleet.change(name, (child) => ({
        ...child,
        status: { ...child.status, config: { ...child.status?.config, staged: next } },
      }));
  }
}

describe("before the maintenance window", () => {
  it("nodes get ready in the order in which they will go, no more at once than images may come; none is told to move", () => {
    const fleet = closed({
      strategy: { rollingUpdate: { maxUnavailable: 2, prefetch: { maxParallel: 3 } } },
    });
    expect(fleet.reconcile().map(({ type }) => type)).toEqual(["prepare", "prepare", "prepare"]);
    expect(prepared(fleet)).toEqual(["chat-0", "chat-1", "chat-2"]);
    expect(fleet.reconcile()).toEqual([]);
    for (const count of [6, 9, 10]) {
      stage(fleet);
      fleet.reconcile();
      expect(prepared(fleet)).toHaveLength(count);
    }
    stage(fleet);
    expect(fleet.reconcile()).toEqual([]);
    fleet.mayRestart = true;
    expect(fleet.reconcile().map(({ type }) => type)).toEqual(["target", "target"]);
    expect(prepared(fleet)).toHaveLength(8);
  });

  it("one that cannot get ready holds up no other", () => {
    const fleet = closed({ strategy: { rollingUpdate: { prefetch: { maxParallel: 1 } } } });
    fleet.reconcile();
    fleet.change("chat-0", (child) => ({
      ...child,
      status: {
        ...child.status,
        conditions: [
          ...(child.status?.conditions ?? []).filter(({ type }) => type !== "ConfigApplied"),
          {
            type: "ConfigApplied",
            status: "True",
            reason: "HostDiskFull",
            message: "",
            observedGeneration: 1,
            lastTransitionTime: new Date(fleet.now).toISOString(),
          },
        ],
      },
    }));
    fleet.reconcile();
    expect(prepared(fleet)).toEqual(["chat-0", "chat-1"]);
  });

  it("members of a trial alone get ready for what is tried, and nobody under a pause or a partition", () => {
    const trial = closed({ strategy: { rollingUpdate: { canary: { replicas: 2 } } } });
    trial.reconcile();
    expect(prepared(trial)).toEqual(["chat-0", "chat-1"]);
    const paused = closed({ strategy: { paused: true } });
    expect(paused.reconcile()).toEqual([]);
    const partitioned = closed({ strategy: { rollingUpdate: { partition: 8 } } });
    partitioned.reconcile();
    expect(prepared(partitioned)).toEqual(["chat-8", "chat-9"]);
  });

  it("who gets ready follows the network to another config, and back to where it is", () => {
    const fleet = closed();
    fleet.reconcile();
    fleet.current = c;
    fleet.reconcile();
    expect([...fleet.children.values()].map(({ status }) => status?.config?.next).slice(0, 5)).toEqual([
      c,
      c,
      c,
      c,
      undefined,
    ]);
    fleet.current = a;
    expect(fleet.reconcile().map(({ type }) => type)).toEqual(Array.from({ length: 4 }, () => "prepare"));
    expect(prepared(fleet)).toEqual([]);
    expect(fleet.reconcile()).toEqual([]);
  });

  it("nothing is got ready where a move interrupts nothing: it goes at once", () => {
    const fleet = closed();
    fleet.interrupts = () => false;
    fleet.reconcile();
    expect(prepared(fleet)).toEqual([]);
  });
});

describe("while others move", () => {
  /** Ten nodes that serve `a`, of which two may be out of service, and the network is at `b`. */
  function rolling(spec: Parameters<typeof makePool>[0] = {}): Fleet {
    const rollingUpdate = { maxUnavailable: 2, prefetch: { maxParallel: 8 } };
    const fleet = closed({ strategy: { rollingUpdate }, ...spec });
    fleet.mayRestart = true;
    return fleet;
  }
  const told = (fleet: Fleet) =>
    fleet
      .reconcile()
      .map((action) => `${action.type} ${"child" in action ? action.child.metadata.name : ""}`);

  it("as many as may be out of service at once get ready: the next to go", () => {
    const fleet = rolling();
    expect(told(fleet)).toEqual(["target chat-0", "target chat-1", "prepare chat-2", "prepare chat-3"]);
    stage(fleet);
    expect(told(fleet)).toEqual([]);
    fleet.arrive("chat-1");
    expect(told(fleet)).toEqual(["target chat-2", "prepare chat-4"]);
    // Who goes gets ready for nothing any more.
    expect(prepared(fleet)).toEqual(["chat-3", "chat-4"]);
  });

  it("one that is told to move and serves while it fetches counts among those that fetch; one that has all of it does not", () => {
    const fleet = rolling({
      strategy: { rollingUpdate: { maxUnavailable: 2, prefetch: { maxParallel: 2 } } },
    });
    expect(told(fleet)).toEqual(["target chat-0", "target chat-1"]);
    expect(told(fleet)).toEqual([]);
    fleet.fail("chat-0");
    expect(told(fleet)).toEqual(["prepare chat-2"]);
    fleet.fail("chat-1");
    expect(told(fleet)).toEqual(["prepare chat-3"]);
    stage(fleet);
    fleet.arrive("chat-0");
    expect(told(fleet)).toEqual(["target chat-2", "prepare chat-4"]);
  });

  /** What each gets ready for, where the network went from `b` to `c` as the window opened. */
  const nextOf = (fleet: Fleet) =>
    [...fleet.children.values()].slice(2, 8).map(({ status }) => status?.config?.next);

  it("who is further back than the next to go leaves what is wanted no more, and its hand is free at once", () => {
    const rollingUpdate = { maxUnavailable: 2, prefetch: { maxParallel: 6 } };
    const fleet = closed({ strategy: { rollingUpdate } });
    fleet.reconcile();
    expect(prepared(fleet)).toHaveLength(6);
    fleet.current = c;
    fleet.mayRestart = true;
    const actions = told(fleet);
    expect(actions.filter((action) => action.startsWith("prepare"))).toHaveLength(4);
    expect(new Set(actions).size).toBe(actions.length);
    expect(nextOf(fleet)).toEqual([c, c, undefined, undefined, undefined, undefined]);
    expect(told(fleet)).toEqual([]);
  });

  it("who has got ready for what is wanted no more leaves it once, and gets ready when a hand is free", () => {
    const rollingUpdate = { maxUnavailable: 2, prefetch: { maxParallel: 2 } };
    const fleet = closed({ strategy: { rollingUpdate } });
    for (let look = 0; look < 3; look++) {
      if (look > 0) stage(fleet);
      fleet.reconcile();
    }
    expect(nextOf(fleet)).toEqual([b, b, b, b, undefined, undefined]);
    fleet.current = c;
    fleet.mayRestart = true;
    told(fleet);
    expect(nextOf(fleet)).toEqual(Array.from({ length: 6 }));
    expect(told(fleet)).toEqual([]);
    fleet.fail("chat-0");
    expect(told(fleet)).toEqual(["prepare chat-2"]);
    expect(told(fleet)).toEqual([]);
  });

  it("who is further back, as fewer may be out of service at once, goes on while it is wanted, and no longer", () => {
    const fleet = closed({
      strategy: { rollingUpdate: { maxUnavailable: 4, prefetch: { maxParallel: 8 } } },
    });
    fleet.mayRestart = true;
    const kept = ["chat-4", "chat-5", "chat-6", "chat-7"];
    fleet.reconcile();
    expect(prepared(fleet)).toEqual(kept);
    const rollingUpdate = { ...fleet.pool.spec.strategy.rollingUpdate, maxUnavailable: 1 };
    const strategy = { ...fleet.pool.spec.strategy, rollingUpdate };
    fleet.pool = { ...fleet.pool, spec: { ...fleet.pool.spec, strategy } };
    fleet.reconcile();
    expect(prepared(fleet)).toEqual(kept);
    fleet.current = c;
    fleet.reconcile();
    expect(prepared(fleet)).toEqual(["chat-4"]);
    expect(nextOf(fleet)[2]).toBe(c);
  });

  it("who was to go and is not any more, as the pool is paused or goes elsewhere, leaves it", () => {
    const fleet = rolling();
    fleet.reconcile();
    fleet.pool = {
      ...fleet.pool,
      spec: { ...fleet.pool.spec, strategy: { ...fleet.pool.spec.strategy, paused: true } },
    };
    expect(told(fleet)).toEqual(["prepare chat-2", "prepare chat-3"]);
    expect(prepared(fleet)).toEqual([]);
    expect(told(fleet)).toEqual([]);
  });
});
