import type { NetworkConfig } from "../../../src/operator/views.ts";
import { noImagePolicy } from "../../../src/operator/node/places.ts";
import { describe, expect, it } from "vitest";
import { planNode } from "../../../src/operator/node/plan.ts";
import { configOf, digestOfSnapshot, imageOf, networkOf, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const [v1, v2, v3] = [snapshotOf("v1"), snapshotOf("v2"), snapshotOf("v3")];
const d1 = digestOfSnapshot(v1);
const d2 = digestOfSnapshot(v2);
const d3 = digestOfSnapshot(v3);

const notTrusted = {
  type: "Trusted",
  status: "False",
  reason: "ThresholdNotMet",
  message: "",
  observedGeneration: 1,
  lastTransitionTime: "2026-01-01T00:00:00Z",
} as const;

/** A node of a pool that serves v1 and knows v2 and v3. */
function serving(): World {
  const world = new World(nodeOf(), configOf([v1, v2, v3]));
  world.inPool = true;
  world.untilServing();
  return world;
}

describe("a new node", () => {
  it("gets a pod at the network's current config, then rests", () => {
    const world = new World();
    expect(world.reconcile()).toEqual(["create-pod"]);
    expect(world.desired).toMatchObject({ revision: 1, target: d1, stage: null, plannedStop: null });
    world.kubeletRunsAgent();
    expect(world.reconcile()).toEqual(["ask-agent"]);
    world.kubeletRunsRuntime(true);
    world.agentAnswers({ applied: d1 });
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("ConfigApplied")).toBe("True Applied");
  });

  it("is not asked again after a restart of the operator, when all is well", () => {
    const world = new World();
    world.untilServing();
    world.agent = { status: undefined, silentMs: 0, problem: "" };
    expect(world.plan().actions).toEqual([]);
  });

  it("stays as it is while a new operator has yet to verify the network, and says so when it cannot", () => {
    const world = new World();
    world.untilServing();
    const { conditions } = world.node.status ?? {};
    world.config = undefined;
    world.agent = { status: undefined, silentMs: 0, problem: "" };
    world.feed = undefined;
    world.feedLive = false;
    expect(world.reconcile()).toEqual([]);
    expect(world.node.status?.conditions).toEqual(conditions);
    world.network = { ...world.network, status: { conditions: [notTrusted] } };
    world.reconcile();
    expect(world.condition("ConfigApplied")).toBe("False NetworkNotTrusted");
  });

  it("is asked until it answers, when the last question got no answer", () => {
    const world = new World();
    world.untilServing();
    world.agent = { ...world.agent, silentMs: 1, problem: "timeout" };
    expect(world.reconcile()).toEqual(["ask-agent"]);
  });

  it("takes its pin before the network's current config", () => {
    const world = new World(nodeOf({ config: { pin: d2 } }), configOf([v1, v2]));
    world.reconcile();
    expect(world.desired.target).toBe(d2);
  });

  it("waits, and says for what, while the network, its config or an approved runtime is missing", () => {
    const noNetwork = planNode({ ...new World().observe(), network: undefined });
    expect(noNetwork.actions).toEqual([]);
    expect(noNetwork.notes.ConfigApplied?.reason).toBe("NetworkNotFound");
    const noConfig = new World();
    noConfig.config = undefined;
    noConfig.reconcile();
    expect(noConfig.pod).toBeUndefined();
    expect(noConfig.condition("Ready")).toBe("False PodNotCreated");
    expect(noConfig.condition("ConfigApplied")).toBe("False NetworkNotTrusted");
    const wrongEngine = new World(nodeOf({ runtime: { engine: "vllm" } }));
    wrongEngine.reconcile();
    expect(wrongEngine.pod).toBeUndefined();
    expect(wrongEngine.condition("ConfigApplied")).toBe("False NoRuntimeForEngine");
  });

  it("refuses a digest that the release does not allow, or that has expired", () => {
    const config = configOf([v1, v2]);
    const world = new World(nodeOf({ config: { pin: d3 } }), config);
    world.reconcile();
    expect(world.condition("ConfigApplied")).toBe("False DigestNotAllowed");
    const late = new World(nodeOf(), config);
    late.now = Date.UTC(2100, 0, 2);
    expect(late.reconcile()).toEqual([]);
    expect(late.condition("ConfigApplied")).toBe("False DigestNotAllowed");
  });

  it("that is younger than another with its identity does not run", () => {
    const world = new World();
    world.conflictsWith = "inference/older";
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("Ready")).toBe("False IdentityConflict");
  });
});

describe("a roll to a config with another runtime image", () => {
  /** Each step: what the plan does, and what the world does next. */
  const steps: readonly {
    readonly plan: readonly string[];
    readonly log?: string;
    readonly next: (world: World) => void;
  }[] = [
    {
      plan: ["annotate", "prefetch"],
      log: `annotate stage=${d2} target=${d1} stop=-`,
      next: () => {},
    },
    { plan: ["ask-agent"], next: (world) => world.agentAnswers() },
    { plan: ["ask-agent"], next: (world) => world.agentAnswers({ staged: d2 }) },
    {
      plan: ["rehearse-image", "annotate"],
      log: `annotate stage=- target=${d2} stop=runtime-image`,
      next: () => {},
    },
    { plan: ["ask-agent"], next: (world) => world.agentAnswers() },
    { plan: ["patch-image"], log: "patch runtime", next: () => {} },
    {
      plan: ["ask-agent"],
      next: (world) => world.kubeletSays({ conditions: [{ type: "Ready", status: "False" }] }),
    },
    { plan: ["ask-agent"], next: (world) => world.kubeletRunsRuntime(false) },
    { plan: ["ask-agent"], next: (world) => world.agentAnswers({ applied: d2, healthy: false }) },
    {
      plan: ["annotate"],
      log: `annotate stage=- target=${d2} stop=-`,
      next: (world) => world.kubeletRunsRuntime(true),
    },
    { plan: ["ask-agent"], next: (world) => world.agentAnswers() },
    { plan: [], next: () => {} },
  ];

  it("serves as soon as it has moved, however long its agent takes to read that the stop is over", () => {
    const world = serving();
    world.retarget(d2);
    for (const { next } of steps.slice(0, steps.length - 3)) {
      world.reconcile();
      next(world);
    }
    world.kubeletRunsRuntime(true);
    world.agentAnswers({ applied: d2 });
    expect(world.reconcile()).toEqual(["annotate"]);
    for (let look = 0; look < 3; look++) {
      expect(world.desired.plannedStop).toBeNull();
      expect(world.condition("Ready")).toBe("True AllWell");
      expect(world.reconcile()).toEqual(["ask-agent"]);
    }
    world.changeSpec({ participation: { accept: false } });
    world.reconcile();
    expect(world.condition("ConfigApplied")).toBe("False Waiting");
    world.reconcile();
    expect(world.condition("ConfigApplied")).toBe("False Waiting");
  });

  it("stages, tells, patches and confirms, in this order and once each", () => {
    const world = serving();
    world.retarget(d2);
    const uid = world.pod?.metadata.uid;
    for (const [at, step] of steps.entries()) {
      const before = world.log.length;
      expect(world.reconcile(), `step ${at}`).toEqual(step.plan);
      const done = world.log.slice(before).filter((line) => !line.startsWith("prefetch"));
      expect(done, `step ${at}`).toEqual(step.log === undefined ? [] : [step.log]);
      step.next(world);
    }
    expect(world.node.status?.config).toEqual({ target: d2, applied: d2 });
    expect(world.condition("Ready")).toBe("True AllWell");
    expect(world.pod?.metadata.uid).toBe(uid);
    expect(world.pod?.spec?.containers[0]?.image).toBe(imageOf("engine", "v2"));
  });

  it("goes on after a crash at any point: before a write, after it, and with nothing remembered", () => {
    for (let crash = 0; crash < steps.length; crash++) {
      const world = serving();
      world.retarget(d2);
      for (const [at, step] of steps.entries()) {
        if (at === crash) {
          // Planned and not done; then done, and the status not written.
          expect(world.plan().actions.map(({ type }) => type)).toEqual(step.plan);
          for (const action of world.plan().actions) world.apply(action);
          const again = world.plan().actions.map(({ type }) => type);
          if (step.log !== undefined) expect(again, `again at ${at}`).not.toContain("patch-image");
        } else world.reconcile();
        step.next(world);
      }
      expect(
        world.log.filter((line) => line.startsWith("patch")),
        `crash at ${crash}`,
      ).toEqual(["patch runtime"]);
      expect(world.desired).toMatchObject({ target: d2, stage: null, plannedStop: null });
    }
  });

  it("counts as Ready while it stages, and not from the planned stop on", () => {
    const world = serving();
    world.retarget(d2);
    for (const step of steps.slice(0, 3)) {
      world.reconcile();
      expect(world.condition("ConfigApplied")).toBe("False Staging");
      expect(world.condition("Ready")).toBe("True AllWell");
      step.next(world);
    }
    world.reconcile();
    expect(world.condition("Ready")).toBe("False Moving");
  });

  it("asks the new operator's agent anew when what the old one was told is lost", () => {
    const world = serving();
    world.retarget(d2);
    for (const step of steps.slice(0, 4)) {
      world.reconcile();
      step.next(world);
    }
    world.agent = { status: undefined, silentMs: 0, problem: "" };
    expect(world.reconcile()).toEqual(["ask-agent"]);
    world.agentAnswers({ applied: d1 });
    expect(world.reconcile()).toEqual(["patch-image"]);
  });

  it("loses nothing while the agent cannot stage, and says why", () => {
    const world = serving();
    world.retarget(d2);
    world.reconcile();
    world.agentAnswers({ error: { digest: d2, code: "download", message: "no space left" } });
    expect(world.reconcile()).toEqual(["ask-agent"]);
    expect(world.condition("ConfigApplied")).toBe("False StageFailed");
    expect(world.log.filter((line) => line.startsWith("patch"))).toEqual([]);
    // The pool turns back: nothing was lost, and nothing has to be done but to forget the staging.
    world.retarget(d1);
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired).toMatchObject({ target: d1, stage: null });
  });

  it("finishes a move that was told before it turns to the next target", () => {
    const world = serving();
    world.retarget(d2);
    for (const step of steps.slice(0, 5)) {
      world.reconcile();
      step.next(world);
    }
    world.retarget(d3);
    expect(world.reconcile()).toEqual(["patch-image"]);
    world.kubeletRunsRuntime(true);
    world.agentAnswers({ applied: d2 });
    world.reconcile();
    expect(world.desired).toMatchObject({ stage: d3, target: d2, plannedStop: null });
  });

  /** A move to v2 whose image does not come, turned back: the agent has staged v1 and is told of the stop. */
  const turnedBack = (): World => {
    const world = serving();
    world.retarget(d2);
    for (const step of steps.slice(0, 6)) {
      world.reconcile();
      step.next(world);
    }
    world.agentAnswers({ applied: d2 });
    world.kubeletWaits("runtime", "ImagePullBackOff");
    world.reconcile();
    expect(world.condition("Ready")).toBe("False ImagePullFailed");
    world.retarget(d1);
    world.reconcile();
    world.agentAnswers({ staged: d1 });
    world.reconcile();
    expect(world.desired).toMatchObject({ target: d1, plannedStop: "runtime-image" });
    return world;
  };

  it("turns back from an image that cannot be pulled, in the same pod, once the agent knows", () => {
    const world = turnedBack();
    expect(world.reconcile()).toEqual(["ask-agent"]);
    expect(world.pod?.spec?.containers[0]?.image).toBe(imageOf("engine", "v2"));
    world.agentAnswers({ applied: d1 });
    expect(world.reconcile()).toEqual(["patch-image"]);
    expect(world.pod?.spec?.containers[0]?.image).toBe(imageOf("engine", "v1"));
    expect(world.pod?.metadata.uid).toBe("pod-1");
  });

  it("turns back without the agent's word where the agent does not stay up either", () => {
    const world = turnedBack();
    world.kubeletWaits("agent", "CrashLoopBackOff");
    const [runtime] = world.pod?.status?.containerStatuses ?? [];
    if (!runtime) throw new Error("the runtime has no status");
    world.kubeletSays({ containerStatuses: [{ ...runtime, restartCount: 1 }] });
    expect(world.reconcile()).toEqual(["patch-image"]);
  });

  it("replaces a pod whose agent serves under the old config for a minute after the new image began", () => {
    const world = serving();
    world.retarget(d2);
    for (const step of steps.slice(0, 6)) {
      world.reconcile();
      step.next(world);
    }
    world.kubeletRunsRuntime(true);
    world.now += 60_000;
    world.agentAnswers({ applied: d1 });
    expect(world.reconcile()).toEqual(["ask-agent"]);
    world.now += 1_000;
    world.agentAnswers({ applied: d1, error: { digest: d2, code: "expired", message: "its time is over" } });
    expect(world.reconcile()).toEqual(["ask-agent"]);
    world.agentAnswers({ applied: d1 });
    expect(world.reconcile()).toEqual(["delete-pod"]);
  });
});

describe("changes that the agent makes by itself", () => {
  it("are one annotation, and the agent is asked until it has read it", () => {
    const world = serving();
    world.changeSpec({ participation: { accept: false } });
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired).toMatchObject({ accept: false, target: d1, plannedStop: null, revision: 2 });
    expect(world.condition("Ready")).toBe("False Waiting");
    expect(world.reconcile()).toEqual(["ask-agent"]);
    world.agentAnswers();
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("Ready")).toBe("True AllWell");
  });

  it("a config with the same image is staged, then told, without a planned stop", () => {
    const more = snapshotOf("v1-more", { runtimes: v1.runtimes, models: [{ name: "model-a", engines: [] }] });
    const world = new World(nodeOf(), configOf([v1, more]));
    world.inPool = true;
    world.untilServing();
    const target = digestOfSnapshot(more);
    world.retarget(target);
    world.reconcile();
    world.agentAnswers({ staged: target });
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired).toMatchObject({ target, plannedStop: null, stage: null });
    world.agentAnswers({ applied: target });
    expect(world.reconcile()).toEqual([]);
  });
});

describe("a new agent image", () => {
  it("waits for its turn, is told, patched and confirmed; the runtime runs on", () => {
    const world = serving();
    world.network = networkOf("v2");
    world.turn = false;
    expect(world.reconcile()).toEqual(["wait"]);
    world.turn = true;
    expect(world.reconcile()).toEqual(["prefetch"]);
    expect(world.reconcile()).toEqual(["rehearse-image", "annotate"]);
    expect(world.desired.plannedStop).toBe("agent-image");
    world.agentAnswers();
    expect(world.reconcile()).toEqual(["patch-image"]);
    expect(world.reconcile()).toEqual(["ask-agent"]);
    world.kubeletRunsAgent();
    world.kubeletRunsRuntime(true);
    expect(world.reconcile()).toEqual(["annotate"]);
    world.agentAnswers();
    expect(world.reconcile()).toEqual([]);
    expect(world.log).toContain("patch agent");
    expect(world.log).not.toContain("patch runtime");
    expect(world.log).not.toContain("delete");
  });

  it("comes after the runtime's, never with it", () => {
    const world = serving();
    world.network = networkOf("v2");
    world.retarget(d2);
    for (let round = 0; round < 12; round++) {
      const patches = world.reconcile().filter((type) => type === "patch-image");
      expect(patches.length).toBeLessThan(2);
      if (patches.length > 0) {
        world.kubeletRunsAgent();
        world.kubeletRunsRuntime(true);
      }
      world.agentAnswers({ staged: d2, ...(world.log.includes("patch runtime") ? { applied: d2 } : {}) });
    }
    expect(world.log.filter((line) => line.startsWith("patch"))).toEqual(["patch runtime", "patch agent"]);
  });

  it("cures an agent that does not stay up, in the same pod, before anything else is done to the node", () => {
    const world = serving();
    world.kubeletWaits("agent", "CrashLoopBackOff");
    expect(world.reconcile()).not.toContain("delete-pod");
    expect(world.condition("Ready")).toBe("False AgentFailed");
    world.network = networkOf("v2");
    world.retarget(d2);
    expect(world.reconcile()).toContain("annotate");
    expect(world.reconcile()).toEqual(["patch-image"]);
    expect(world.log.at(-1)).toBe("patch agent");
    expect(world.log).not.toContain("delete");
  });

  it("is known to be needed where the kubelet only says that the agent ended", () => {
    const world = serving();
    world.kubeletEnds("agent");
    world.reconcile();
    expect(world.condition("Ready")).toBe("False AgentFailed");
    world.network = networkOf("v2");
    world.reconcile();
    expect(world.reconcile()).toEqual(["patch-image"]);
  });

  it("waits a minute for an agent that runs and has not started, then replaces the pod, since the kubelet ignores the patch", () => {
    const world = serving();
    world.kubeletRunsAgent(false);
    world.network = networkOf("v2");
    expect(world.reconcile()).toEqual(["wait"]);
    world.now += 59_000;
    expect(world.reconcile()).toEqual(["wait"]);
    world.now += 1_000;
    expect(world.reconcile()).toEqual(["delete-pod"]);
  });
});

describe("what only a new pod can change", () => {
  it("is a planned stop, a deletion and a new pod at the same config", () => {
    const world = serving();
    world.changeSpec({ gpu: { count: 2, resourceName: "nvidia.com/gpu" } });
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired.plannedStop).toBe("recreate");
    expect(world.condition("Draining")).toBe("True SpecChange");
    expect(world.reconcile()).toEqual(["ask-agent"]);
    world.agentAnswers();
    expect(world.reconcile()).toEqual(["delete-pod"]);
    expect(new Set(world.reconcile())).toEqual(new Set(["wait"]));
    world.kubeletRemoves();
    expect(world.reconcile()).toEqual(["create-pod"]);
    expect(world.desired).toMatchObject({ target: d1, plannedStop: null, revision: 1 });
  });

  it("does not wait for an agent that is dead or has been silent for a minute", () => {
    const silent = serving();
    silent.changeSpec({ gpu: { count: 2, resourceName: "nvidia.com/gpu" } });
    silent.reconcile();
    silent.agent = { ...silent.agent, silentMs: 59_000, problem: "timeout" };
    expect(silent.reconcile()).toEqual(["ask-agent"]);
    silent.agent = { ...silent.agent, silentMs: 61_000 };
    expect(silent.reconcile()).toEqual(["delete-pod"]);
    const dead = serving();
    dead.kubeletWaits("agent", "CrashLoopBackOff");
    dead.changeSpec({ gpu: { count: 2, resourceName: "nvidia.com/gpu" } });
    expect(dead.reconcile()).toEqual(["delete-pod"]);
  });

  it("replaces a pod in which nothing has run at once", () => {
    const world = new World(nodeOf(), configOf([v1, v2]));
    world.inPool = true;
    world.reconcile();
    world.kubeletSays({
      conditions: [{ type: "PodScheduled", status: "False", reason: "Unschedulable", message: "0/3 nodes" }],
    });
    world.reconcile();
    expect(world.condition("Ready")).toBe("False Unschedulable");
    world.retarget(d2);
    expect(world.reconcile()).toEqual(["delete-pod"]);
  });

  it("that all nodes share waits for its turn, and keeps serving meanwhile", () => {
    const world = serving();
    world.config = configOf([v1, v2], { endpoints: ["http://other.example:8000"] });
    world.turn = false;
    expect(world.reconcile()).toEqual(["wait"]);
    world.turn = true;
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired.plannedStop).toBe("recreate");
  });
});

describe("parking", () => {
  it("is told, echoed and deleted; the identity is left alone, and unparking makes a pod again", () => {
    const world = serving();
    world.changeSpec({ replicas: 0 });
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired.plannedStop).toBe("parking");
    world.agentAnswers();
    expect(world.reconcile()).toEqual(["delete-pod"]);
    world.kubeletRunsRuntime(false);
    world.reconcile();
    expect(world.condition("Ready")).toBe("False ScaleDown");
    world.kubeletRemoves();
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("Ready")).toBe("False Parked");
    expect(world.node.status?.replicas).toBe(0);
    world.changeSpec({ replicas: 1 });
    expect(world.reconcile()).toEqual(["create-pod"]);
  });

  it("is called off by replicas 1 before the pod is deleted", () => {
    const world = serving();
    world.changeSpec({ replicas: 0 });
    world.reconcile();
    world.changeSpec({ replicas: 1 });
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired.plannedStop).toBeNull();
  });
});

describe("pods that end or go by themselves", () => {
  it("a failed pod is deleted by its UID, and the next one waits for the back-off", () => {
    const world = serving();
    world.kubeletSays({ phase: "Failed", reason: "UnexpectedAdmissionError", message: "no GPU" });
    expect(world.plan().actions).toMatchObject([{ type: "delete-pod", finished: true, uid: "pod-1" }]);
    world.reconcile();
    world.recreateInMs = 5_000;
    expect(world.reconcile()).toEqual(["wait"]);
    expect(world.condition("Ready")).toBe("False PodFailed");
    world.recreateInMs = 0;
    expect(world.reconcile()).toEqual(["create-pod"]);
  });

  it("a pod that is being deleted is left to end, and a host that never confirms is named", () => {
    const world = serving();
    world.apply({ type: "delete-pod", uid: "pod-1", finished: false, reason: "by hand" });
    expect(new Set(world.reconcile())).toEqual(new Set(["wait"]));
    expect(world.condition("Ready")).toBe("False Deleted");
    for (const seconds of [60, 71]) {
      world.now += seconds * 1000;
      world.reconcile();
    }
    expect(world.condition("Ready")).toBe("False HostLost");
  });

  it("a pod of somebody else's under the node's name is not touched", () => {
    const world = serving();
    world.node = { ...world.node, metadata: { ...world.node.metadata, uid: "another" } };
    expect(world.reconcile()).toEqual(["wait"]);
    expect(world.condition("Ready")).toBe("False PodCreateRefused");
  });

  it("writes the orders again when someone removed or garbled them, with a revision that is newer", () => {
    const world = serving();
    const { revision } = world.desired;
    if (world.pod) world.pod = { ...world.pod, metadata: { ...world.pod.metadata, annotations: {} } };
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired.revision).toBeGreaterThan(revision);
  });
});

describe("what webhooks and mirrors change", () => {
  it("another place of the same image digest is no drift", () => {
    const world = serving();
    const image = imageOf("engine", "v1").replace("registry.example", "mirror.local:5000/cache");
    world.apply({ type: "patch-image", container: "runtime", image, reason: "a webhook" });
    expect(world.reconcile()).toEqual([]);
  });
});

describe("the session, as the network sees it", () => {
  it("is lost only after 90 seconds, and back at once", () => {
    const world = serving();
    if (!world.feed) throw new Error("no feed");
    world.feed = { ...world.feed, connected: false, since: world.now };
    world.now += 89_000;
    world.reconcile();
    expect(world.condition("Connected")).toBe("True SessionOpen");
    world.now += 2_000;
    world.reconcile();
    expect(world.condition("Connected")).toBe("False SessionClosed");
    expect(world.condition("Ready")).toBe("False SessionClosed");
    world.feed = { ...world.feed, connected: true, since: world.now };
    world.reconcile();
    expect(world.condition("Ready")).toBe("True AllWell");
  });

  it("must be open for a node that was out of service to be Ready again", () => {
    const world = serving();
    world.changeSpec({ participation: { accept: false } });
    world.reconcile();
    expect(world.condition("Ready")).toBe("False Waiting");
    if (!world.feed) throw new Error("no feed");
    world.feed = { ...world.feed, connected: false, since: world.now };
    world.agentAnswers();
    world.reconcile();
    expect(world.condition("Connected")).toBe("True SessionOpen");
    expect(world.condition("Ready")).toBe("False SessionClosed");
    world.feed = { ...world.feed, connected: true };
    world.reconcile();
    expect(world.condition("Ready")).toBe("True AllWell");
  });

  it("stays as it was while the network cannot be asked", () => {
    const world = serving();
    world.feed = undefined;
    world.feedLive = false;
    world.now += 3_600_000;
    world.reconcile();
    expect(world.condition("Ready")).toBe("True AllWell");
  });
});

describe("outside of the network's maintenance windows", () => {
  const closed = (current: typeof v1) =>
    configOf([v1, v2, v3], {
      current: digestOfSnapshot(current),
      mayRestart: false,
      restartsUntil: Date.UTC(2026, 0, 3),
    });

  it("a node without a pool stays where it serves, and moves when the window opens", () => {
    const world = new World(nodeOf(), configOf([v1, v2, v3]));
    world.untilServing();
    world.config = closed(v2);
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired).toMatchObject({ stage: d2, target: d1 });
    expect(world.condition("Ready")).toBe("True AllWell");
    world.config = { ...closed(v2), mayRestart: true };
    expect(world.reconcile()).toEqual(["prefetch", "ask-agent"]);
    world.agentAnswers({ staged: d2 });
    world.reconcile();
    expect(world.desired.target).toBe(d2);
  });

  it("its owner's pin does not wait", () => {
    const world = new World(nodeOf(), configOf([v1, v2, v3]));
    world.untilServing();
    world.config = closed(v2);
    world.node = { ...world.node, spec: { ...world.node.spec, config: { pin: d3 } } };
    expect(world.reconcile()).toEqual(["annotate", "prefetch"]);
    expect(world.desired.stage).toBe(d3);
  });

  it("nor does a config that takes no restart", () => {
    const live = snapshotOf("v1-live", { runtimes: v1.runtimes, subclouds: ["eu"] });
    const world = new World(nodeOf(), configOf([v1, live]));
    world.untilServing();
    world.config = configOf([v1, live], { current: digestOfSnapshot(live), mayRestart: false });
    expect(world.reconcile()).toEqual(["annotate"]);
  });

  it("a new agent image waits, though it is the node's turn", () => {
    const world = serving();
    world.network = networkOf("v2");
    world.config = closed(v1);
    expect(world.reconcile()).toEqual(["wait"]);
  });
});

describe("models by the network owner's word", () => {
  const allowing = (...allowed: string[]) => ({ models: { allowed, denied: [] } });
  const told = ({ desired: { models, withheld } }: World) =>
    withheld === undefined ? models : [models, withheld];
  const created = (config: NetworkConfig): World => {
    const world = new World(nodeOf(), config);
    world.reconcile();
    return world;
  };

  it("are told by name to a new node, and nothing is said where the owner has no word", () => {
    expect(told(created(configOf([v1])))).toEqual([]);
    expect(told(created(configOf([v1], allowing("model-*"))))).toEqual([]);
    expect(told(created(configOf([v1], allowing("model-a"))))).toEqual([["model-a"], ["model-b"]]);
    const denied = { models: { allowed: ["*"], denied: ["model-b"] } };
    expect(told(created(configOf([v1], denied)))).toEqual([["model-a"], ["model-b"]]);
  });

  it("of a node that serves stay until it gets another config; then the new word holds", () => {
    const world = serving();
    world.config = configOf([v1, v2, v3], allowing("model-a"));
    expect(world.reconcile()).toEqual([]);
    world.retarget(d2);
    world.reconcile();
    // While it is staged the old config serves as it did: both have the same models.
    expect(world.desired).toMatchObject({ stage: d2, target: d1, models: [] });
    world.agentAnswers({ staged: d2 });
    world.reconcile();
    expect(world.desired).toMatchObject({ stage: null, target: d2 });
    expect(told(world)).toEqual([["model-a"], ["model-b"]]);
    for (let left = 6; left > 0; left--) {
      world.reconcile();
      world.kubeletRunsRuntime(true);
      world.agentAnswers({ applied: d2 });
    }
    expect(world.condition("Ready")).toBe("True AllWell");
    world.config = configOf([v1, v2, v3]);
    expect(world.reconcile()).toEqual([]);
  });

  it("of which none is allowed make no pod, and what runs stays", () => {
    const world = serving();
    world.config = configOf([v1, v2, v3], allowing("other"));
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("ConfigApplied")).toBe("False ModelNotAllowed");
    const fresh = new World(nodeOf(), world.config);
    expect(fresh.reconcile()).toEqual([]);
    expect(fresh.condition("ConfigApplied")).toBe("False ModelNotAllowed");
  });
});

describe("images by the network owner's word", () => {
  const host = imageOf("engine", "v1").split("/")[0] ?? "";
  const elsewhere = (name: string) => imageOf("engine", "v1").replace(host, name);
  const mirrored = (mirrors: readonly string[]) => ({
    images: { ...noImagePolicy, mirrors: [{ source: host, mirrors }] },
  });

  it("are pulled from the mirrors in turn, the source last, and stay where they came from", () => {
    const world = new World(nodeOf(), configOf([v1], mirrored(["a.test", "b.test"])));
    expect(world.reconcile()).toEqual(["create-pod"]);
    expect(world.pod?.spec?.containers[0]?.image).toBe(elsewhere("a.test"));
    world.kubeletRunsAgent();
    for (const next of ["b.test", host]) {
      world.kubeletWaits("runtime", "ErrImagePull");
      expect(world.reconcile()).not.toContain("patch-image");
      world.kubeletWaits("runtime", "ImagePullBackOff");
      expect(world.reconcile()).toContain("patch-image");
      expect(world.pod?.spec?.containers[0]?.image).toBe(elsewhere(next));
    }
    world.kubeletWaits("runtime", "ImagePullBackOff");
    expect(world.reconcile()).not.toContain("patch-image");
    expect(world.condition("RuntimeReady")).toBe("False ImagePullFailed");
  });

  it("of a node that serves move to no other place when mirrors change", () => {
    const world = serving();
    world.config = configOf([v1, v2, v3], mirrored(["a.test"]));
    expect(world.reconcile()).toEqual([]);
  });

  it("that are not allowed are not run, and what runs stays", () => {
    const world = serving();
    world.config = configOf([v1, v2, v3], { images: { ...noImagePolicy, allowed: ["other.test"] } });
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("ConfigApplied")).toBe("False ImageNotAllowed");
    const fresh = new World(nodeOf(), world.config);
    expect(fresh.reconcile()).toEqual([]);
    expect(fresh.condition("ConfigApplied")).toBe("False ImageNotAllowed");
  });
});
