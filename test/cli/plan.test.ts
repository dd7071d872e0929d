import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { forecast } from "../../src/cli/plan/forecast.ts";
import { renderPlan } from "../../src/cli/plan/render.ts";
import { planView } from "../../src/cli/plan/view.ts";
import { plainScreen } from "../../src/cli/text/screen.ts";
import { isLeaving, isMoving, isParked, type PoolAction } from "../../src/operator/pool/plan.ts";
import { digest, Fleet, makePool } from "../operator/pool/fleet.ts";

function settled(replicas: number, spec: Parameters<typeof makePool>[0] = {}): Fleet {
  const fleet = new Fleet(makePool({ replicas, ...spec }));
  fleet.settle();
  return fleet;
}

const wide = (maxUnavailable: number | string) => ({ strategy: { rollingUpdate: { maxUnavailable } } });
const withSpec = (fleet: Fleet, spec: object) => {
  fleet.pool = { ...fleet.pool, spec: { ...fleet.pool.spec, ...spec } };
};
const brief = (fleet: Fleet) =>
  forecast(fleet.observe()).steps.map(
    ({ node, does, inService }) => `${node} ${does.join("+")} ${inService}`,
  );

describe("the forecast of a pool", () => {
  it("tells the order of a roll and what stays in service", () => {
    const fleet = settled(3);
    fleet.current = digest("b");
    expect(brief(fleet)).toEqual(["chat-0 target 2", "chat-1 target 2", "chat-2 target 2"]);
    expect(forecast(fleet.observe())).toMatchObject({
      inServiceNow: 3,
      lowest: 2,
      minAvailable: 2,
      held: [],
    });
  });

  it("tells creation and the first config as one step, and retirement and deletion as another", () => {
    const fleet = settled(1);
    withSpec(fleet, { replicas: 3 });
    expect(brief(fleet)).toEqual(["chat-1 create+target 1", "chat-2 create+target 1"]);
    fleet.settle();
    withSpec(fleet, { replicas: 1 });
    expect(brief(fleet)).toEqual([
      "chat-2 retire 1",
      "chat-1 retire 1",
      "chat-1 delete 1",
      "chat-2 delete 1",
    ]);
  });

  it("has nothing to tell of a settled pool", () => {
    const view = planView(settled(2).observe());
    expect(view.next).toEqual([]);
    expect(renderPlan(view, plainScreen)).toContain(
      "Nothing to do: every node has the newest template and config.",
    );
  });

  it("says which nodes are held back by one that is out of service, and how to go on", () => {
    const fleet = settled(3);
    fleet.current = digest("b");
    fleet.reconcile();
    fleet.arrive("chat-0");
    fleet.fail("chat-0");
    const view = planView(fleet.observe());
    expect(view).toMatchObject({ steps: [], held: ["chat-1", "chat-2"], unwell: ["chat-0"], next: [] });
    const text = renderPlan(view, plainScreen);
    expect(text).toContain("chat-1, chat-2 cannot move yet: chat-0 is out of service");
    expect(text).toContain("kubectl resultity why rnode/chat-0 -n inference");
  });

  it("says that a paused pool waits for its owner", () => {
    const fleet = settled(2, { strategy: { paused: true } });
    fleet.current = digest("b");
    const text = renderPlan(planView(fleet.observe()), plainScreen);
    expect(text).toContain("updates are paused: chat-0, chat-1 have yet to move");
    expect(text).toContain("kubectl resultity rollout resume chat -n inference");
  });

  it("counts a node that was told before, and says what it is waited for", () => {
    const fleet = settled(3);
    fleet.current = digest("b");
    fleet.reconcile();
    const view = planView(fleet.observe());
    expect(view).toMatchObject({ next: [], underWay: ["chat-0"], inServiceNow: 2 });
    expect(view.steps.map(({ node }) => node)).toEqual(["chat-1", "chat-2"]);
    expect(view.waits[0]).toContain("chat-0 was told to move and has not arrived");
  });

  it("waits for a network that is missing or has no verified config", () => {
    const fleet = new Fleet(makePool({ replicas: 1 }));
    fleet.current = undefined;
    fleet.reconcile();
    expect(planView(fleet.observe()).waits.join()).toContain("network testnet has no verified config");
    expect(planView({ ...fleet.observe(), networkKnown: false }).waits.join()).toContain(
      "there is no ResultityNetwork testnet in namespace inference: create it",
    );
  });

  it("tells the next actions with reasons, and shows the first of many steps", () => {
    const fleet = settled(300, wide("10%"));
    fleet.current = digest("b");
    const view = planView(fleet.observe());
    expect(view.next).toHaveLength(30);
    expect(view.steps).toHaveLength(300);
    expect(view.curve).toEqual([
      { at: 0, inService: 270 },
      { at: 10, inService: 300 },
    ]);
    const text = renderPlan(view, plainScreen);
    expect(text).toContain("at least 270 stay so (maxUnavailable 10%)");
    expect(text).toMatch(/target +chat-0 +the pool moves from aaaaaaaaaaaa to bbbbbbbbbbbb/);
    expect(text).toContain("… and 260 more: -o json has them");
    expect(text).toMatch(/now +300\/300 +#{27}\|##\n\+0 +270\/300 +#{27}\|\n\+10 +300\/300/);
  });

  it.each([1, "1%", "10%"])("answers at once for the largest pool, maxUnavailable %s", (maxUnavailable) => {
    const fleet = new Fleet(makePool({ replicas: 10_000, ...wide(maxUnavailable) }));
    for (let at = 0; at < 3; at++) fleet.reconcile();
    for (const name of fleet.children.keys()) fleet.arrive(name);
    fleet.current = digest("b");
    const began = process.cpuUsage();
    const view = planView(fleet.observe());
    // Some 300 ms; time of the processor, since a machine that tests has others to do too.
    expect(process.cpuUsage(began).user / 1_000).toBeLessThan(2_000);
    expect(view.steps).toHaveLength(10_000);
    expect(view.lowest).toBe(view.minAvailable);
    expect(view.curve.at(-1)?.inService).toBe(10_000);
  });

  it("takes a trial as one that is passed, and says what it waits for", () => {
    const canary = {
      replicas: 2,
      jobs: 20,
      maxErrorRatePercent: 5,
      maxLatencyIncreasePercent: 50,
      soakSeconds: 300,
    };
    const fleet = settled(5, { strategy: { rollingUpdate: { maxUnavailable: 2, canary } } });
    fleet.current = digest("b");
    const view = planView(fleet.observe());
    expect(view.trial).toEqual(["chat-0", "chat-1"]);
    expect(view.steps.map(({ node, at }) => [node, at])).toEqual([
      ["chat-0", 0],
      ["chat-1", 0],
      ["chat-2", 1],
      ["chat-3", 1],
      ["chat-4", 2],
    ]);
    expect(view.waits.join()).toContain(
      "chat-0, chat-1 try the config first: in service for 300 s, and 20 jobs answered",
    );
  });

  it("tells how long it takes from how long nodes took", () => {
    const fleet = settled(4);
    fleet.now += 30_000;
    for (const name of fleet.children.keys()) fleet.arrive(name);
    fleet.current = digest("b");
    expect(planView(fleet.observe())).toMatchObject({
      pace: { restartMs: 30_000 },
      length: 4,
      durationMs: 120_000,
    });
    // Two of them have moved since a roll began, one after the other.
    const { status } = fleet.pool;
    const startedAt = new Date(fleet.now).toISOString();
    fleet.pool = {
      ...fleet.pool,
      status: { ...status, rollout: { target: digest("b"), updated: 0, total: 4, startedAt } },
    };
    for (const name of ["chat-0", "chat-1"]) {
      fleet.reconcile();
      fleet.now += 90_000;
      fleet.arrive(name);
    }
    expect(planView(fleet.observe())).toMatchObject({
      pace: { restartMs: 90_000 },
      length: 2,
      durationMs: 180_000,
    });
    expect(renderPlan(planView(fleet.observe()), plainScreen)).toContain("It takes about 3m: 2 restarts");
  });

  it("is what the operator then does, whatever the pool", () => {
    const change = fc.record({
      replicas: fc.integer({ min: 0, max: 7 }),
      resized: fc.integer({ min: 0, max: 7 }),
      maxUnavailable: fc.constantFrom(1, 2, "34%", "100%"),
      moves: fc.boolean(),
      template: fc.boolean(),
      failed: fc.array(fc.nat(6), { maxLength: 2 }),
      parked: fc.array(fc.nat(6), { maxLength: 1 }),
    });
    fc.assert(
      fc.property(change, ({ replicas, resized, maxUnavailable, moves, template, failed, parked }) => {
        const fleet = settled(replicas, wide(maxUnavailable));
        for (const at of parked) {
          if (!fleet.children.has(`chat-${at}`)) continue;
          fleet.change(`chat-${at}`, (child) => ({ ...child, spec: { ...child.spec, replicas: 0 } }));
          fleet.arrive(`chat-${at}`);
        }
        fleet.settle();
        for (const at of failed) if (fleet.children.has(`chat-${at}`)) fleet.fail(`chat-${at}`);
        if (moves) fleet.current = digest("b");
        const { template: old } = fleet.pool.spec;
        const args = { ...old.spec, runtime: { ...old.spec.runtime, args: ["--new"] } };
        withSpec(fleet, { replicas: resized, ...(template ? { template: { ...old, spec: args } } : {}) });
        const told = forecast(fleet.observe());
        expect(told.steps.flatMap(({ node, does }) => does.map((type) => `${node} ${type}`)).sort()).toEqual(
          done(fleet).sort(),
        );
        expect(told.lowest).toBeGreaterThanOrEqual(Math.min(told.inServiceNow, told.minAvailable));
      }),
      { numRuns: 200 },
    );
  });
});

/** Lets the pool run, one arrival at a time, the longest told first; returns what was done to nodes. */
function done(fleet: Fleet): string[] {
  const told = new Set<string>();
  const log: string[] = [];
  for (;;) {
    // What is got ready for later moves nobody.
    const actions = fleet.reconcile().filter(({ type }) => type !== "budget" && type !== "prepare");
    for (const action of actions) log.push(`${nameOf(action)} ${action.type}`);
    for (const child of fleet.children.values()) {
      const { name } = child.metadata;
      const isTold = actions.some((action) => nameOf(action) === name);
      if (isTold && (isLeaving(child) || (!isParked(child) && isMoving(child)))) told.add(name);
    }
    if (actions.length > 0) continue;
    const [next] = told;
    if (next === undefined) return log;
    told.delete(next);
    fleet.arrive(next);
  }
}

function nameOf(action: PoolAction): string {
  return "child" in action ? action.child.metadata.name : "name" in action ? action.name : "";
}
