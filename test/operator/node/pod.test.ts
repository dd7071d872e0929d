import { describe, expect, it } from "vitest";
import type { NodeSpec } from "../../../src/api/v1alpha1/node.ts";
import { podInputsHash } from "../../../src/operator/node/inputs.ts";
import { podOf } from "../../../src/operator/node/pod.ts";
import { bytesOf } from "../../../src/operator/quantity.ts";
import { revise, wishOf } from "../../../src/operator/node/desired.ts";
import { configOf, imageOf, snapshotOf } from "./network.ts";
import { nodeOf } from "./world.ts";

const config = configOf([snapshotOf("v1")]);

function podFor(spec: Partial<NodeSpec> = {}) {
  const node = nodeOf(spec);
  const wish = wishOf({ node, network: undefined }, { stage: null, target: null, plannedStop: null });
  const pod = podOf({
    node,
    config,
    agentImage: imageOf("agent", "v1"),
    runtimeImage: imageOf("engine", "v1"),
    desired: revise(wish, 0),
    drainToken: "rn1-token",
  });
  const agent = pod.spec?.initContainers?.[0];
  const runtime = pod.spec?.containers[0];
  if (!agent || !runtime) throw new Error("the pod lacks a container");
  return { pod, agent, runtime, volumes: pod.spec?.volumes ?? [] };
}

const mountsOf = (container: ReturnType<typeof podFor>["agent"]) =>
  new Map((container.volumeMounts ?? []).map((mount) => [mount.mountPath, mount]));

describe("the pod of a node", () => {
  it("gives nobody a token of the API server", () => {
    const { pod, volumes } = podFor();
    expect(pod.spec?.automountServiceAccountToken).toBe(false);
    expect(volumes.some((volume) => volume.projected)).toBe(false);
  });

  it("mounts the identity in the agent alone, read-only", () => {
    const { pod, agent, runtime, volumes } = podFor();
    const secrets = volumes.filter(({ secret }) => secret).map(({ name }) => name);
    expect(secrets).toHaveLength(1);
    const users = [...(pod.spec?.initContainers ?? []), ...(pod.spec?.containers ?? [])].filter((container) =>
      container.volumeMounts?.some(({ name }) => name === secrets[0]),
    );
    expect(users.map(({ name }) => name)).toEqual(["agent"]);
    expect(mountsOf(agent).get("/etc/resultity/identity")?.readOnly).toBe(true);
    expect(mountsOf(runtime).has("/etc/resultity/identity")).toBe(false);
    expect(runtime.env?.some(({ valueFrom }) => valueFrom)).toBe(false);
  });

  it("lets the runtime write neither launch files nor models", () => {
    const mounts = mountsOf(podFor().runtime);
    expect(mounts.get("/run/resultity")?.readOnly).toBe(true);
    expect(mounts.get("/models")?.readOnly).toBe(true);
    expect(mounts.get("/run/resultity/run")?.readOnly ?? false).toBe(false);
  });

  it("keeps weights where the spec says, and tells the agent of a limit that the kubelet would evict for", () => {
    const cacheOf = (modelCache?: NonNullable<NodeSpec["modelCache"]>) => {
      const { agent, volumes } = podFor(modelCache ? { modelCache } : {});
      const { name: _, ...volume } = volumes.find(({ name }) => name === "resultity-models") ?? { name: "" };
      const bound = agent.env?.find(({ name }) => name === "RESULTITY_MODELS_MAX_BYTES")?.value;
      return { volume, bound };
    };
    expect(cacheOf()).toEqual({ volume: { emptyDir: {} }, bound: undefined });
    expect(cacheOf({ emptyDir: { sizeLimit: "1.5Gi" } })).toEqual({
      volume: { emptyDir: { sizeLimit: "1.5Gi" } },
      bound: String(1.5 * 2 ** 30),
    });
    expect(cacheOf({ persistentVolumeClaim: { claimName: "weights" } }).volume).toEqual({
      persistentVolumeClaim: { claimName: "weights" },
    });
    expect(cacheOf({ hostPath: { path: "/data/m" } }).volume).toEqual({
      hostPath: { path: "/data/m", type: "DirectoryOrCreate" },
    });
    const reference = imageOf("weights", "v1");
    expect(cacheOf({ imageVolume: { reference } }).volume).toEqual({
      image: { reference, pullPolicy: "IfNotPresent" },
    });
    // Where an agent looks that is told nothing else.
    expect(mountsOf(podFor().agent).has("/models")).toBe(true);
  });

  it.each([
    [10, 10],
    ["500G", 500e9],
    ["2Ti", 2 * 2 ** 40],
    [".5k", 500],
    ["1e3", 1000],
    ["1500m", 1],
    ["99E", Number.MAX_SAFE_INTEGER],
  ])("reads the quantity %s as %d bytes", (quantity, bytes) => {
    expect(bytesOf(quantity)).toBe(bytes);
  });

  it("has the agent as a native sidecar whose startup is probed, and nothing that kills the runtime", () => {
    const { agent, runtime } = podFor();
    expect(agent.restartPolicy).toBe("Always");
    expect(agent.startupProbe?.httpGet).toEqual({ path: "/startup", port: 9440 });
    expect(agent.resources?.limits).toEqual(agent.resources?.requests);
    expect(runtime.livenessProbe).toBeUndefined();
    expect(runtime.startupProbe).toBeUndefined();
    expect(runtime.readinessProbe?.httpGet).toEqual({ path: "/ready", port: 9440 });
    expect(runtime.lifecycle?.preStop?.httpGet).toEqual({
      path: "/drain",
      port: 9440,
      httpHeaders: [{ name: "Authorization", value: "Bearer rn1-token" }],
    });
  });

  it("lets an agent that has begun a moment ago come to its signal handler before it is asked to end", () => {
    expect(podFor().agent.lifecycle).toEqual({ preStop: { sleep: { seconds: 2 } } });
  });

  it("gives every drain that the spec allows time to end", () => {
    expect(podFor().pod.spec?.terminationGracePeriodSeconds).toBeGreaterThan(3600);
  });

  it("requests GPUs for the runtime alone, and none for an engine on the CPU", () => {
    const { agent, runtime } = podFor({ gpu: { count: 2, resourceName: "nvidia.com/gpu", product: "H100" } });
    expect(runtime.resources?.limits?.["nvidia.com/gpu"]).toBe("2");
    expect(agent.resources?.limits?.["nvidia.com/gpu"]).toBeUndefined();
    const { pod } = podFor({ gpu: { count: 2, resourceName: "nvidia.com/gpu", product: "H100" } });
    expect(pod.spec?.nodeSelector).toEqual({ "nvidia.com/gpu.product": "H100" });
    const cpu = podFor({ gpu: { count: 0, resourceName: "nvidia.com/gpu" } });
    expect(cpu.runtime.resources?.limits).toEqual({});
  });

  it("passes the user's environment on as it is", () => {
    const env = [
      { name: "PRICE", value: "$(HOME) costs $$5" },
      { name: "HOME", value: "/data" },
    ];
    const { runtime } = podFor({ runtime: { engine: "openai", env } });
    const values = new Map(runtime.env?.map(({ name, value }) => [name, value]));
    // The kubelet reads `$$` as `$` and expands `$(NAME)`.
    expect(values.get("PRICE")).toBe("$$(HOME) costs $$$$5");
    expect(values.get("HOME")).toBe("/data");
    expect(values.get("USER")).toBe("engine");
  });

  it("takes overrides in, and keeps its own labels and annotations over them", () => {
    const { pod, runtime, volumes } = podFor({
      podOverrides: {
        labels: { team: "a", "app.kubernetes.io/name": "mine" },
        annotations: { note: "x", "linkerd.io/inject": "enabled" },
        tolerations: [{ key: "gpu", operator: "Exists" }],
        priorityClassName: "high",
        volumes: [{ name: "data", emptyDir: { sizeLimit: 5 } }],
        volumeMounts: [{ name: "data", mountPath: "/data", readOnly: false }],
      },
    });
    expect(pod.metadata.labels).toMatchObject({ team: "a", "app.kubernetes.io/name": "resultity" });
    expect(pod.metadata.annotations).toMatchObject({ note: "x", "linkerd.io/inject": "disabled" });
    expect(pod.spec).toMatchObject({
      tolerations: [{ key: "gpu", operator: "Exists" }],
      priorityClassName: "high",
    });
    expect(volumes.find(({ name }) => name === "data")).toEqual({
      name: "data",
      emptyDir: { sizeLimit: "5" },
    });
    expect(mountsOf(runtime).get("/data")).toEqual({ name: "data", mountPath: "/data", readOnly: false });
  });

  it("restricts what the containers may do", () => {
    const { pod, agent, runtime } = podFor();
    expect(pod.spec?.securityContext?.seccompProfile).toEqual({ type: "RuntimeDefault" });
    expect(agent.securityContext).toMatchObject({
      runAsNonRoot: true,
      readOnlyRootFilesystem: true,
      allowPrivilegeEscalation: false,
      capabilities: { drop: ["ALL"] },
    });
    expect(runtime.securityContext).toMatchObject({ allowPrivilegeEscalation: false });
  });
});

describe("the hash of the pod's inputs", () => {
  const hash = (spec: Partial<NodeSpec>) => podInputsHash(nodeOf(spec), config);

  it("changes with all that only a new pod can have", () => {
    const changes: readonly Partial<NodeSpec>[] = [
      {},
      { gpu: { count: 2, resourceName: "nvidia.com/gpu" } },
      { runtime: { engine: "vllm" } },
      { runtime: { engine: "openai", env: [{ name: "A", value: "b" }] } },
      { runtime: { engine: "openai", resources: { limits: { cpu: 1 } } } },
      { modelCache: { persistentVolumeClaim: { claimName: "models" } } },
      { podOverrides: { priorityClassName: "high" } },
      { identity: { secretName: "other" } },
    ];
    expect(new Set(changes.map(hash)).size).toBe(changes.length);
  });

  it("does not change with what the agent applies in the living pod", () => {
    const same: readonly Partial<NodeSpec>[] = [
      { models: ["model-a"] },
      { runtime: { engine: "openai", args: ["--fast"] } },
      { participation: { accept: false } },
      { drain: { timeoutSeconds: 1, evictionTimeoutSeconds: 1 } },
      { config: { pin: `sha256:${"0".repeat(64)}` } },
      { replicas: 0 },
    ];
    for (const spec of same) expect(hash(spec)).toBe(hash({}));
  });
});
