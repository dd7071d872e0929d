import { describe, expect, it } from "vitest";
import { podFacts, runs } from "../../../src/operator/node/facts.ts";
import { imageOf } from "./network.ts";
import { World } from "./world.ts";

function factsWith(imageID: string, observedGeneration: number) {
  const world = new World();
  world.untilServing();
  const [status] = world.pod?.status?.containerStatuses ?? [];
  if (!status || !world.pod) throw new Error("no status");
  world.pod.metadata.generation = 2;
  world.kubeletSays({ observedGeneration, containerStatuses: [{ ...status, imageID, image: "" }] });
  return podFacts(world.pod, world.node);
}

describe("which image a container runs", () => {
  const [old, wanted] = [imageOf("engine", "v1"), imageOf("engine", "v2")];

  it("is told by the digest, wherever the image came from", () => {
    expect(runs(factsWith(wanted, 1), "runtime", wanted)).toBe(true);
    expect(runs(factsWith(wanted.replace("registry.example", "mirror.local"), 1), "runtime", wanted)).toBe(
      true,
    );
    expect(runs(factsWith(old, 2), "runtime", wanted)).toBe(false);
  });

  it("is told by what the kubelet has seen where it names no manifest's digest", () => {
    const configDigest = `sha256:${"a".repeat(64)}`;
    expect(runs(factsWith(configDigest, 1), "runtime", wanted)).toBe(false);
    expect(runs(factsWith(configDigest, 2), "runtime", wanted)).toBe(true);
  });
});
