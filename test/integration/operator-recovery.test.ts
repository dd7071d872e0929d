/**
 * Nodes that do not come back, before a real API server: what is said of them, how fast, and what is done. Hosts, agents and the
 * network are played, so that what takes minutes is written as if it had begun minutes ago.
 */
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import type { Pod } from "../../src/kube/resources.ts";
import { systemClock } from "../../src/lib/clock.ts";
import type { AgentStatus } from "../../src/protocol/status.ts";
import { conditionOf, type Scene, type Stand, startScene, startStand } from "../faults/operator-scene.ts";
import { buildingMs } from "../testbed/control-plane.ts";
import type { KubeObject } from "../testbed/kube-json.ts";
import { until } from "../testbed/until.ts";

let stand: Stand;
let scene: Scene;
let scenes = 0;
/** Hosts whose kubelets are played; the others answer nobody. */
const alive = new Set<string>(["host-1"]);
let beating: NodeJS.Timeout | undefined;

beforeAll(async () => {
  stand = await startStand();
  beating = setInterval(() => {
    for (const host of alive)
      if (host !== "host-1") void writeHost(host, "True", Date.now()).catch(() => undefined);
  }, 5_000);
}, buildingMs);
afterAll(async () => {
  clearInterval(beating);
  await stand?.[Symbol.asyncDispose]();
});
afterEach(async () => {
  await scene?.[Symbol.asyncDispose]();
});

async function begin(): Promise<void> {
  scene = await startScene(stand, `recovery-${++scenes}`);
  scene.hostOf = (pod) =>
    [...alive].find((host) => !JSON.stringify(pod.spec?.affinity ?? {}).includes(`"${host}"`)) ?? "host-1";
  scene.treat = (pod) => (pod.spec?.nodeName && !alive.has(pod.spec.nodeName) ? "ignore" : "run");
}

const rfc3339 = (ms: number) => new Date(ms).toISOString().replace(/\.\d+Z$/, "Z");

async function writeHost(host: string, status: "True" | "Unknown", since: number): Promise<void> {
  const reason = status === "True" ? "Played" : "NodeStatusUnknown";
  const times = { lastHeartbeatTime: rfc3339(Date.now()), lastTransitionTime: rfc3339(since) };
  const conditions = [{ type: "Ready", status, reason, message: "", ...times }];
  await stand.kube.patch(`/api/v1/nodes/${host}/status`, "strategic", { status: { conditions } });
}

async function addHost(host: string): Promise<void> {
  await stand.kube.create("/api/v1/nodes", { apiVersion: "v1", kind: "Node", metadata: { name: host } });
  await writeHost(host, "True", Date.now());
  alive.add(host);
}

/** A node that serves, with an operator that has nothing left to do. */
async function serving(name: string, spec: object = {}) {
  await begin();
  const operator = await scene.startOperator();
  await scene.createNode(name, spec);
  await scene.untilReady(1);
  return operator;
}

type Status = NonNullable<Pod["status"]>;

/** Writes into a pod's status what its kubelet would. */
async function kubelet(name: string, change: (status: Status) => object): Promise<void> {
  const pod = await scene.pod(name);
  if (!pod?.status) throw new Error(`there is no pod ${name} that runs`);
  await stand.kube.patch(scene.core("pods", name) + "/status", "merge", { status: change(pod.status) });
}

/** Out of service since `minutes`. */
const unready = (minutes: number): object => {
  const lastTransitionTime = rfc3339(Date.now() - minutes * 60_000);
  return {
    conditions: [
      { type: "PodScheduled", status: "True", lastTransitionTime },
      { type: "Ready", status: "False", lastTransitionTime },
    ],
  };
};

const waiting = (reason: string, restartCount = 5) => ({
  started: false,
  ready: false,
  restartCount,
  state: { waiting: { reason, message: "" } },
});
const runtime = (changes: object) => (status: Status) => ({
  ...unready(0),
  containerStatuses: status.containerStatuses?.map((one) => ({ ...one, ...changes })),
});

/** An agent whose engine ends again and again. */
const crashing = (_: string, status: AgentStatus): AgentStatus => {
  const engine = { ...status.report.engine, health: "starting" as const, crashes: 9 };
  return { ...status, report: { ...status.report, engine } };
};

const uidOf = async (name: string) => (await scene.pod(name))?.metadata.uid;
const message = async (name: string, type = "Degraded") =>
  (await scene.node(name))?.status?.conditions?.find((one) => one.type === type)?.message ?? "";
const stepsOf = async (name: string) =>
  ((await scene.node(name))?.status?.recovery?.steps ?? []).map(({ step, host }) => `${step} ${host ?? ""}`);
const deletions = () =>
  scene.proxy.log.filter(({ method, resource }) => method === "DELETE" && resource === "pods");

describe("what is wrong is said within 10 s, with what to do", () => {
  /** What happens to node `gpu` that serves; which condition it becomes; what its message tells to do. */
  const table: readonly [string, () => Promise<void>, string, string, RegExp][] = [
    [
      "an engine that ends again and again",
      async () => {
        scene.says = crashing;
        await kubelet("gpu", () => unready(0));
      },
      "Degraded",
      "True EngineFailed",
      /kubectl logs -c runtime.*the pod is replaced at/,
    ],
    [
      "a container that crashes",
      () => kubelet("gpu", runtime(waiting("CrashLoopBackOff"))),
      "Degraded",
      "True EngineFailed",
      /kubectl logs -c runtime/,
    ],
    [
      "an image that does not come",
      () => kubelet("gpu", runtime(waiting("ErrImagePull"))),
      "Degraded",
      "True ImagePullFailed",
      /imagePullSecrets.*another host at/,
    ],
    [
      "a device that its plugin calls unhealthy",
      () =>
        kubelet("gpu", (status) => ({
          containerStatuses: status.containerStatuses?.map((one) => ({
            ...one,
            allocatedResourcesStatus: [
              { name: "nvidia.com/gpu", resources: [{ resourceID: "GPU-7", health: "Unhealthy" }] },
            ],
          })),
        })),
      "Ready",
      "True GPUFault",
      /GPU-7.*nvidia-smi.*reset the GPU/,
    ],
    [
      "an XID, by the network's view",
      () => scene.tell("gpu", { xids: [{ code: 79, since: Date.now() }] }),
      "Ready",
      "True GPUFault",
      /XID 79 .*fallen off the bus.*reset the GPU/,
    ],
    [
      "B29 an ephemeral container",
      async () => {
        const volumeMounts = [{ name: "resultity-identity", mountPath: "/key" }];
        await stand.kube.patch(`${scene.core("pods", "gpu")}/ephemeralcontainers`, "strategic", {
          spec: { ephemeralContainers: [{ name: "debugger", image: "busybox", volumeMounts }] },
        });
      },
      "Degraded",
      "True EphemeralContainer",
      /debugger \(busybox\).*can read the node's key.*kubectl -n recovery-\d+ delete pod gpu/,
    ],
    // What passes within 90 s is not told: this one has lasted.
    [
      "a session that is closed",
      () => scene.tell("gpu", { connected: false, since: Date.now() - 120_000 }),
      "Connected",
      "False SessionClosed",
      /kubectl logs -c agent/,
    ],
    [
      "a config that is refused",
      async () => {
        await scene.patch("resultitynodes", "gpu", { spec: { config: { pin: `sha256:${"0".repeat(64)}` } } });
      },
      "ConfigApplied",
      "False DigestNotAllowed",
      /release/,
    ],
  ];

  it.each(table)("%s", async (_, happen, type, wanted, advice) => {
    await serving("gpu", { gpu: { count: 1 } });
    const pod = await uidOf("gpu");
    const began = performance.now();
    await happen();
    const node = await scene.untilCondition("gpu", type, wanted);
    expect(performance.now() - began).toBeLessThan(10_000);
    expect(await message("gpu", type)).toMatch(advice);
    expect(conditionOf(node, "Ready")).toBeDefined();
    expect(await uidOf("gpu"), "nothing is done in a hurry").toBe(pod);
  });
});

describe("a node that does not come back", () => {
  it("gets a new pod, then another host, once each whatever becomes of the operator", async () => {
    await addHost("host-2");
    const first = await serving("gpu");
    expect((await scene.pod("gpu"))?.spec?.nodeName).toBe("host-1");
    scene.says = crashing;
    // The operator dies when the step is written and not yet taken.
    scene.proxy.fault = ({ method, resource }) =>
      method === "DELETE" && resource === "pods"
        ? { do: "answer", status: 503, reason: "ServiceUnavailable" }
        : undefined;
    const pod = await uidOf("gpu");
    await kubelet("gpu", () => unready(6));
    await until("the step to be written", async () => (await stepsOf("gpu"))[0] === "NewPod host-1");
    await first.stop();
    scene.proxy.fault = () => undefined;
    await scene.startOperator();
    await until("a new pod", async () => ![undefined, pod].includes(await uidOf("gpu")));
    expect(await stepsOf("gpu")).toEqual(["NewPod host-1"]);
    const [last] = deletions().slice(-1);
    expect(JSON.parse(last?.body ?? "{}")).toMatchObject({
      gracePeriodSeconds: 60,
      preconditions: { uid: pod },
    });

    // Five minutes later it fails as before.
    scene.says = (_, status) => status;
    await scene.untilReady(1);
    await scene.untilQuiet();
    const second = await uidOf("gpu");
    const steps = (await scene.node("gpu"))?.status?.recovery?.steps ?? [];
    const earlier = steps.map((step) => ({ ...step, time: rfc3339(Date.now() - 6 * 60_000) }));
    await stand.kube.patch(`${scene.path("resultitynodes", "gpu")}/status`, "merge", {
      status: { recovery: { steps: earlier } },
    });
    scene.says = crashing;
    await kubelet("gpu", () => unready(7));
    await until("another pod", async () => ![undefined, second].includes(await uidOf("gpu")));
    await until(
      "it to be on another host",
      async () => (await scene.pod("gpu"))?.spec?.nodeName === "host-2",
    );
    expect(await stepsOf("gpu")).toEqual(["NewPod host-1", "OtherHost host-1"]);
    scene.says = (_, status) => status;
    await scene.untilReady(1);
    await until("both steps to be told in events", async () => {
      const events = await scene.list<KubeObject & { reason: string; note: string }>(
        `/apis/events.k8s.io/v1/namespaces/${scene.namespace}/events`,
      );
      expect(events.filter(({ reason }) => reason === "Recovering").map(({ note }) => note)).toEqual(
        expect.arrayContaining([
          "EngineFailed: the pod is replaced",
          "EngineFailed: the pod is replaced by one on another host",
        ]),
      );
      return true;
    });
    await until(
      "no cause to be left",
      async () => (await scene.node("gpu"))?.status?.recovery?.cause === undefined,
    );
    // Nothing is forgotten, and nothing is written any more.
    await scene.untilQuiet();
    expect(await stepsOf("gpu")).toHaveLength(2);
  });

  it("with a GPU that is dead gets another one", async () => {
    await serving("gpu", { gpu: { count: 1 } });
    const pod = await uidOf("gpu");
    await kubelet("gpu", (status) => ({
      ...unready(1),
      containerStatuses: status.containerStatuses?.map((one) => ({
        ...one,
        allocatedResourcesStatus: [
          { name: "nvidia.com/gpu", resources: [{ resourceID: "GPU-7", health: "Unhealthy" }] },
        ],
      })),
    }));
    await until("a new pod", async () => ![undefined, pod].includes(await uidOf("gpu")));
    await scene.untilReady(1);
    expect((await scene.node("gpu"))?.status?.recovery?.steps).toMatchObject([
      { step: "NewPod", cause: "GPUFault", podUid: pod },
    ]);
  });

  it("as many others do not is left alone, and says that they share a cause", async () => {
    await begin();
    const operator = await scene.startOperator();
    await scene.createPool("chat", 5);
    await scene.untilReady(5);
    scene.says = crashing;
    const before = await Promise.all([0, 1, 2, 3, 4].map((at) => uidOf(`chat-${at}`)));
    scene.proxy.fault = ({ method, resource }) =>
      method === "DELETE" && resource === "pods"
        ? { do: "answer", status: 503, reason: "ServiceUnavailable" }
        : undefined;
    await Promise.all([0, 1, 2, 3, 4].map((at) => kubelet(`chat-${at}`, () => unready(3))));
    for (const at of [0, 1, 2, 3, 4])
      await scene.untilCondition(`chat-${at}`, "Degraded", "True EngineFailed");
    // Three minutes later; a container that was begun anew has them all looked at.
    const later = (status: Status) => ({
      ...unready(6),
      containerStatuses: status.containerStatuses?.map((one) => ({ ...one, restartCount: 1 })),
    });
    await Promise.all([0, 1, 2, 3, 4].map((at) => kubelet(`chat-${at}`, later)));
    await until("all to be held", async () =>
      (await scene.nodes()).every(({ status }) => status?.recovery?.held === "SharedCause"),
    );
    await scene.untilQuiet();
    expect(deletions()).toEqual([]);
    expect(await Promise.all([0, 1, 2, 3, 4].map((at) => uidOf(`chat-${at}`)))).toEqual(before);
    expect(await message("chat-0")).toContain("look for what they share");
    await operator.stop();
  });
});

describe("a pod that does not end", () => {
  it("in its time is deleted once more, with a short grace that its kubelet sees, and replaced when it is gone", async () => {
    await serving("gpu", { drain: { evictionTimeoutSeconds: 1 } });
    const uid = await uidOf("gpu");
    scene.treat = () => "ignore";
    await stand.kube.delete(scene.core("pods", "gpu"));
    await scene.untilCondition("gpu", "Draining", "True Deleted");
    const look = (timeoutSeconds: number) =>
      scene.patch("resultitynodes", "gpu", { spec: { drain: { timeoutSeconds } } });
    await look(290);
    await scene.untilQuiet();
    expect(deletions()).toEqual([]);
    // Its time is over.
    const now = vi.spyOn(systemClock, "now").mockImplementation(() => Date.now() + 31_000);
    try {
      await look(280);
      await until("the grace to be short", async () => {
        const pod = await scene.pod("gpu");
        return pod?.metadata.uid === uid && pod?.metadata.deletionGracePeriodSeconds === 10;
      });
      await look(270);
      await scene.untilQuiet();
    } finally {
      now.mockRestore();
    }
    const asked: unknown[] = deletions().map(({ body }) => JSON.parse(body));
    expect(asked).toEqual([expect.objectContaining({ gracePeriodSeconds: 10, preconditions: { uid } })]);
    const events = await scene.list<KubeObject & { reason: string; note: string }>(
      `/apis/events.k8s.io/v1/namespaces/${scene.namespace}/events`,
    );
    expect(events.find(({ reason }) => reason === "PodOverdue")?.note).toBe(
      "the pod has had 31 s to end and is still there: it gets 10 s more",
    );
    scene.treat = () => "run";
    await until("another pod", async () => {
      const next = await uidOf("gpu");
      return next !== undefined && next !== uid;
    });
    await scene.untilReady(1);
  });
});

describe("a host that is lost", () => {
  /** Evicted as soon as the cluster gives its host up, where it would take five minutes. */
  const tolerations = [
    { key: "node.kubernetes.io/unreachable", operator: "Exists", effect: "NoExecute", tolerationSeconds: 1 },
  ];

  it("is left at the time that its nodes tell, by those whose spec says so, and by no other", async () => {
    await addHost("host-3");
    await begin();
    scene.hostOf = () => "host-3";
    await scene.startOperator();
    await scene.createNode("moves", {
      unreachable: { replaceAfterSeconds: 60 },
      podOverrides: { tolerations },
    });
    await scene.createNode("waits", { podOverrides: { tolerations } });
    await scene.createNode("serves", { unreachable: { replaceAfterSeconds: 60 } });
    await scene.untilReady(3);
    scene.hostOf = () => "host-1";
    const [moves, waits, serves] = await Promise.all(["moves", "waits", "serves"].map(uidOf));
    alive.delete("host-3");
    scene.says = () => undefined;
    for (const name of ["moves", "waits"])
      await scene.tell(name, { connected: false, since: Date.now() - 120_000 });
    // Half a minute is left for what is said before.
    const since = Date.now() - 30_000;
    await writeHost("host-3", "Unknown", since);
    // As the cluster does when it sees a host go.
    for (const name of ["moves", "waits", "serves"]) await kubelet(name, () => unready(0));
    await scene.untilCondition("moves", "Degraded", "True HostLost", 60_000);
    await scene.untilCondition("waits", "Degraded", "True HostLost", 60_000);
    expect(await message("moves")).toContain(`at ${rfc3339(since + 60_000)} the pod is given up`);
    expect(await message("waits")).toContain("spec.unreachable.replaceAfterSeconds is not set");
    await until(
      "a pod on another host",
      async () => (await scene.pod("moves"))?.spec?.nodeName === "host-1",
      { deadlineMs: 60_000 },
    );
    // Times in status are whole seconds.
    expect(Date.now()).toBeGreaterThanOrEqual(since + 59_000);
    expect(await uidOf("moves")).not.toBe(moves);
    // Until a watch shows that the pod is gone its deletion may be asked for again, which finds nothing.
    const given = deletions().filter(({ name, status }) => name === "moves" && status === 200);
    expect(given.map(({ body }) => JSON.parse(body))).toMatchObject([
      { gracePeriodSeconds: 0, preconditions: { uid: moves } },
    ]);
    expect(await stepsOf("moves")).toEqual(["LostHost host-3"]);
    // The cluster takes it to be gone, and its kubelet has not said so.
    await until(
      "the cluster to give it up",
      async () => (await scene.pod("waits"))?.metadata.deletionTimestamp,
    );
    expect(await uidOf("waits")).toBe(waits);
    expect(await uidOf("serves")).toBe(serves);
    await until("the one that serves to say so", async () => (await message("serves")).includes("serves on"));
  });

  it("cannot be told where the operator may not read Node objects, which the condition says", async () => {
    await addHost("host-4");
    await begin();
    scene.hostOf = () => "host-4";
    await stand.bed.kubectlOk(["delete", "clusterrolebinding", "resultity-operator-hosts"]);
    await scene.startOperator();
    await scene.createNode("gpu", { unreachable: { replaceAfterSeconds: 60 } });
    await scene.untilReady(1);
    const pod = await uidOf("gpu");
    alive.delete("host-4");
    scene.says = () => undefined;
    await scene.tell("gpu", { connected: false, since: Date.now() - 120_000 });
    await writeHost("host-4", "Unknown", Date.now() - 600_000);
    await kubelet("gpu", () => unready(0));
    await scene.untilCondition("gpu", "Degraded", "True PermissionMissing", 60_000);
    expect(await message("gpu")).toContain("ClusterRole resultity-operator-hosts");
    await scene.untilQuiet();
    expect(await uidOf("gpu")).toBe(pod);
  });
});
