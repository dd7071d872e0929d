import { describe, expect, it } from "vitest";
import type { Pod } from "../../src/kube/resources.ts";
import { podFacts } from "../../src/operator/node/facts.ts";
import { prefetchFacts } from "../../src/operator/node/prefetch/facts.ts";
import { trimPod } from "../../src/operator/trim.ts";
import { configOf, snapshotOf } from "./node/network.ts";
import { nodeOf, World } from "./node/world.ts";

const copy = (pod: Pod): Pod => JSON.parse(JSON.stringify(pod));

function servingPod(): { world: World; pod: Pod } {
  const world = new World(nodeOf({}, "gpu-0"), configOf([snapshotOf("v1")]));
  world.untilServing();
  if (!world.pod) throw new Error("a node that serves has a pod");
  return { world, pod: copy(world.pod) };
}

describe("a trimmed pod", () => {
  it("has all that the operator reads, in less than half of the space", () => {
    const { world, pod } = servingPod();
    const trimmed = trimPod(copy(pod));
    expect(podFacts(trimmed, world.node)).toEqual(podFacts(pod, world.node));
    expect(prefetchFacts(trimmed)).toEqual(prefetchFacts(pod));
    expect(JSON.stringify(trimmed.spec).length).toBeLessThan(JSON.stringify(pod.spec).length / 3);
  });

  it("keeps containers at their places, webhooks' among them, since patches name them by place", () => {
    const { pod } = servingPod();
    const mesh = { name: "mesh", image: "mesh:1", env: [{ name: "A", value: "b" }] };
    const spec = pod.spec && { ...pod.spec, initContainers: [mesh, ...(pod.spec.initContainers ?? [])] };
    const trimmed = trimPod(copy({ ...pod, ...(spec ? { spec } : {}) }));
    expect(trimmed.spec?.initContainers?.map(({ name, image }) => [name, image])).toEqual(
      spec?.initContainers.map(({ name, image }) => [name, image]),
    );
    expect(trimmed.spec?.initContainers?.[0]).toEqual({ name: "mesh", image: "mesh:1" });
  });

  it("keeps what somebody has put into it while it ran, and what is said of its devices", () => {
    const { world, pod } = servingPod();
    const volumeMounts = [{ name: "resultity-identity", mountPath: "/key", readOnly: true }];
    const ephemeralContainers = [{ name: "debugger", image: "busybox", stdin: true, volumeMounts }];
    const resources = [{ resourceID: "GPU-0", health: "Unhealthy" }];
    const containerStatuses = (pod.status?.containerStatuses ?? []).map((status) => ({
      ...status,
      allocatedResourcesStatus: [{ name: "nvidia.com/gpu", resources }],
    }));
    const { spec, status } = pod;
    if (!spec || !status) throw new Error("a pod that serves has both");
    const odd: Pod = {
      ...pod,
      spec: { ...spec, ephemeralContainers },
      status: { ...status, containerStatuses },
    };
    const facts = podFacts(trimPod(copy(odd)), world.node);
    expect(facts).toEqual(podFacts(odd, world.node));
    expect(facts.ephemeral).toEqual([
      { name: "debugger", image: "busybox", volumes: ["resultity-identity"] },
    ]);
    expect(facts.deviceFaults).toEqual([{ resource: "nvidia.com/gpu", id: "GPU-0", message: "" }]);
  });

  it("is no invention: without a spec, host or image there is none after it", () => {
    const { pod } = servingPod();
    const { spec: _, ...bare } = pod;
    expect(trimPod(copy(bare)).spec).toBeUndefined();
    expect(trimPod({ ...copy(bare), spec: { containers: [{ name: "runtime" }] } }).spec).toEqual({
      containers: [{ name: "runtime" }],
    });
  });
});
