import { describe, expect, it } from "vitest";
import { podOf } from "../../../../src/operator/node/pod.ts";
import { at, fine, minute, Patient } from "./patient.ts";

describe("an engine that ends again and again", () => {
  it("gets a new pod after five minutes, recorded before it is done, and then another host", () => {
    const world = new Patient();
    world.stopServing();
    world.crash(6);
    expect(world.watch(4 * minute)).toEqual([]);
    expect(world.condition("Degraded")).toBe("True EngineFailed");
    expect(world.message).toMatch(/kubectl logs -c runtime.*the pod is replaced at 2026-01-01T00:05:00Z/);
    expect(world.node.status?.recovery).toMatchObject({ cause: "EngineFailed", next: { step: "NewPod" } });
    expect(world.watch(59_000)).toEqual([]);
    world.now += 1_000;
    // Recorded, and not done before it can be read where it was written.
    expect(world.plan().actions.map(({ type }) => type)).not.toContain("delete-pod");
    expect(world.watch(3_000)).toEqual(["recover NewPod", "delete"]);
    expect(world.node.status?.recovery?.steps).toMatchObject([
      { step: "NewPod", podUid: "pod-1", host: "host-1" },
    ]);
    world.kubeletRemoves();
    world.reconcile();
    world.kubeletRunsAgent();
    world.kubeletRunsRuntime(false);
    world.agentAnswers({ applied: world.desired.target });
    world.stopServing();
    world.crash(9);
    world.log.length = 0;
    expect(world.watch(6 * minute)).toContain("recover OtherHost");
    world.kubeletRemoves();
    world.reconcile();
    expect(JSON.stringify(world.pod?.spec?.affinity)).toContain('"operator":"NotIn","values":["host-1"]');
  });

  it("an operator that is killed between record and step, or has just started, goes on", () => {
    const world = new Patient();
    world.stopServing();
    world.crash(6);
    world.now += 5 * minute;
    expect(world.reconcile()).toContain("recover");
    const { recovery } = world.node.status ?? {};
    const deletes = world.plan().actions;
    expect(deletes).toMatchObject([{ type: "delete-pod", uid: "pod-1" }]);
    // The next one has the same record, and does the same.
    expect(world.plan().actions).toEqual(deletes);
    expect(world.node.status?.recovery).toEqual(recovery);
  });

  it("that serves again in time keeps its pod, and the record is forgotten after six hours", () => {
    const world = new Patient();
    world.stopServing();
    world.crash(6);
    world.now += 5 * minute;
    expect(world.reconcile()).toContain("recover");
    world.kubeletRunsRuntime(true);
    world.agentAnswers({ applied: world.desired.target });
    expect(world.watch(minute)).toEqual([]);
    expect(world.condition("Ready")).toBe("True AllWell");
    expect(world.node.status?.recovery).toMatchObject({ steps: [{ step: "NewPod" }] });
    expect(world.node.status?.recovery).not.toHaveProperty("cause");
    world.now += 6 * 60 * minute;
    world.reconcile();
    expect(world.node.status).not.toHaveProperty("recovery");
    expect(world.reconcile()).toEqual([]);
  });

  it.each<[string, (world: Patient) => void]>([
    ["loads", (world) => world.crash(0)],
    ["crashed and loads again", (world) => world.crash(2)],
    [
      "is parked",
      (world) => {
        world.crash(9);
        world.changeSpec({ replicas: 0 });
      },
    ],
    [
      "fails with many others",
      (world) => {
        world.crash(9);
        world.fleet = { ...fine, network: { nodes: 8, failing: 3 } };
      },
    ],
    [
      "serves",
      (world) => {
        world.crash(9);
        world.kubeletRunsRuntime(true);
      },
    ],
    ["has an agent that does not come up (F42)", (world) => world.kubeletWaits("agent", "CrashLoopBackOff")],
    [
      "has an agent whose image does not come (F42)",
      (world) => world.kubeletWaits("agent", "ImagePullBackOff"),
    ],
    ["waits for a Secret", (world) => world.kubeletWaits("runtime", "CreateContainerConfigError")],
    [
      "has a config that was withdrawn",
      (world) => {
        world.crash(9);
        if (world.config) world.config = { ...world.config, release: undefined };
      },
    ],
  ])("is left alone for a day while it %s", (_, upset) => {
    const world = new Patient();
    world.stopServing();
    upset(world);
    for (let hour = 0; hour < 24; hour++, world.now += 60 * minute) {
      world.reconcile();
      world.reconcile();
    }
    expect(world.log.filter((line) => line.startsWith("recover"))).toEqual([]);
  });
});

describe("a GPU", () => {
  it("that its plugin calls unhealthy is told at once; a node that serves on stays in service", () => {
    const world = new Patient();
    world.unhealthyDevice();
    world.watch(10 * minute);
    expect(world.condition("Degraded")).toBe("True GPUFault");
    expect(world.condition("Ready")).toBe("True GPUFault");
    expect(world.message).toMatch(/device GPU-0 \(nvidia.com\/gpu\) is unhealthy.*nvidia-smi.*reset the GPU/);
    expect(world.message).not.toContain("GPU-1");
    expect(world.log).toEqual([]);
  });

  it("that took the engine with it is left with its pod after half a minute", () => {
    const world = new Patient();
    world.unhealthyDevice();
    world.stopServing();
    expect(world.watch(29_000)).toEqual([]);
    expect(world.condition("Ready")).toBe("False GPUFault");
    expect(world.watch(5_000)).toEqual(["recover NewPod", "delete"]);
  });

  it("that is dead under an engine which says it is well is left when the network gives the node no jobs", () => {
    const world = new Patient();
    world.xid(79, world.now);
    world.watch(minute);
    expect(world.condition("Ready")).toBe("True GPUFault");
    expect(world.message).toContain("XID 79");
    if (world.feed) world.feed = { ...world.feed, deprioritised_until: world.now + 60 * minute };
    expect(world.watch(minute)).toEqual(["recover NewPod", "delete"]);
  });

  it.each([
    [79, "fresh", false, "True GPUFault"],
    [79, "old", false, "True GPUFault"],
    // DCGM shows it until the driver is loaded anew: the engine that serves now came after it.
    [79, "old", true, "False NothingWrong"],
    [94, "fresh", true, "True GPUFault"],
    [94, "fresh", false, "True GPUFault"],
    ...[8, 13, 31, 43, 45, 68].map((code) => [code, "fresh", false, "False NothingWrong"] as const),
  ] as const)("XID %s, %s, engine serves: %s: Degraded=%s", (code, age, serves, expected) => {
    const world = new Patient();
    world.xid(code, age === "fresh" ? world.now : null);
    if (!serves) {
      world.stopServing();
      world.crash(2);
    }
    world.reconcile();
    expect(world.condition("Degraded")).toBe(expected);
    if (code !== 79)
      expect(world.watch(60 * minute).filter((line) => line.startsWith("recover"))).toEqual([]);
  });

  it("that its driver named long ago is no reason to end an engine which loads for an hour", () => {
    const world = new Patient();
    world.xid(74, null);
    world.stopServing();
    expect(world.watch(60 * minute)).toEqual([]);
    expect(world.condition("Degraded")).toBe("False NothingWrong");
    world.crash(2);
    expect(world.watch(minute)).toEqual(["recover NewPod", "delete"]);
  });

  it("under which the engine has served on is not left while that is moved and loads, only when it ends", () => {
    const world = new Patient();
    world.xid(74, world.now);
    world.now += minute;
    world.stopServing();
    expect(world.watch(60 * minute)).toEqual([]);
    expect(world.condition("Ready")).toBe("False GPUFault");
    world.crash(2);
    expect(world.watch(minute)).toEqual(["recover NewPod", "delete"]);
  });

  it("that dies under an engine which loads or does not answer any more is left", () => {
    for (const health of ["starting", "unhealthy"] as const) {
      const world = new Patient();
      if (health === "starting") world.stopServing();
      world.xid(79, world.now);
      world.now += minute;
      if (health === "unhealthy") world.stopServing();
      world.engine(health);
      expect(world.watch(minute)).toEqual(["recover NewPod", "delete"]);
    }
  });

  it("that is named is not left by an engine of which one job has failed", () => {
    const world = new Patient();
    world.xid(74, world.now);
    world.now += 24 * 60 * minute;
    if (world.feed) world.feed = { ...world.feed, deprioritised_until: world.now + minute };
    expect(world.watch(5 * minute)).toEqual([]);
    if (world.feed) world.feed = { ...world.feed, deprioritised_until: world.now + 2 * minute };
    expect(world.watch(minute)).toEqual(["recover NewPod", "delete"]);
  });

  it("is told by the network's view too, while nobody asks the agent", () => {
    const world = new Patient();
    world.agent = { status: undefined, silentMs: 0, problem: "" };
    if (world.feed) world.feed = { ...world.feed, xids: [{ code: 48, since: world.now }] };
    world.reconcile();
    expect(world.condition("Degraded")).toBe("True GPUFault");
    expect(world.message).toContain("XID 48");
  });
});

describe("pods that end at once on the same host", () => {
  it("F41 come to another one after the third", () => {
    const world = new Patient();
    for (let time = 0; time < 3; time++) {
      world.kubeletSays({ phase: "Failed", reason: "UnexpectedAdmissionError" });
      world.reconcile();
      world.pod = undefined;
      world.now += minute;
      expect(world.reconcile()).toContain("create-pod");
      if (time < 2) expect(world.pod).not.toHaveProperty("spec.affinity");
      world.kubeletRunsAgent();
    }
    expect(JSON.stringify(world.pod)).toContain('"values":["host-1"]');
    expect(world.node.status?.recovery?.steps?.map(({ step }) => step)).toEqual([
      "NewPod",
      "NewPod",
      "OtherHost",
    ]);
  });

  it.each(["evicted", "deleted"])("say nothing of that host when they are %s", (how) => {
    const world = new Patient();
    for (let time = 0; time < 4; time++) {
      const disruption = {
        type: "DisruptionTarget",
        status: "True" as const,
        reason: "EvictionByEvictionAPI",
      };
      world.kubeletSays({ phase: "Failed", ...(how === "evicted" ? { conditions: [disruption] } : {}) });
      if (how === "deleted" && world.pod)
        world.pod = {
          ...world.pod,
          metadata: {
            ...world.pod.metadata,
            deletionTimestamp: at(world.now),
            deletionGracePeriodSeconds: 30,
          },
        };
      world.reconcile();
      world.pod = undefined;
      world.now += minute;
      expect(world.reconcile()).toContain("create-pod");
      expect(world.pod).not.toHaveProperty("spec.affinity");
      world.kubeletRunsAgent();
    }
    expect(world.node.status?.recovery).toBeUndefined();
  });

  it.each([
    ["Guaranteed", "True Unschedulable"],
    // Parked, which is well.
    ["Opportunistic", "False NothingWrong"],
  ] as const)(
    "and to any again where no other takes them: %s is Degraded=%s meanwhile",
    (capacity, degraded) => {
      const world = new Patient({ capacity });
      const steps = [
        { step: "OtherHost" as const, cause: "PodFailed", time: at(world.now), podUid: "x", host: "host-1" },
      ];
      world.node = {
        ...world.node,
        status: { ...world.node.status, recovery: { cause: "PodFailed", steps } },
      };
      world.pod = undefined;
      world.reconcile();
      world.kubeletSays({
        conditions: [
          {
            type: "PodScheduled",
            status: "False",
            reason: "Unschedulable",
            message: "0/1",
            lastTransitionTime: at(world.now),
          },
        ],
      });
      world.log.length = 0;
      expect(world.watch(minute)).toEqual([]);
      expect(world.condition("Degraded")).toBe(degraded);
      expect(world.watch(2 * minute)).toEqual(["recover AnyHost", "delete"]);
      world.kubeletRemoves();
      world.reconcile();
      expect(world.log.at(-1)).toMatch(/^create/);
      expect(JSON.stringify(world.pod)).not.toContain("NotIn");
    },
  );
});

describe("a pod that is kept from a host", () => {
  it("keeps what its owner says of hosts", () => {
    const term = { matchExpressions: [{ key: "zone", operator: "In" as const, values: ["a"] }] };
    const other = { matchExpressions: [{ key: "zone", operator: "In" as const, values: ["b"] }] };
    const required = { nodeSelectorTerms: [term, other] };
    const affinity = { nodeAffinity: { requiredDuringSchedulingIgnoredDuringExecution: required } };
    const world = new Patient({ podOverrides: { affinity } });
    if (!world.config) throw new Error("no config");
    const draft = podOf({
      node: world.node,
      config: world.config,
      agentImage: "a",
      runtimeImage: "r",
      desired: world.desired,
      drainToken: "t",
      avoid: ["host-1", "host-2"],
    });
    const away = ["host-1", "host-2"].map((host) => ({
      key: "metadata.name",
      operator: "NotIn",
      values: [host],
    }));
    expect(
      draft.spec?.affinity?.nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution?.nodeSelectorTerms,
    ).toEqual([
      { ...term, matchFields: away },
      { ...other, matchFields: away },
    ]);
  });
});

describe("B29 an ephemeral container", () => {
  it.each([
    [[], "makes the pod anew without it"],
    [["resultity-identity"], "it can read the node's key"],
  ])("with volumes %j is told with what to do, and takes nothing from the node", (volumes, text) => {
    const world = new Patient();
    const volumeMounts = volumes.map((name) => ({ name, mountPath: "/x" }));
    const spec = world.pod?.spec;
    if (!world.pod || !spec) throw new Error("no pod");
    world.pod = {
      ...world.pod,
      spec: { ...spec, ephemeralContainers: [{ name: "debugger", image: "busybox", volumeMounts }] },
    };
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("Degraded")).toBe("True EphemeralContainer");
    expect(world.condition("Ready")).toBe("True EphemeralContainer");
    expect(world.message).toContain("debugger (busybox)");
    expect(world.message).toContain(text);
  });
});
