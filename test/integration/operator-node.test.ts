import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { rfc3339 } from "../../src/api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../src/api/v1alpha1/node.ts";
import { Client } from "../../src/kube/client.ts";
import { fromKubeconfig } from "../../src/kube/config.ts";
import { EventRecorder } from "../../src/kube/events.ts";
import { runReflectors } from "../../src/kube/reflector.ts";
import type { Pod, Secret } from "../../src/kube/resources.ts";
import { Transport } from "../../src/kube/transport.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { silentLogger } from "../../src/lib/logger.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { makeCaches, type OperatorContext } from "../../src/operator/context.ts";
import { nodeController } from "../../src/operator/node/controller.ts";
import { Fleet, NetworkConfigs } from "../../src/operator/views.ts";
import { bindingSchema, checkBinding } from "../../src/protocol/binding.ts";
import { desiredAnnotation, parseDesired } from "../../src/protocol/desired.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { importPrivateKey, type PrivateJwk } from "../../src/protocol/keys.ts";
import { type AgentStatus, sealStatus } from "../../src/protocol/status.ts";
import { configOf, digestOfSnapshot, imageOf, networkOf, snapshotOf } from "../operator/node/network.ts";
import { buildingMs, type ControlPlane, isWrite, startControlPlane } from "../testbed/control-plane.ts";
import { type KubeJson, type KubeObject, kubeJson } from "../testbed/kube-json.ts";
import { until } from "../testbed/until.ts";

/**
 * The node controller with the operator's own rights on a real API server. Nobody runs the pods: the test writes what a
 * kubelet would, and answers as an agent would with the key from the identity Secret.
 */

const repository = join(import.meta.dirname, "../..");
const [v1, v2] = [snapshotOf("v1"), snapshotOf("v2")];
const [d1, d2] = [digestOfSnapshot(v1), digestOfSnapshot(v2)];
const namespace = "inference";

/** What the agent at each pod IP says, beside what it reads off its annotation. */
interface Agent {
  staged: ConfigDigest | null;
  applied: ConfigDigest | null;
}

interface Operator {
  readonly context: OperatorContext;
  /** Ends it without a goodbye: what was under way is aborted. */
  kill(): Promise<void>;
}

let bed: ControlPlane;
let kube: KubeJson;
let kubeconfig: string;
let networkUid = "";
const agents = new Map<string, Agent>();

const podPath = (name: string) => `/api/v1/namespaces/${namespace}/pods/${name}`;
const nodePath = (name: string) =>
  `/apis/resultity.com/v1alpha1/namespaces/${namespace}/resultitynodes/${name}`;
const secretPath = (name: string) => `/api/v1/namespaces/${namespace}/secrets/${name}`;

/** @param mayWrite called before each write; what it throws takes its place. */
async function startOperator(options: { as?: string; mayWrite?: () => void } = {}): Promise<Operator> {
  const clock = systemClock;
  const metrics = new Metrics();
  const logger = silentLogger;
  const transport = new Transport({
    connection: await fromKubeconfig(options.as ?? kubeconfig),
    userAgent: "test",
    clock,
    metrics,
  });
  const client = new Client(transport).guarded(options.mayWrite ?? (() => {}));
  const shared = { client, clock, random: Math.random, logger, metrics };
  const context: OperatorContext = {
    ...shared,
    events: new EventRecorder({
      client,
      controller: "resultity.com/operator",
      instance: "test",
      clock,
      metrics,
    }),
    caches: makeCaches(shared),
    configs: new NetworkConfigs(),
    fleet: new Fleet(),
  };
  context.configs.set(`${namespace}/testnet`, configOf([v1, v2], { uid: networkUid }));
  const stop = new AbortController();
  const watching = runReflectors(Object.values(context.caches), stop.signal);
  const working = nodeController(context, answerOf).run(stop.signal);
  await Promise.all(Object.values(context.caches).map((cache) => cache.synced()));
  return {
    context,
    async kill() {
      stop.abort();
      await working;
      await watching;
      transport.close();
    },
  };
}

/** `GET /status?nonce=` of the agent at `ip`, as node `gpu-<last part of the IP>`. */
async function answerOf(ip: string, nonce: string): Promise<string> {
  const name = `gpu-${ip.split(".").at(-1) ?? ""}`;
  const said = agents.get(ip);
  const pod = await kube.get<Pod>(podPath(name));
  const secret = await kube.get<Secret>(secretPath(`${name}-identity`));
  if (!said || !pod || !secret) throw new Error("connection refused");
  const jwk: PrivateJwk = JSON.parse(Buffer.from(secret.data?.["key.jwk"] ?? "", "base64").toString());
  const key = importPrivateKey(jwk);
  const desired = parseDesired(pod.metadata.annotations?.[desiredAnnotation] ?? "");
  const status: AgentStatus = {
    nonce,
    time: Date.now(),
    node_id: key.kid as unknown as AgentStatus["node_id"],
    instance: "A".repeat(22),
    desired_revision: desired.revision,
    report: {
      agent_version: "0.1.0",
      engine: { type: "openai", version: "1.0", image: null, health: "healthy" },
      hardware: { cpus: 1, memory_mib: 1, gpus: [] },
      config: { applied: said.applied, target: desired.target, staged: said.staged, release_sequence: 1 },
      models: { installed: ["model-a"], active: ["model-a"] },
      load: { slots: 1, active: 0, accepting: true },
      subclouds: [],
    },
    config_error: null,
    drain: { state: "serving", jobs: 0, since: null },
    session: { connected: true, since: null, epoch: 1, last_error: null },
  };
  return sealStatus(status, key);
}

const node = (name: string) => kube.get<ResultityNode>(nodePath(name));
const pod = (name: string) => kube.get<Pod>(podPath(name));

async function createNode(name: string, spec: object = {}): Promise<void> {
  await kube.create(nodePath(name).replace(`/${name}`, ""), {
    apiVersion: "resultity.com/v1alpha1",
    kind: "ResultityNode",
    metadata: { name, namespace },
    spec: { networkRef: { name: "testnet" }, gpu: { count: 0 }, runtime: { engine: "openai" }, ...spec },
  });
}

/** What a kubelet writes once both containers run the images of the spec. */
async function kubeletRuns(name: string, ready = true): Promise<void> {
  const live = await until(`pod ${name}`, () => pod(name));
  const ip = `10.0.0.${name.replace("gpu-", "")}`;
  if (!live.spec?.nodeName) {
    await kube.create(`${podPath(name)}/binding`, {
      apiVersion: "v1",
      kind: "Binding",
      metadata: { name },
      target: { apiVersion: "v1", kind: "Node", name: "host-1" },
    });
  }
  const container = (role: string, image: string | undefined) => ({
    name: role,
    image,
    imageID: image,
    ready,
    started: true,
    restartCount: 0,
    state: { running: { startedAt: rfc3339(Date.now()) } },
  });
  await kube.patch(`${podPath(name)}/status`, "merge", {
    status: {
      phase: "Running",
      podIP: ip,
      podIPs: [{ ip }],
      conditions: [
        { type: "PodScheduled", status: "True" },
        { type: "Ready", status: ready ? "True" : "False" },
      ],
      initContainerStatuses: [container("agent", live.spec?.initContainers?.[0]?.image)],
      containerStatuses: [container("runtime", live.spec?.containers[0]?.image)],
    },
  });
}

/** The pods that bring images to hosts. */
async function prefetches(): Promise<readonly Pod[]> {
  const path = `/api/v1/namespaces/${namespace}/pods?labelSelector=resultity.com/prefetch`;
  return (await kube.get<{ items: readonly Pod[] } & KubeObject>(path))?.items ?? [];
}

/** What a kubelet writes of one of them; `state` is that of its container. */
async function kubeletFetches(image: string, state: object): Promise<Pod> {
  const live = await until(`the prefetch of ${image}`, async () =>
    (await prefetches()).find(({ spec }) => spec?.volumes?.[0]?.image?.reference === image),
  );
  const container = { name: "hold", image, imageID: "", ready: true, restartCount: 0, state };
  await kube.patch(`${podPath(live.metadata.name)}/status`, "merge", {
    status: { phase: "Pending", containerStatuses: [container] },
  });
  return live;
}

const pulled = { running: { startedAt: "2026-01-01T00:00:00Z" } };

const condition = (of: ResultityNode | undefined, type: string) => {
  const found = of?.status?.conditions?.find((one) => one.type === type);
  return found && `${found.status} ${found.reason}`;
};

async function untilCondition(name: string, type: string, wanted: string): Promise<ResultityNode> {
  return until(`${name} ${type}=${wanted}`, async () => {
    const seen = await node(name);
    if (condition(seen, type) === wanted) return seen;
    throw new Error(JSON.stringify(seen?.status?.conditions ?? seen?.status));
  });
}

async function serve(name: string): Promise<void> {
  agents.set(`10.0.0.${name.replace("gpu-", "")}`, { staged: null, applied: d1 });
  await kubeletRuns(name);
  await untilCondition(name, "ConfigApplied", "True Applied");
}

beforeAll(async () => {
  bed = await startControlPlane({ components: [] });
  kube = kubeJson(bed.adminKubeconfig);
  await bed.kubectlOk(["apply", "-f", join(repository, "crds")]);
  await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]);
  for (const file of ["10-namespace.yaml", "20-rbac.yaml"]) {
    await bed.kubectlOk(["apply", "-f", join(repository, "manifests/operator", file)]);
  }
  await bed.kubectlOk(["create", "namespace", namespace]);
  await bed.kubectlOk(["-n", namespace, "create", "serviceaccount", "default"]);
  const { metadata, ...network } = networkOf();
  const made = await kube.create<ResultityNode>(
    `/apis/resultity.com/v1alpha1/namespaces/${namespace}/resultitynetworks`,
    { ...network, metadata: { name: metadata.name, namespace } },
  );
  networkUid = made.metadata.uid;
  kubeconfig = await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");
}, buildingMs);

afterAll(async () => {
  await kube?.close();
  await bed?.stop();
});

describe("the node controller on a real API server", () => {
  it("makes identity and pod, reports, and rests", async () => {
    const operator = await startOperator();
    try {
      const mark = await bed.audit.mark();
      await createNode("gpu-1");
      const made = await until("the pod", () => pod("gpu-1"));
      expect(made.spec?.automountServiceAccountToken).toBe(false);
      expect(made.spec?.containers[0]?.image).toBe(imageOf("engine", "v1"));
      const secret = await kube.get<Secret>(secretPath("gpu-1-identity"));
      const text = (entry: string) => Buffer.from(secret?.data?.[entry] ?? "", "base64").toString();
      const key = importPrivateKey(JSON.parse(text("key.jwk")));
      const binding = bindingSchema.parse(JSON.parse(text("binding.json")));
      expect(checkBinding(configOf([v1]).accountKey, binding)).toBe(true);
      expect(String(binding.node_id)).toBe(String(key.kid));
      expect(secret?.metadata.ownerReferences?.[0]?.name).toBe("gpu-1");
      await serve("gpu-1");
      const mine = (await bed.audit.since(mark)).filter(({ user }) => user.endsWith(":resultity-operator"));
      const objects = mine.filter((entry) => isWrite(entry) && entry.resource !== "events");
      expect(objects.filter(({ verb }) => verb === "create").map(({ resource }) => resource)).toEqual([
        "secrets",
        "pods",
      ]);
      expect(mine.filter(({ verb }) => verb === "list")).toEqual([]);
      const seen = await node("gpu-1");
      expect(seen?.status).toMatchObject({
        nodeId: String(key.kid),
        podName: "gpu-1",
        replicas: 1,
        config: { target: d1, applied: d1 },
        models: [{ name: "model-a", state: "Active" }],
      });
      // Rest: wait until a whole second has brought nothing, then count another.
      let quiet = await bed.audit.mark();
      await until(
        "silence",
        async () => {
          const noise = await bed.audit.since(quiet);
          quiet = await bed.audit.mark();
          return noise.every(({ user }) => !user.endsWith(":resultity-operator"));
        },
        { intervalMs: 1000 },
      );
    } finally {
      await operator.kill();
    }
  });

  it("rolls to a new config in the same pod: stage, tell, patch, confirm", async () => {
    const operator = await startOperator();
    try {
      const uid = (await pod("gpu-1"))?.metadata.uid;
      operator.context.configs.set(
        `${namespace}/testnet`,
        configOf([v1, v2], { uid: networkUid, current: d2 }),
      );
      const desired = async () =>
        parseDesired((await pod("gpu-1"))?.metadata.annotations?.[desiredAnnotation] ?? "");
      await until("staging", async () => (await desired()).stage === d2);
      expect((await desired()).target).toBe(d1);
      agents.set("10.0.0.1", { staged: d2, applied: d1 });
      // The host cannot have the image: the node stays as it is, and says so.
      const image = imageOf("engine", "v2");
      await kubeletFetches(image, { waiting: { reason: "ErrImagePull", message: `${image}: not found` } });
      const stuck = await untilCondition("gpu-1", "ConfigApplied", "False PrefetchFailed");
      const why = stuck.status?.conditions?.find(({ type }) => type === "ConfigApplied")?.message;
      expect(why).toContain(`ErrImagePull: ${image}: not found`);
      expect((await pod("gpu-1"))?.spec?.containers[0]?.image).toBe(imageOf("engine", "v1"));
      expect(await desired()).toMatchObject({ target: d1, plannedStop: null });
      const fetch = await kubeletFetches(image, pulled);
      expect(fetch.spec?.nodeName).toBe("host-1");
      expect(fetch.spec?.containers[0]?.image).toBe(imageOf("engine", "v1"));
      await until(
        "the new image",
        async () => (await pod("gpu-1"))?.spec?.containers[0]?.image === imageOf("engine", "v2"),
      );
      expect(await desired()).toMatchObject({ target: d2, plannedStop: "runtime-image" });
      // Held until the new container runs, and no longer.
      expect((await prefetches()).map(({ metadata }) => metadata.deletionTimestamp)).toEqual([undefined]);
      agents.set("10.0.0.1", { staged: null, applied: d2 });
      await kubeletRuns("gpu-1");
      const done = await untilCondition("gpu-1", "ConfigApplied", "True Applied");
      expect(done.status?.config).toEqual({ target: d2, applied: d2 });
      expect((await desired()).plannedStop).toBeNull();
      expect((await pod("gpu-1"))?.metadata.uid).toBe(uid);
      await until("the prefetch to be deleted", async () =>
        (await prefetches()).every(({ metadata }) => metadata.deletionTimestamp !== undefined),
      );
    } finally {
      await operator.kill();
    }
  });

  it("adopts what a killed operator made before it could say so, and keeps the identity", async () => {
    const first = await startOperator();
    await createNode("gpu-3");
    const made = await until("the pod", () => pod("gpu-3"));
    await first.kill();
    const secret = await kube.get<Secret>(secretPath("gpu-3-identity"));
    // As if it had been killed after the Secret's creation: no pod, and a status that knows nothing.
    await kube.delete(podPath("gpu-3"), 0);
    await kube.patch(`${nodePath("gpu-3")}/status`, "json", [{ op: "add", path: "/status", value: {} }]);
    const second = await startOperator();
    try {
      const again = await until("another pod", async () => {
        const seen = await pod("gpu-3");
        return seen && seen.metadata.uid !== made.metadata.uid ? seen : undefined;
      });
      expect(again.metadata.name).toBe("gpu-3");
      const kept = await kube.get<Secret>(secretPath("gpu-3-identity"));
      expect(kept?.metadata.uid).toBe(secret?.metadata.uid);
      expect(kept?.data).toEqual(secret?.data);
      // Labels removed by hand hide the pod from the cache: it is found again by its name.
      await kube.patch(podPath("gpu-3"), "merge", { metadata: { labels: { "resultity.com/node": null } } });
      await until(
        "the label",
        async () => (await pod("gpu-3"))?.metadata.labels?.["resultity.com/node"] === "gpu-3",
      );
      expect((await pod("gpu-3"))?.metadata.uid).toBe(again.metadata.uid);
    } finally {
      await second.kill();
    }
  });

  it("F41 replaces a failed pod, by its UID and after a back-off", async () => {
    const operator = await startOperator();
    try {
      await createNode("gpu-4");
      const first = await until("the pod", () => pod("gpu-4"));
      await kube.patch(`${podPath("gpu-4")}/status`, "merge", {
        status: { phase: "Failed", reason: "UnexpectedAdmissionError", message: "no GPU" },
      });
      await untilCondition("gpu-4", "Degraded", "True PodFailed");
      const second = await until("another pod", async () => {
        const seen = await pod("gpu-4");
        return seen && seen.metadata.uid !== first.metadata.uid ? seen : undefined;
      });
      expect(second.status?.phase).toBe("Pending");
    } finally {
      await operator.kill();
    }
  });

  it("parks a node: told, echoed, deleted; and starts it again as the same node", async () => {
    const operator = await startOperator();
    try {
      await createNode("gpu-5");
      await serve("gpu-5");
      const id = (await node("gpu-5"))?.status?.nodeId;
      await kube.patch(nodePath("gpu-5"), "merge", { spec: { replicas: 0 } });
      const ending = await until("the deletion", async () => {
        const seen = await pod("gpu-5");
        return seen?.metadata.deletionTimestamp ? seen : undefined;
      });
      expect(parseDesired(ending.metadata.annotations?.[desiredAnnotation] ?? "").plannedStop).toBe(
        "parking",
      );
      await kube.delete(podPath("gpu-5"), 0);
      const parked = await untilCondition("gpu-5", "Ready", "False Parked");
      expect(parked.status?.replicas).toBe(0);
      await kube.patch(nodePath("gpu-5"), "merge", { spec: { replicas: 1 } });
      await until("the pod", async () => (await pod("gpu-5"))?.metadata.uid !== undefined);
      expect((await node("gpu-5"))?.status?.nodeId).toBe(id);
    } finally {
      await operator.kill();
    }
  });

  it("says what is wrong: unschedulable, image, another node's identity, a pod of somebody else's", async () => {
    const operator = await startOperator();
    try {
      await createNode("gpu-6");
      await until("the pod", () => pod("gpu-6"));
      await kube.patch(`${podPath("gpu-6")}/status`, "merge", {
        status: {
          conditions: [
            {
              type: "PodScheduled",
              status: "False",
              reason: "Unschedulable",
              message: "0/3 nodes are available",
            },
          ],
        },
      });
      const stuck = await untilCondition("gpu-6", "Ready", "False Unschedulable");
      expect(stuck.status?.conditions?.find(({ type }) => type === "Ready")?.message).toContain("0/3 nodes");
      // Which of two is the older is told in whole seconds.
      const born = Date.parse(stuck.metadata.creationTimestamp);
      await until("a later second", () => Date.now() > born + 1100);
      await createNode("gpu-7", { identity: { secretName: "gpu-6-identity" } });
      await untilCondition("gpu-7", "Ready", "False IdentityConflict");
      expect(await pod("gpu-7")).toBeUndefined();
      await kube.create(podPath("gpu-8").replace("/gpu-8", ""), {
        apiVersion: "v1",
        kind: "Pod",
        metadata: { name: "gpu-8" },
        spec: { containers: [{ name: "other", image: "other" }] },
      });
      await createNode("gpu-8");
      await untilCondition("gpu-8", "Ready", "False PodCreateRefused");
      expect((await pod("gpu-8"))?.spec?.containers[0]?.name).toBe("other");
      await createNode("gpu-9", { runtime: { engine: "vllm" } });
      await untilCondition("gpu-9", "ConfigApplied", "False NoRuntimeForEngine");
    } finally {
      await operator.kill();
    }
  });

  it("F01 [×4] ends in the same state when it is killed after each single write", async () => {
    for (let writes = 0; writes <= 3; writes++) {
      const name = `gpu-${20 + writes}`;
      let left = writes;
      const stopped = Promise.withResolvers<void>();
      const first = await startOperator({
        mayWrite: () => {
          if (left-- > 0) return;
          stopped.resolve();
          throw new Error("killed");
        },
      });
      await createNode(name);
      // Secret, pod, status and the event: four in all.
      await stopped.promise;
      await first.kill();
      const made = [await pod(name), await kube.get<Secret>(secretPath(`${name}-identity`))];
      const second = await startOperator();
      try {
        await serve(name);
        const uids = [await pod(name), await kube.get<Secret>(secretPath(`${name}-identity`))];
        for (const [at, before] of made.entries()) {
          if (before) expect(uids[at]?.metadata.uid).toBe(before.metadata.uid);
        }
        expect((await node(name))?.status?.config).toEqual({ target: d1, applied: d1 });
      } finally {
        await second.kill();
      }
    }
  });

  it("F01 rolls to the same end when it is killed after each single write of the roll", async () => {
    // Nothing else is to be written for meanwhile.
    await bed.kubectlOk(["-n", namespace, "delete", "resultitynodes,pods", "--all", "--force"]);
    const name = "gpu-60";
    const ip = "10.0.0.60";
    const start = await startOperator();
    await createNode(name, { config: { pin: d1 } });
    await serve(name);
    const uid = (await pod(name))?.metadata.uid;
    await start.kill();
    /** Host and agent do what they would. */
    const play = async (target: ConfigDigest, image: string) => {
      const live = await pod(name);
      const said = parseDesired(live?.metadata.annotations?.[desiredAnnotation] ?? "");
      const runs = live?.status?.containerStatuses?.[0]?.image;
      if (runs !== live?.spec?.containers[0]?.image) await kubeletRuns(name);
      const applied = runs === image && said.target === target ? target : (agents.get(ip)?.applied ?? null);
      agents.set(ip, { staged: said.stage, applied });
      for (const prefetch of await prefetches()) {
        if (prefetch.metadata.deletionTimestamp) await kube.delete(podPath(prefetch.metadata.name), 0);
        else if (!prefetch.status?.containerStatuses) await kubeletFetches(image, pulled);
      }
      return { said, runs, held: (await prefetches()).length };
    };
    let rolls = 0;
    for (let writes = 0; ; writes++) {
      const [digest, image] =
        writes % 2 === 0 ? [d2, imageOf("engine", "v2")] : [d1, imageOf("engine", "v1")];
      const done = ({ said, runs, held }: Awaited<ReturnType<typeof play>>) =>
        said.target === digest &&
        said.stage === null &&
        said.plannedStop === null &&
        runs === image &&
        held === 0;
      let left = writes;
      let killed = false;
      const first = await startOperator({
        mayWrite: () => {
          if (left-- > 0) return;
          killed = true;
          throw new Error("killed");
        },
      });
      await kube.patch(nodePath(name), "merge", { spec: { config: { pin: digest } } });
      await until(
        `the kill after ${writes} writes, or the end`,
        async () => done(await play(digest, image)) || killed,
      );
      await first.kill();
      const second = await startOperator();
      try {
        await until(`the end after ${writes} writes`, async () => done(await play(digest, image)));
        expect((await pod(name))?.metadata.uid).toBe(uid);
      } finally {
        await second.kill();
      }
      rolls++;
      if (!killed) break;
    }
    // Stage, prefetch, tell, patch, confirm, and the end of the prefetch, at least; status and events in between.
    expect(rolls).toBeGreaterThan(6);
  });

  it("brings the identity's binding up to date when the account changes, without a new pod", async () => {
    const operator = await startOperator();
    try {
      await createNode("gpu-30");
      await serve("gpu-30");
      const uid = (await pod("gpu-30"))?.metadata.uid;
      const before = await kube.get<Secret>(secretPath("gpu-30-identity"));
      const other = configOf([v1, v2], { uid: networkUid, account: "other" });
      operator.context.configs.set(`${namespace}/testnet`, other);
      const after = await until("the new binding", async () => {
        const seen = await kube.get<Secret>(secretPath("gpu-30-identity"));
        return seen?.data?.["binding.json"] === before?.data?.["binding.json"] ? undefined : seen;
      });
      const text = Buffer.from(after.data?.["binding.json"] ?? "", "base64").toString();
      expect(bindingSchema.parse(JSON.parse(text)).account).toBe("other");
      expect(after.data?.["key.jwk"]).toBe(before?.data?.["key.jwk"]);
      expect((await pod("gpu-30"))?.metadata.uid).toBe(uid);
    } finally {
      await operator.kill();
    }
  });

  it("names the permission that is missing, and goes on with what it may do", async () => {
    await bed.kubectlOk(["-n", namespace, "create", "serviceaccount", "crippled"]);
    const grant = (name: string, verbs: string, resource: string) =>
      bed.kubectlOk(["create", "clusterrole", name, `--verb=${verbs}`, `--resource=${resource}`]);
    await grant(
      "crippled-see",
      "get,list,watch",
      "resultitynetworks.resultity.com,resultitynodes.resultity.com,resultitynodepools.resultity.com,pods,poddisruptionbudgets.policy",
    );
    await grant("crippled-status", "patch", "resultitynodes.resultity.com/status");
    await grant("crippled-secrets", "get,create,patch", "secrets");
    for (const role of ["crippled-see", "crippled-status", "crippled-secrets"]) {
      const subject = `--serviceaccount=${namespace}:crippled`;
      await bed.kubectlOk(["create", "clusterrolebinding", role, `--clusterrole=${role}`, subject]);
    }
    const operator = await startOperator({ as: await bed.serviceAccountKubeconfig(namespace, "crippled") });
    try {
      await createNode("gpu-40");
      const seen = await untilCondition("gpu-40", "Ready", "False PermissionMissing");
      const ready = seen.status?.conditions?.find(({ type }) => type === "Ready");
      expect(ready?.message).toContain("create pods");
      expect(await kube.get<Secret>(secretPath("gpu-40-identity"))).toBeDefined();
    } finally {
      await operator.kill();
    }
  });
});
