/** The pool controller with its ServiceAccount's rights on a real API server. The test plays network and node controller. */
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ResultityNode } from "../../src/api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../src/api/v1alpha1/pool.ts";
import { Client } from "../../src/kube/client.ts";
import { fromKubeconfig } from "../../src/kube/config.ts";
import { EventRecorder } from "../../src/kube/events.ts";
import { type PodDisruptionBudget, podDisruptionBudgets } from "../../src/kube/resources.ts";
import { runReflectors } from "../../src/kube/reflector.ts";
import { Transport } from "../../src/kube/transport.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { makeCaches, nodes, type OperatorContext, pools } from "../../src/operator/context.ts";
import { nodeManager } from "../../src/operator/names.ts";
import { poolController } from "../../src/operator/pool/controller.ts";
import { Fleet, NetworkConfigs } from "../../src/operator/views.ts";
import { mintTestConfig } from "../operator/pool/network-config.ts";
import { type AuditEntry, markWhenQuiet } from "../testbed/audit.ts";
import { buildingMs, type ControlPlane, isWrite, startControlPlane } from "../testbed/control-plane.ts";
import { until } from "../testbed/until.ts";

const root = join(import.meta.dirname, "../..");
const namespace = "inference";
const networkKey = `${namespace}/testnet`;
const digest = (letter: string) => `sha256:${letter.repeat(64)}`;
const stop = new AbortController();
let bed: ControlPlane;
let admin: Client;
let configs: NetworkConfigs;
let running: Promise<unknown>;
const transports: Transport[] = [];

async function connect(kubeconfig: string): Promise<Client> {
  const transport = new Transport({
    connection: await fromKubeconfig(kubeconfig),
    userAgent: "operator-pool-test",
  });
  transports.push(transport);
  return new Client(transport);
}

beforeAll(async () => {
  bed = await startControlPlane({ components: ["controller-manager"], log: console.error });
  await bed.kubectlOk(["apply", "-f", join(root, "crds")]);
  await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all"]);
  for (const file of ["10-namespace.yaml", "20-rbac.yaml"])
    await bed.kubectlOk(["apply", "-f", join(root, "manifests/operator", file)]);
  await bed.kubectlOk(["create", "namespace", namespace]);
  admin = await connect(bed.adminKubeconfig);
  const client = await connect(await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator"));
  const metrics = new Metrics();
  const shared = {
    client,
    clock: systemClock,
    random: Math.random,
    logger: silentLogger,
    metrics,
  };
  configs = new NetworkConfigs();
  const events = new EventRecorder({ ...shared, controller: "resultity.com/operator", instance: "test" });
  const context: OperatorContext = {
    ...shared,
    events,
    caches: makeCaches(shared),
    configs,
    fleet: new Fleet(),
  };
  running = Promise.all([
    runReflectors(Object.values(context.caches), stop.signal),
    poolController(context).run(stop.signal),
  ]);
  await bed.kubectlOk(["apply", "-f", "-"], { stdin: networkManifest });
  configs.set(networkKey, mintTestConfig(digest("a")));
}, buildingMs);

afterAll(async () => {
  stop.abort();
  await running;
  for (const transport of transports) transport.close();
  await bed?.stop();
});

const networkManifest = JSON.stringify({
  apiVersion: "resultity.com/v1alpha1",
  kind: "ResultityNetwork",
  metadata: { name: "testnet", namespace },
  spec: {
    environment: "Testnet",
    endpoints: ["http://127.0.0.1:1"],
    trust: { rootConfigMap: { name: "root" } },
    account: { id: "acme", secretName: "account" },
    agent: { image: `registry.test/agent@${digest("1")}` },
  },
});

const makePool = (name: string, replicas: number) =>
  admin.create<ResultityNodePool>(pools, {
    metadata: { name, namespace },
    // What is left out is filled in by the API server.
    spec: {
      replicas,
      template: { spec: { networkRef: { name: "testnet" }, runtime: { engine: "openai" } } },
    } as never,
  });

async function childrenOf(pool: string): Promise<ResultityNode[]> {
  const { items } = await admin.list(nodes, { namespace, labelSelector: `resultity.com/pool=${pool}` });
  return items.toSorted((a, b) => (a.metadata.name < b.metadata.name ? -1 : 1));
}

/** Plays the node controller: the child arrives where its target says. */
async function arrive(child: ResultityNode): Promise<void> {
  const { name, generation } = child.metadata;
  const lastTransitionTime = `${new Date().toISOString().slice(0, 19)}Z`;
  const condition = {
    observedGeneration: generation,
    lastTransitionTime,
    status: "True",
    reason: "AllWell",
    message: "",
  } as const;
  await admin.applyStatus(
    nodes,
    {
      metadata: { name, namespace },
      status: {
        observedGeneration: generation,
        replicas: 0,
        config: { applied: child.status?.config?.target ?? digest("0") },
        conditions: [
          { type: "RuntimeReady", ...condition },
          { type: "Ready", ...condition },
        ],
      },
    },
    { fieldManager: nodeManager },
  );
}

const targets = (children: readonly ResultityNode[]) =>
  children.map(({ status }) => status?.config?.target?.slice(7, 8) ?? "-").join("");

async function arriveAll(pool: string, count: number, letter: string): Promise<void> {
  await until(
    `${count} children with target ${letter}`,
    async () => targets(await childrenOf(pool)) === letter.repeat(count),
  );
  for (const child of await childrenOf(pool)) await arrive(child);
  await until(
    "the pool's status",
    async () => (await admin.get(pools, { namespace, name: pool })).status?.availableReplicas === count,
  );
}

describe("a pool on the API server", () => {
  it("makes its children, gives them a config, protects them and counts them", async () => {
    await makePool("chat", 3);
    await arriveAll("chat", 3, "a");
    const children = await childrenOf("chat");
    expect(children.map(({ metadata }) => metadata.name)).toEqual(["chat-0", "chat-1", "chat-2"]);
    const pool = await until("the pool Ready", async () => {
      const seen = await admin.get(pools, { namespace, name: "chat" });
      return seen.status?.conditions?.find(({ type }) => type === "Ready")?.status === "True" && seen;
    });
    expect(pool.status).toMatchObject({
      replicas: 3,
      availableReplicas: 3,
      updatedReplicas: 3,
      selector: "resultity.com/pool=chat",
    });
    const budget: PodDisruptionBudget = await admin.get(podDisruptionBudgets, { namespace, name: "chat" });
    expect(budget.spec).toMatchObject({ minAvailable: 2, unhealthyPodEvictionPolicy: "AlwaysAllow" });
  });

  it("rolls one node at a time and leaves the node controller's status alone", async () => {
    configs.set(networkKey, mintTestConfig(digest("b")));
    for (const [at, expected] of ["baa", "bba", "bbb"].entries()) {
      await until(`targets ${expected}`, async () => targets(await childrenOf("chat")) === expected);
      const child = (await childrenOf("chat"))[at];
      if (!child) throw new Error(`no child ${at}`);
      expect(child.status?.config?.applied).toBe(digest("a"));
      await arrive(child);
    }
  });

  it("shrinks by parking, waits for the pod, then deletes; grows again with the same numbers", async () => {
    await bed.kubectlOk(["-n", namespace, "scale", "rpool", "chat", "--replicas=1"]);
    await until("one child", async () => (await childrenOf("chat")).length === 1);
    expect((await childrenOf("chat")).map(({ metadata }) => metadata.name)).toEqual(["chat-0"]);
    await bed.kubectlOk(["-n", namespace, "scale", "rpool", "chat", "--replicas=2"]);
    await arriveAll("chat", 2, "b");
    expect((await childrenOf("chat")).map(({ metadata }) => metadata.name)).toEqual(["chat-0", "chat-1"]);
  });

  it("F16 restores a child's label that was removed by hand", async () => {
    await bed.kubectlOk(["-n", namespace, "label", "rnode", "chat-1", "resultity.com/pool-"]);
    await until("the label", async () => (await childrenOf("chat")).length === 2);
  });

  it("writes nothing while there is nothing to do", async () => {
    for (const child of await childrenOf("chat")) await arrive(child);
    await until("the pool Ready", async () => {
      const { status } = await admin.get(pools, { namespace, name: "chat" });
      return status?.conditions?.find(({ type }) => type === "Ready")?.status === "True";
    });
    const isOperators = ({ user }: AuditEntry) => user.includes("resultity-operator");
    // It was Ready before, so what the arrivals change in its status may still come.
    const writes = (entry: AuditEntry) => isOperators(entry) && isWrite(entry);
    const mark = await markWhenQuiet(bed.audit, writes, 2_000);
    // Time itself is what is tested here: five seconds in which nothing may happen.
    await new Promise((resolve) => setTimeout(resolve, 5000));
    const entries = (await bed.audit.since(mark)).filter(isOperators);
    expect(entries.filter((entry) => isWrite(entry) || entry.verb === "list")).toEqual([]);
  });

  it("F13 goes with all its children when it is deleted", async () => {
    await bed.kubectlOk(["-n", namespace, "delete", "rpool", "chat", "--wait=false"]);
    await until("no children", async () => (await childrenOf("chat")).length === 0, { deadlineMs: 60_000 });
  });
});
