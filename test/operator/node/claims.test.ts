import { describe, expect, it } from "vitest";
import { checkClaimsServed } from "../../../src/operator/node/claims.ts";
import { podOf } from "../../../src/operator/node/pod.ts";
import type { Draft } from "../../../src/kube/object.ts";
import type { Pod } from "../../../src/kube/resources.ts";
import { configOf, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const claims = [
  { name: "gpus", resourceClaimTemplateName: "two-gpus", request: "gpus" },
  { name: "nic", resourceClaimName: "nic-7" },
];
const gpu = { count: 2, resourceName: "nvidia.com/gpu", claims };

function serving(): World {
  const world = new World(nodeOf({ gpu }), configOf([snapshotOf("v1")]));
  world.untilServing();
  return world;
}

describe("GPUs by resource claims", () => {
  it("are claims of the pod that the runtime alone uses, and no extended resource", () => {
    const { spec } = serving().pod ?? {};
    expect(spec?.resourceClaims).toEqual([
      { name: "gpus", resourceClaimTemplateName: "two-gpus" },
      { name: "nic", resourceClaimName: "nic-7" },
    ]);
    const { resources } = spec?.containers[0] ?? {};
    expect(resources?.claims).toEqual([{ name: "gpus", request: "gpus" }, { name: "nic" }]);
    expect(JSON.stringify(resources)).not.toContain("nvidia.com/gpu");
    expect(spec?.initContainers?.[0]?.resources?.claims).toBeUndefined();
  });

  it("tell the engine over how many GPUs it spreads a model by spec.gpu.count", () => {
    expect(serving().desired.gpuCount).toBe(2);
  });

  it("make a new pod when they change", () => {
    const world = serving();
    world.changeSpec({ gpu: { ...gpu, claims: claims.slice(0, 1) } });
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired.plannedStop).toBe("recreate");
  });

  it("that no host has are told by the names of what was claimed", () => {
    const world = new World(nodeOf({ gpu }), configOf([snapshotOf("v1")]));
    world.reconcile();
    const message = "0/3 nodes are available: 3 cannot allocate all claims";
    world.kubeletSays({
      conditions: [{ type: "PodScheduled", status: "False", reason: "Unschedulable", message }],
    });
    world.reconcile();
    expect(world.condition("Ready")).toBe("False Unschedulable");
    const said = world.node.status?.conditions?.find(({ type }) => type === "Scheduled")?.message;
    expect(said).toContain("cannot allocate all claims");
    expect(said).toContain("ResourceClaimTemplate two-gpus and ResourceClaim nic-7");
  });

  it("are refused before a pod is there, where the API server drops them", async () => {
    const { config } = serving();
    if (!config) throw new Error("there is a config");
    const node = nodeOf({ gpu });
    const desired = serving().desired;
    const draft = podOf({ node, config, agentImage: "a", runtimeImage: "b", desired, drainToken: "t" });
    const answering = (edit: (spec: Draft<Pod>["spec"]) => Draft<Pod>["spec"]) => ({
      create: (_resource: unknown, made: unknown, { dryRun }: { dryRun?: boolean } = {}) => {
        expect(dryRun).toBe(true);
        const { spec } = made as Draft<Pod>;
        return Promise.resolve({ spec: edit(spec) } as never);
      },
    });
    const { signal } = new AbortController();
    await checkClaimsServed(
      answering((spec) => spec),
      draft,
      { signal },
    );
    const dropping = answering((spec) => {
      const { resourceClaims: _, ...rest } = spec ?? { containers: [] };
      return rest;
    });
    await expect(checkClaimsServed(dropping, draft, { signal })).rejects.toThrow(
      /does not serve resource claims/,
    );
  });
});
