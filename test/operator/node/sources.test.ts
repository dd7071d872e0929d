import { expect, it } from "vitest";
import type { Pod } from "../../../src/kube/resources.ts";
import { lookAt, viewOf } from "../../../src/operator/node/sources.ts";
import { configOf, digestOfSnapshot, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const [v1, v2] = [snapshotOf("v1"), snapshotOf("v2")];
const podIn = (world: World): Pod => JSON.parse(JSON.stringify(world.pod));

/** When the node is looked at for what `step` does to its pod. */
function after(world: World, step: (world: World) => unknown): string {
  const old = podIn(world);
  step(world);
  return lookAt({ get: () => world.node }, { type: "update", object: podIn(world), old });
}

it("a pod that comes up is left alone for a while, one that serves, fails or moves is looked at now", () => {
  const world = new World(nodeOf(), configOf([v1, v2]));
  world.reconcile();
  const known = { get: () => world.node };
  expect(lookAt(known, { type: "add", object: podIn(world) })).toBe("never");
  expect(after(world, (w) => w.kubeletSays({ phase: "Pending", qosClass: "Burstable" }))).toBe("never");
  expect(after(world, (w) => w.kubeletRunsAgent(false))).toBe("later");
  expect(after(world, (w) => w.kubeletRunsRuntime(false))).toBe("later");
  expect(lookAt(known, { type: "add", object: podIn(world) })).toBe("now");
  expect(after(world, (w) => w.kubeletWaits("runtime", "ImagePullBackOff"))).toBe("now");
  expect(after(world, (w) => w.kubeletRunsRuntime(true))).toBe("now");
  expect(after(world, (w) => w.kubeletRunsRuntime(false))).toBe("now");
  expect(after(world, (w) => w.kubeletSays({ phase: "Failed", reason: "Evicted" }))).toBe("now");

  const serving = new World(nodeOf(), configOf([v1, v2]));
  serving.untilServing();
  serving.retarget(digestOfSnapshot(v2));
  expect(after(serving, (w) => w.reconcile())).toBe("now");
  expect(after(serving, (w) => w.kubeletRunsRuntime(false))).toBe("now");
  expect(lookAt(known, { type: "delete", object: podIn(serving) })).toBe("now");
});

it("a node that the network gives no jobs is looked at when that begins, not at each line that tells it", () => {
  const world = new World(nodeOf(), configOf([v1]));
  world.untilServing();
  const { feed } = world;
  if (!feed) throw new Error("the network does not know the node");
  const until = Date.UTC(2026, 0, 1, 0, 1, 30);
  const unwanted = viewOf({ ...feed, deprioritised_until: until });
  expect(unwanted).not.toBe(viewOf({ ...feed, deprioritised_until: null }));
  expect(viewOf({ ...feed, deprioritised_until: until + 7 })).toBe(unwanted);
  expect(viewOf({ ...feed, deprioritised_until: until + 120_000 })).not.toBe(unwanted);
  expect(viewOf({ ...feed, jobs_committed: 12_345 })).toBe(viewOf(feed));
});
