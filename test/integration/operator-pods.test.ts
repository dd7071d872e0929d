import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Pod } from "../../src/kube/resources.ts";
import { type Scene, type Stand, startScene, startStand } from "../faults/operator-scene.ts";
import { buildingMs } from "../testbed/control-plane.ts";
import type { KubeObject } from "../testbed/kube-json.ts";
import { until } from "../testbed/until.ts";

/**
 * GPUs by resource claims: the real API server takes the pods, the real controller manager makes the claims, and the real
 * scheduler gives out the devices of a host that has three. Only the host's kubelet is played.
 */

const host = "host-1";
let stand: Stand;

beforeAll(async () => {
  stand = await startStand(["scheduler"]);
  const dra = "/apis/resource.k8s.io/v1";
  const isOurs = { cel: { expression: 'device.driver == "gpu.test"' } };
  const selected = { metadata: { name: "gpu.test" }, spec: { selectors: [isOurs] } };
  await stand.kube.create(`${dra}/deviceclasses`, {
    apiVersion: dra.slice(6),
    kind: "DeviceClass",
    ...selected,
  });
  await stand.kube.create(`${dra}/resourceslices`, {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceSlice",
    metadata: { name: "three-gpus" },
    spec: {
      driver: "gpu.test",
      nodeName: host,
      pool: { name: host, generation: 1, resourceSliceCount: 1 },
      devices: ["gpu-0", "gpu-1", "gpu-2"].map((name) => ({ name })),
    },
  });
}, buildingMs);
afterAll(() => stand[Symbol.asyncDispose]());

/** A scene in which the scheduler binds, and the template `two-gpus` is there. */
async function claimScene(name: string): Promise<Scene> {
  const scene = await startScene(stand, name);
  scene.treat = ({ spec }) => (spec?.nodeName ? "run" : "ignore");
  const requests = [{ name: "gpus", exactly: { deviceClassName: "gpu.test", count: 2 } }];
  await stand.kube.create(claimPath(name, "resourceclaimtemplates"), {
    apiVersion: "resource.k8s.io/v1",
    kind: "ResourceClaimTemplate",
    metadata: { name: "two-gpus" },
    spec: { spec: { devices: { requests } } },
  });
  return scene;
}

const claimPath = (namespace: string, plural: string) =>
  `/apis/resource.k8s.io/v1/namespaces/${namespace}/${plural}`;

interface Claim extends KubeObject {
  readonly status?: {
    readonly allocation?: { readonly devices: { readonly results: readonly { readonly device: string }[] } };
    readonly reservedFor?: readonly { readonly name: string }[];
  };
}

const gpu = (template: string) => ({
  count: 2,
  claims: [{ name: "gpus", resourceClaimTemplateName: template }],
});

describe("GPUs by resource claims", () => {
  it("are given to a node by the scheduler; a second node that finds too few says what it claims, and runs when they are free", async () => {
    await using scene = await claimScene("claims");
    await scene.startOperator();
    await scene.createNode("first", { gpu: gpu("two-gpus") });
    await scene.untilReady(1);
    const claims = await scene.list<Claim>(claimPath("claims", "resourceclaims"));
    expect(claims).toHaveLength(1);
    expect(claims[0]?.status?.allocation?.devices.results).toHaveLength(2);
    expect(claims[0]?.status?.reservedFor?.map(({ name }) => name)).toEqual(["first"]);
    const pod: Pod | undefined = await scene.pod("first");
    expect(pod?.spec?.nodeName).toBe(host);
    expect(pod?.spec?.containers[0]?.resources?.claims).toEqual([{ name: "gpus" }]);
    expect(JSON.stringify(pod?.spec)).not.toContain("nvidia.com/gpu");

    await scene.createNode("second", { gpu: gpu("two-gpus") });
    const node = await scene.untilCondition("second", "Ready", "False Unschedulable");
    expect(JSON.stringify(node.status?.conditions)).toContain(
      "the devices of ResourceClaimTemplate two-gpus",
    );
    const parked = scene.path("resultitynodes", "first");
    await stand.kube.patch(parked, "merge", { spec: { replicas: 0 } });
    await scene.untilCondition("second", "Ready", "True AllWell");
  });

  it("of a template that is not there are waited for, and the node says so", async () => {
    await using scene = await claimScene("no-template");
    await scene.startOperator();
    await scene.createNode("first", { gpu: gpu("missing") });
    const node = await scene.untilCondition("first", "Ready", "False PodPending");
    expect(JSON.stringify(node.status?.conditions)).toContain("ResourceClaimTemplate missing: if that lasts");
  });
});

describe("weights", () => {
  it("come from each kind of cache that the spec knows: the API server takes the pod, and agent and engine see the same folder", async () => {
    await using scene = await startScene(stand, "caches");
    scene.treat = () => "ignore";
    await scene.startOperator();
    const reference = `registry.test/weights@sha256:${"2".repeat(64)}`;
    const kinds: readonly [string, object | undefined, object][] = [
      ["none", undefined, { emptyDir: {} }],
      ["folder", { emptyDir: { sizeLimit: "40Gi" } }, { emptyDir: { sizeLimit: "40Gi" } }],
      [
        "claim",
        { persistentVolumeClaim: { claimName: "weights" } },
        { persistentVolumeClaim: { claimName: "weights" } },
      ],
      [
        "host",
        { hostPath: { path: "/data/models" } },
        { hostPath: { path: "/data/models", type: "DirectoryOrCreate" } },
      ],
      ["image", { imageVolume: { reference } }, { image: { reference, pullPolicy: "IfNotPresent" } }],
    ];
    for (const [name, modelCache] of kinds) await scene.createNode(name, modelCache ? { modelCache } : {});
    for (const [name, , volume] of kinds) {
      const pod = await until(`a pod with weights of ${name}`, () => scene.pod(name));
      const models = pod.spec?.volumes?.find((one) => one.name === "resultity-models");
      expect(models, name).toEqual({ name: "resultity-models", ...volume });
      const mounts = [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])].map(
        ({ volumeMounts = [] }) => volumeMounts.find((mount) => mount.name === "resultity-models"),
      );
      expect(mounts.map((mount) => mount?.mountPath)).toEqual(["/models", "/models"]);
      // Who runs the network's images may read weights, never write them.
      expect(mounts[1]?.readOnly).toBe(true);
    }
  });
});
