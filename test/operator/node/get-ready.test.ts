import { describe, expect, it } from "vitest";
import { imagesAhead } from "../../../src/operator/node/scene.ts";
import { podFacts } from "../../../src/operator/node/facts.ts";
import type { ConfigDigest } from "../../../src/protocol/fields.ts";
import { configOf, digestOfSnapshot, imageOf, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const [v1, v2, v3] = [snapshotOf("v1"), snapshotOf("v2"), snapshotOf("v3")];
const [d1, d2, d3] = [digestOfSnapshot(v1), digestOfSnapshot(v2), digestOfSnapshot(v3)];

/** A node of a pool that serves v1, while no maintenance window is open. */
function serving(): World {
  const world = new World(nodeOf(), configOf([v1, v2, v3], { mayRestart: false }));
  world.inPool = true;
  world.untilServing();
  return world;
}

/** The pool tells what comes in the window. */
function prepare(world: World, next: ConfigDigest | undefined): void {
  const { next: _, ...config } = world.node.status?.config ?? {};
  const status = { ...world.node.status, config: { ...config, ...(next ? { next } : {}) } };
  world.node = { ...world.node, status };
}

const ahead = (world: World) => world.pod && imagesAhead(world.observe(), podFacts(world.pod, world.node));

describe("before the maintenance window", () => {
  it("a node gets weights and image of what is to come while it serves on, and then rests", () => {
    const world = serving();
    prepare(world, d2);
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired).toMatchObject({ stage: d2, target: d1, plannedStop: null });
    prepare(world, d2);
    world.prefetchState = "coming";
    expect(world.reconcile()).toContain("prefetch");
    world.agentAnswers({ staged: d2 });
    prepare(world, d2);
    world.reconcile();
    // The agent has the weights; that the host has the image too is what `staged` says.
    expect(world.node.status?.config?.staged).toBeUndefined();
    world.prefetches = world.prefetches.map((prefetch) => ({ ...prefetch, state: "present" }));
    prepare(world, d2);
    expect(world.reconcile()).toEqual([]);
    expect(world.node.status?.config).toMatchObject({ applied: d1, staged: d2 });
    expect(world.condition("Ready")).toBe("True AllWell");
    expect(world.condition("ConfigApplied")).toBe("True Applied");
    expect(world.log).toEqual([expect.stringContaining("annotate"), "prefetch runtime"]);
    // What was fetched stays until it runs.
    prepare(world, d2);
    expect(ahead(world)).toEqual([imageOf("engine", "v2")]);
  });

  it("what is ready needs no more than its restart when the window opens", () => {
    const world = serving();
    prepare(world, d2);
    world.reconcile();
    prepare(world, d2);
    world.reconcile();
    world.agentAnswers({ staged: d2 });
    prepare(world, d2);
    world.reconcile();
    world.log.length = 0;
    prepare(world, undefined);
    world.retarget(d2);
    world.reconcile();
    expect(world.desired).toMatchObject({ stage: null, target: d2, plannedStop: "runtime-image" });
    world.agentAnswers();
    expect(world.reconcile()).toEqual(["patch-image"]);
    expect(world.log).toEqual([expect.stringContaining("annotate"), "patch runtime"]);
  });

  it("a node that is to get ready for another config, or for none, leaves the one before", () => {
    const world = serving();
    prepare(world, d2);
    world.reconcile();
    prepare(world, d3);
    world.reconcile();
    expect(world.desired).toMatchObject({ stage: d3, target: d1 });
    prepare(world, undefined);
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired).toMatchObject({ stage: null, target: d1 });
    expect(ahead(world)).toEqual([]);
  });

  it("what cannot be had is told, and the node serves on", () => {
    const world = serving();
    prepare(world, d2);
    world.reconcile();
    world.prefetchState = "failed";
    prepare(world, d2);
    world.reconcile();
    prepare(world, d2);
    world.reconcile();
    expect(world.condition("ConfigApplied")).toBe("True PrefetchFailed");
    expect(world.condition("Ready")).toBe("True PrefetchFailed");
    const error = { digest: d2, code: "room", message: "300 more bytes" };
    world.prefetches = world.prefetches.map((prefetch) => ({ ...prefetch, state: "present" }));
    world.agentAnswers({ error });
    prepare(world, d2);
    world.reconcile();
    expect(world.condition("ConfigApplied")).toBe("True StageFailed");
    expect(world.condition("Ready")).toBe("True AllWell");
  });

  it("a node without a pool gets ready by itself for what its network moves to", () => {
    const world = new World(nodeOf(), configOf([v1]));
    world.untilServing();
    world.config = configOf([v2, v1], { mayRestart: false });
    world.reconcile();
    expect(world.desired).toMatchObject({ stage: digestOfSnapshot(v2), target: d1, plannedStop: null });
    const open = new World(world.node, configOf([v2, v1]));
    open.pod = world.pod;
    open.agent = world.agent;
    open.reconcile();
    expect(open.desired.stage).toBe(d2);
  });
});
