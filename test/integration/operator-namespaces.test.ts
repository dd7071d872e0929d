/** The operator's process with the rights of `manifests/watch-namespaces`: two namespaces and no more, two replicas. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildingMs, type ControlPlane, startControlPlane } from "../testbed/control-plane.ts";
import { kubeJson, type KubeJson, type KubeObject } from "../testbed/kube-json.ts";
import { freePort } from "../testbed/ports.ts";
import type { Child } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const root = join(import.meta.dirname, "../..");
const served = ["tenant-a", "tenant-b"];
const other = "tenant-c";
const leases = "/apis/coordination.k8s.io/v1/namespaces/resultity-system/leases";
let bed: ControlPlane;
let api: KubeJson;

interface Stored extends KubeObject {
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly reason: string }[] };
}
interface NodeList extends KubeObject {
  readonly items: readonly KubeObject[];
}
interface Lease extends KubeObject {
  readonly spec: { readonly holderIdentity?: string };
}

/** A replica of the operator, as its Deployment would start it. */
async function startReplica(
  name: string,
): Promise<Child & { readonly logFile: string; ready(): Promise<boolean> }> {
  const listen = `127.0.0.1:${await freePort()}`;
  const logFile = join(bed.dir, `${name}.log`);
  const kubeconfig = await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");
  const child = bed.processes.spawn({
    name,
    command: process.execPath,
    args: [
      join(root, "src/cmd/operator.ts"),
      "--kubeconfig",
      kubeconfig,
      `--metrics-listen=${listen}`,
      `--watch-namespaces=${served.join(",")}`,
    ],
    env: { ...process.env, POD_NAME: name, POD_NAMESPACE: "resultity-system" },
    logFile,
    graceMs: 10_000,
  });
  const ready = async () => (await fetch(`http://${listen}/readyz`).catch(() => undefined))?.status === 200;
  await until(`${name} to be ready`, ready, { deadlineMs: 60_000, giveUp: child.requireRunning });
  return Object.assign(child, { logFile, ready });
}

const plural = (namespace: string, kind: string) =>
  `/apis/resultity.com/v1alpha1/namespaces/${namespace}/${kind}`;

async function makePool(namespace: string, name: string): Promise<void> {
  await api.create(plural(namespace, "resultitynodepools"), {
    apiVersion: "resultity.com/v1alpha1",
    kind: "ResultityNodePool",
    metadata: { name, namespace },
    spec: {
      replicas: 2,
      template: { spec: { networkRef: { name: "testnet" }, runtime: { engine: "openai" } } },
    },
  });
}

const nodesOf = async (namespace: string, pool: string) =>
  ((await api.get<NodeList>(plural(namespace, "resultitynodes")))?.items ?? []).filter(({ metadata }) =>
    metadata.name.startsWith(`${pool}-`),
  );

async function leader(): Promise<string> {
  const lease = await api.get<Lease>(`${leases}/resultity-operator`);
  return lease?.spec.holderIdentity ?? "";
}

beforeAll(async () => {
  bed = await startControlPlane({ components: [], log: console.error });
  api = kubeJson(bed.adminKubeconfig);
  await bed.kubectlOk(["apply", "-f", join(root, "crds")]);
  await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all"]);
  for (const file of ["10-namespace.yaml", "20-rbac.yaml"])
    await bed.kubectlOk(["apply", "-f", join(root, "manifests/operator", file)]);
  await bed.kubectlOk(["delete", "clusterrolebinding", "resultity-operator"]);
  const binding = readFileSync(join(root, "manifests/watch-namespaces/rbac.yaml"), "utf8");
  for (const namespace of [...served, other]) {
    await bed.kubectlOk(["create", "namespace", namespace]);
    if (namespace !== other) {
      const stdin = binding.replace("namespace: inference", `namespace: ${namespace}`);
      await bed.kubectlOk(["apply", "-f", "-"], { stdin });
    }
    await bed.kubectlOk(["apply", "-f", "-"], {
      stdin: JSON.stringify({
        apiVersion: "resultity.com/v1alpha1",
        kind: "ResultityNetwork",
        metadata: { name: "testnet", namespace },
        spec: {
          environment: "Testnet",
          endpoints: ["http://127.0.0.1:1"],
          trust: { rootConfigMap: { name: "root" } },
          account: { id: "acme", secretName: "account" },
          agent: { image: `registry.test/agent@sha256:${"1".repeat(64)}` },
        },
      }),
    });
  }
}, buildingMs);

afterAll(async () => {
  await api?.close();
  await bed?.stop();
});

describe("operator of two namespaces", () => {
  it("serves them with rights in them alone, leaves others alone, and is followed within 5 s of a clean stop", async () => {
    const first = await startReplica("first");
    await until("the first to lead", async () => (await leader()).startsWith("first_"));
    for (const namespace of [...served, other]) await makePool(namespace, "gpu");
    for (const namespace of served) {
      await until(`nodes in ${namespace}`, async () => (await nodesOf(namespace, "gpu")).length === 2);
      await until(`the status of the network in ${namespace}`, async () => {
        const network = await api.get<Stored>(`${plural(namespace, "resultitynetworks")}/testnet`);
        return network?.status?.conditions?.some(({ reason }) => reason === "RootNotFound");
      });
    }
    const second = await startReplica("second");
    const stopped = performance.now();
    const ended = first.stop();
    await makePool("tenant-b", "later");
    await until("the nodes of the second", async () => (await nodesOf("tenant-b", "later")).length === 2);
    const tookMs = performance.now() - stopped;
    expect(await ended).toEqual({ code: 0, signal: null });
    expect((await leader()).startsWith("second_")).toBe(true);
    console.info(
      `handover: ${Math.round(tookMs)} ms until the second had made what the first was not there for`,
    );
    expect(tookMs).toBeLessThan(5_000);
    expect(await nodesOf(other, "gpu")).toEqual([]);
    await second.stop();
    for (const { logFile } of [first, second])
      expect(
        readFileSync(logFile, "utf8")
          .split("\n")
          .filter((line) => /forbidden/i.test(line)),
      ).toEqual([]);
  });
});
