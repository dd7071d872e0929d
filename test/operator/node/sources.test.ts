import { expect, it } from "vitest";
import type { Pod } from "../../../src/kube/resources.ts";
import { lookAt } from "../../../src/operator/node/sources.ts";
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
