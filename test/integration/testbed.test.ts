import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { identify, isAlive, processesWithEnv, type ProcessIdentity } from "../testbed/process-identity.ts";
import { buildingMs, type ControlPlane, isWrite, startControlPlane } from "../testbed/control-plane.ts";
import { runVariable, sweepDeadRuns, testbedRoot } from "../testbed/runs.ts";
import { until } from "../testbed/until.ts";

const log = (line: string) => void process.stderr.write(`${line}\n`);

describe("a control plane", () => {
  let bed: ControlPlane;
  beforeAll(async () => {
    bed = await startControlPlane({ components: ["controller-manager", "scheduler", "kwok"], log });
  }, buildingMs);
  afterAll(() => bed?.stop());

  test("takes a namespace and makes its default ServiceAccount", async () => {
    await bed.kubectlOk(["create", "namespace", "first"]);
    const read = () => bed.kubectlOk(["get", "serviceaccount", "default", "-n", "first", "-o", "name"]);
    expect(await until("the default ServiceAccount", read)).toBe("serviceaccount/default\n");
  });

  test("holds a ServiceAccount to its RBAC", async () => {
    await bed.kubectlOk(["create", "serviceaccount", "reader", "-n", "default"]);
    const kubeconfig = await bed.serviceAccountKubeconfig("default", "reader");
    const list = () => bed.kubectl(["get", "configmaps", "-n", "default"], { kubeconfig });
    expect(await list()).toMatchObject({ code: 1, stderr: expect.stringContaining("Forbidden") });

    await bed.kubectlOk(["create", "role", "reads", "--verb=list", "--resource=configmaps", "-n", "default"]);
    const binding = ["--role=reads", "--serviceaccount=default:reader", "-n", "default"];
    await bed.kubectlOk(["create", "rolebinding", "reads", ...binding]);
    // The authorizer hears of the binding through its own watch.
    await until("the binding to count", async () => (await list()).code === 0);
    const create = ["create", "configmap", "mine", "-n", "default"];
    expect(await bed.kubectl(create, { kubeconfig })).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('User "system:serviceaccount:default:reader" cannot create'),
    });
  });

  test("knows a kubelet by its client certificate, and holds it to its own node", async () => {
    const kubeconfig = bed.kubeconfigForUser("system:node:host-1", ["system:nodes"]);
    const node = (name: string) => JSON.stringify({ apiVersion: "v1", kind: "Node", metadata: { name } });
    const create = ["create", "-f", "-"];
    expect(await bed.kubectl(create, { kubeconfig, stdin: node("host-1") })).toMatchObject({ code: 0 });
    expect(await bed.kubectl(create, { kubeconfig, stdin: node("host-2") })).toMatchObject({ code: 1 });
  });

  test("counts each write of a client once, with its outcome", async () => {
    const mark = await bed.audit.mark();
    await bed.kubectlOk(["create", "configmap", "counted", "-n", "default"]);
    await bed.kubectlOk(["label", "configmap", "counted", "a=b", "-n", "default"]);
    expect(await bed.kubectl(["create", "configmap", "counted", "-n", "default"])).toMatchObject({ code: 1 });
    await bed.kubectlOk(["delete", "configmap", "counted", "-n", "default"]);
    await bed.kubectlOk(["get", "configmaps", "-n", "default"]);
    const mine = (await bed.audit.since(mark)).filter((entry) => entry.user === "kubernetes-admin");
    const writes = mine.filter(isWrite);
    expect(writes.map(({ verb, resource, namespace, code }) => [verb, resource, namespace, code])).toEqual([
      ["create", "configmaps", "default", 201],
      ["patch", "configmaps", "default", 200],
      ["create", "configmaps", "default", 409],
      ["delete", "configmaps", "default", 200],
    ]);
    expect(mine.filter(({ verb, resource }) => verb === "list" && resource === "configmaps")).toHaveLength(1);
  });

  test("runs pods on kwok's nodes", async () => {
    const gpus = { "nvidia.com/gpu": "8", cpu: "64", memory: "256Gi", pods: "110" };
    const node = {
      apiVersion: "v1",
      kind: "Node",
      metadata: { name: "fake-1", annotations: { "kwok.x-k8s.io/node": "fake" } },
      status: { capacity: gpus, allocatable: gpus },
    };
    const limits = { "nvidia.com/gpu": "1" };
    const pod = {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name: "gpu-pod", namespace: "default" },
      spec: { containers: [{ name: "engine", image: "engine", resources: { limits } }] },
    };
    await bed.kubectlOk(["create", "-f", "-"], { stdin: JSON.stringify(node) });
    await bed.kubectlOk(["create", "-f", "-"], { stdin: JSON.stringify(pod) });
    const wait = ["wait", "pod/gpu-pod", "-n", "default", "--for=condition=Ready", "--timeout=30s"];
    expect(await bed.kubectl(wait)).toMatchObject({ code: 0 });
    const where = ["get", "pod", "gpu-pod", "-n", "default", "-o", "jsonpath={.spec.nodeName}"];
    expect(await bed.kubectlOk(where)).toBe("fake-1");
  });

  test("comes back from the death of its API server with its data, at the same address", async () => {
    await bed.kubectlOk(["create", "configmap", "kept", "-n", "default"]);
    const { pid } = bed.component("apiserver");
    await bed.killApiServer();
    expect(await bed.kubectl(["get", "configmap", "kept", "-n", "default"])).toMatchObject({ code: 1 });
    await bed.startApiServer();
    expect(bed.component("apiserver").pid).not.toBe(pid);
    expect(await bed.kubectl(["get", "configmap", "kept", "-n", "default"])).toMatchObject({ code: 0 });
  });

  test("leaves no process and no folder when stopped", async () => {
    await bed.stop();
    expect(processesWithEnv(runVariable, bed.processes.id)).toEqual([]);
    expect(existsSync(bed.dir)).toBe(false);
  });
});

describe("an owner killed with SIGKILL", () => {
  let tmp: string;
  let owner: ChildProcess | undefined;
  beforeAll(() => {
    tmp = mkdtempSync(join(tmpdir(), "killed-owner-"));
  });
  afterAll(() => {
    owner?.kill("SIGKILL");
    rmSync(tmp, { recursive: true, force: true });
  });

  test("leaves no process and no folder after the next sweep", async () => {
    const script = join(tmp, "owner.mjs");
    const file = join(tmp, "bed.json");
    const testbed = (name: string) => JSON.stringify(join(import.meta.dirname, "..", "testbed", name));
    writeFileSync(
      script,
      `import { renameSync, writeFileSync } from "node:fs";
       import { startControlPlane } from ${testbed("control-plane.ts")};
       import { supervise } from ${testbed("processes.ts")};
       const processes = supervise({ tmp: ${JSON.stringify(tmp)} });
       const bed = await startControlPlane({ components: ["controller-manager"], processes });
       // One that does not die with its parent, as a daemon would not.
       processes.spawn({ name: "daemon", command: "sh", args: ["-c", "setsid sleep 600 & wait"] });
       const names = ["etcd", "apiserver", "controller-manager"];
       const said = { id: processes.id, dir: bed.dir, pids: names.map((name) => bed.component(name).pid) };
       writeFileSync(${JSON.stringify(file)} + ".tmp", JSON.stringify(said));
       renameSync(${JSON.stringify(file)} + ".tmp", ${JSON.stringify(file)});`,
    );
    const started = spawn(process.execPath, [script], { stdio: ["ignore", "inherit", "inherit"] });
    owner = started;
    await until("the bed of another process", () => existsSync(file), { deadlineMs: 100_000 });
    const said: unknown = JSON.parse(readFileSync(file, "utf8"));
    if (!isSaid(said)) throw new Error("the owner said something else");
    const children = said.pids.map(identify).filter((child): child is ProcessIdentity => child !== undefined);
    expect(children).toHaveLength(3);
    await until("the daemon", () => processesWithEnv(runVariable, said.id).length >= 5);

    const gone = new Promise((resolve) => started.once("exit", resolve));
    started.kill("SIGKILL");
    await gone;
    expect(sweepDeadRuns(testbedRoot(tmp))).toMatchObject({ runs: 1, left: [] });
    expect(children.filter(isAlive)).toEqual([]);
    expect(processesWithEnv(runVariable, said.id)).toEqual([]);
    expect(existsSync(said.dir)).toBe(false);
  });
});

function isSaid(value: unknown): value is { id: string; dir: string; pids: number[] } {
  return typeof value === "object" && value !== null && "id" in value && "dir" in value && "pids" in value;
}
