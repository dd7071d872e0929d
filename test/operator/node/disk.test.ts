import { describe, expect, it } from "vitest";
import { configOf, digestOfSnapshot, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const gib = 2 ** 30;
const [v1, v2] = [snapshotOf("v1"), snapshotOf("v2")];
const d2 = digestOfSnapshot(v2);

/** A node of a pool that wants 20 GiB free, told to move to another image. */
function moving(): World {
  const world = new World(nodeOf(), configOf([v1, v2]));
  world.inPool = true;
  world.untilServing();
  world.host = { ...world.host, minFreeBytes: 20 * gib };
  world.retarget(d2);
  return world;
}

/** The agent answers, now, with what the host's disk has free. */
function says(world: World, free: number | undefined, ageMs = 0): void {
  world.agentAnswers({ staged: d2 });
  const { status } = world.agent;
  const disk = free === undefined ? {} : { image_disk: { free, total: 200 * gib } };
  if (status) world.agent = { ...world.agent, ageMs, status: { ...status, ...disk } };
}

describe("the disk of a host", () => {
  it("is asked for before an image comes, and what the agent said long ago does not count", () => {
    const world = moving();
    expect(world.reconcile()).toEqual(["annotate", "ask-agent", "wait"]);
    says(world, 100 * gib, 60_000);
    expect(world.reconcile()).not.toContain("prefetch");
    says(world, 100 * gib);
    expect(world.reconcile()).toContain("prefetch");
  });

  it("that is too full gets no image: the node says host, free and needed bytes and serves on, and goes on when there is room", () => {
    const world = moving();
    world.reconcile();
    says(world, 7 * gib + 5);
    expect(world.reconcile()).not.toContain("prefetch");
    expect(world.condition("ConfigApplied")).toBe("False HostDiskFull");
    expect(world.condition("Ready")).toBe("True HostDiskFull");
    const message =
      world.node.status?.conditions?.find(({ type }) => type === "ConfigApplied")?.message ?? "";
    for (const part of [
      "host-1",
      "gpu-0",
      `${7 * gib} bytes`,
      `${20 * gib} bytes`,
      v2.runtimes[0]?.image ?? "-",
    ])
      expect(message).toContain(part);
    // Asked again: what is known is not taken back, and a few bytes more are not told.
    says(world, 7 * gib + 9, 60_000);
    world.reconcile();
    expect(world.node.status?.conditions?.find(({ type }) => type === "ConfigApplied")?.message).toBe(
      message,
    );
    expect(world.log.filter((line) => line.startsWith("prefetch"))).toEqual([]);
    says(world, 21 * gib);
    expect(world.reconcile()).toContain("prefetch");
    says(world, 21 * gib);
    world.reconcile();
    expect(world.desired).toMatchObject({ target: d2, plannedStop: "runtime-image" });
  });

  it("of which an older agent says nothing stops no rollout", () => {
    const world = moving();
    world.reconcile();
    says(world, undefined);
    expect(world.reconcile()).toContain("prefetch");
  });

  it("is not asked for where the pool wants nothing", () => {
    const world = moving();
    world.host = { ...world.host, minFreeBytes: undefined };
    expect(world.reconcile()).toContain("prefetch");
  });
});
