import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { Action } from "../../../src/operator/node/plan.ts";
import { runs, podFacts } from "../../../src/operator/node/facts.ts";
import { imagesAhead } from "../../../src/operator/node/scene.ts";
import type { ConfigDigest } from "../../../src/protocol/fields.ts";
import { configOf, digestOfSnapshot, imageOf, networkOf, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const versions = ["v1", "v2", "v3"] as const;
const snapshots = versions.map((version) => snapshotOf(version));
const digests = snapshots.map(digestOfSnapshot);
const versionOf = (digest: ConfigDigest | null): string =>
  versions[digest === null ? 0 : digests.indexOf(digest)] ?? "";

/**
 * A node whose kubelet and agent act by themselves, each when it is told to take a turn: they do what DESIGN §5 says,
 * and nothing the plan hopes for. Every action of the plan is checked against what it may do at that instant.
 */
class LivingWorld extends World {
  /** What the agent has read, staged and applied in the present pod. */
  read = 0;
  staged: ConfigDigest | null = null;
  applied: ConfigDigest | null = null;
  #staging: ConfigDigest | null = null;
  readonly #proven = new Set<string>();
  /** Images that were fetched or ran; nothing is removed from a host here. */
  readonly #onHost = new Set<string>();
  override prefetchState = "coming" as const;
  agentDead = false;

  override apply(action: Action): void {
    if (action.type === "patch-image") this.#mayPatch(action);
    if (action.type === "delete-pod") this.#mayDelete(action);
    const before = this.pod?.metadata.uid;
    super.apply(action);
    if (this.pod?.metadata.uid !== before) this.#freshPod();
  }

  #freshPod(): void {
    this.read = 0;
    this.staged = null;
    this.#staging = null;
    this.applied = null;
  }

  #mayPatch({ container, image }: Action & { type: "patch-image" }): void {
    const { plannedStop, revision, target } = this.desired;
    expect(plannedStop).toBe(`${container}-image`);
    if (!this.#runtimeRuns || (container === "agent" && this.agentDead)) return;
    expect([...this.#onHost], "the host has the image").toContain(image);
    expect(this.read, "the agent has read the planned stop").toBeGreaterThanOrEqual(revision);
    if (container === "runtime") expect([...this.#proven], "the config was staged").toContain(target);
  }

  #mayDelete({ finished }: Action & { type: "delete-pod" }): void {
    if (finished || !this.#runtimeRuns || this.agentDead) return;
    expect(this.desired.plannedStop).not.toBeNull();
    expect(this.read).toBeGreaterThanOrEqual(this.desired.revision);
  }

  get #runtimeRuns(): boolean {
    return this.pod?.status?.containerStatuses?.[0]?.state?.running !== undefined;
  }

  /** What is on its way arrives, or the collector takes it away. */
  fetchTurn(): void {
    this.prefetches = this.prefetches.map((prefetch) => ({ ...prefetch, state: "present" }));
    for (const { image } of this.prefetches) this.#onHost.add(image);
    const ahead = this.pod ? imagesAhead(this.observe(), podFacts(this.pod, this.node)) : [];
    this.prefetches = this.prefetches.filter(({ image }) => ahead?.includes(image) ?? true);
  }

  /** A pod goes on by one step: agent, runtime, a new image, the end. */
  kubeletTurn(): void {
    const { pod } = this;
    if (!pod) return;
    if (pod.metadata.deletionTimestamp) {
      this.kubeletRemoves();
      this.#freshPod();
      return;
    }
    if (pod.status?.phase === "Failed") return;
    const agentImage = pod.spec?.initContainers?.[0]?.image;
    if (pod.status?.initContainerStatuses?.[0]?.imageID !== agentImage || this.agentDead) {
      this.agentDead = false;
      const { containerStatuses, conditions } = pod.status ?? {};
      this.kubeletRunsAgent();
      if (containerStatuses) this.kubeletSays({ containerStatuses, ...(conditions ? { conditions } : {}) });
      return;
    }
    const image = pod.spec?.containers[0]?.image ?? "";
    const ready = this.applied === this.desired.target && runs(podFacts(pod, this.node), "runtime", image);
    this.kubeletRunsRuntime(ready);
  }

  /** The agent reads its annotation and does what it can do alone. */
  agentTurn(): void {
    const { pod } = this;
    if (this.agentDead || !pod?.status?.initContainerStatuses?.[0]?.state?.running) return;
    if (pod.metadata.deletionTimestamp || pod.status.phase === "Failed") return;
    const { revision, stage, target } = this.desired;
    this.read = revision;
    // Staging takes longer than reading what to stage.
    this.staged = stage !== null && this.#staging === stage ? stage : null;
    this.#staging = stage;
    if (this.staged !== null) this.#proven.add(this.staged);
    const running = pod.status.containerStatuses?.[0]?.imageID;
    // A new pod's agent fetches before anything runs.
    if (this.applied === null && target !== null) this.#proven.add(target);
    if (running === imageOf("engine", versionOf(target))) this.applied = target;
  }

  /** The agent is asked. */
  answer(): void {
    if (this.agentDead || this.read === 0 || !this.pod || this.pod.metadata.deletionTimestamp) return;
    const now = this.desired.revision;
    this.agentAnswers({ ...(this.staged === null ? {} : { staged: this.staged }), applied: this.applied });
    const { status } = this.agent;
    if (status && now !== this.read)
      this.agent = { ...this.agent, status: { ...status, desired_revision: this.read } };
  }

  /** The operator is killed after `writes` actions of its plan, and its successor remembers nothing. */
  crashAfter(writes: number): void {
    for (const action of this.plan().actions.slice(0, writes)) this.apply(action);
    this.agent = { status: undefined, silentMs: 0, problem: "" };
  }
}

type Turn = (world: LivingWorld) => void;
const turn = (name: string, act: Turn) => ({ name, act, toString: () => name });

const ordinary = [
  turn("reconcile", (world) => world.reconcile()),
  turn("kubelet", (world) => world.kubeletTurn()),
  turn("agent", (world) => world.agentTurn()),
  turn("answer", (world) => world.answer()),
  turn("fetch", (world) => world.fetchTurn()),
];
const upsets = [
  ...digests.map((digest, at) => turn(`target v${at + 1}`, (world) => world.retarget(digest))),
  turn("crash after 0", (world) => world.crashAfter(0)),
  turn("crash after 1", (world) => world.crashAfter(1)),
  turn("agent image v2", (world) => (world.network = networkOf("v2"))),
  turn("agent image v1", (world) => (world.network = networkOf("v1"))),
  turn("two GPUs", (world) => world.changeSpec({ gpu: { count: 2, resourceName: "nvidia.com/gpu" } })),
  turn("one GPU", (world) => world.changeSpec({ gpu: { count: 1, resourceName: "nvidia.com/gpu" } })),
  turn("no jobs", (world) => world.changeSpec({ participation: { accept: false } })),
  turn("arguments", (world) => world.changeSpec({ runtime: { engine: "openai", args: ["--fast"] } })),
  turn("park", (world) => world.changeSpec({ replicas: 0 })),
  turn("unpark", (world) => world.changeSpec({ replicas: 1 })),
  turn("pod fails", (world) => world.pod && world.kubeletSays({ phase: "Failed", reason: "Evicted" })),
  turn("agent crashes", (world) => {
    if (!world.pod?.status?.initContainerStatuses || world.pod.metadata.deletionTimestamp) return;
    world.kubeletWaits("agent", "CrashLoopBackOff");
    world.agentDead = true;
  }),
  turn("pod deleted by hand", (world) => {
    if (world.pod && !world.pod.metadata.deletionTimestamp)
      World.prototype.apply.call(world, {
        type: "delete-pod",
        uid: world.pod.metadata.uid,
        finished: true,
        reason: "",
      });
  }),
];

describe("any order of events", () => {
  it("ends in what the spec says, with nothing patched or deleted that the agent was not told of", () => {
    const turns = fc.array(
      fc.oneof(
        { weight: 4, arbitrary: fc.constantFrom(...ordinary) },
        { weight: 1, arbitrary: fc.constantFrom(...upsets) },
      ),
      { maxLength: 120, size: "max" },
    );
    fc.assert(
      fc.property(turns, (sequence) => {
        const world = new LivingWorld(nodeOf(), configOf(snapshots));
        world.retarget(digestOfSnapshot(snapshotOf("v1")));
        for (const { act } of sequence) act(world);
        // The storm is over: everyone takes turns until nothing is left to do.
        world.changeSpec({ replicas: 1 });
        let calm = 0;
        for (let round = 0; round < 80 && calm < 3; round++) {
          const did = world.reconcile().filter((type) => type !== "wait");
          world.fetchTurn();
          world.kubeletTurn();
          world.agentTurn();
          world.answer();
          calm = did.length === 0 && world.pod !== undefined ? calm + 1 : 0;
        }
        world.fetchTurn();
        expect(world.prefetches, "what nobody needs is gone").toEqual([]);
        expect(calm, world.log.slice(-12).join("; ")).toBe(3);
        const target = world.node.status?.config?.target;
        expect(world.desired).toMatchObject({ target, stage: null, plannedStop: null });
        expect(world.applied).toBe(target);
        expect(world.pod?.spec?.containers[0]?.image).toBe(imageOf("engine", versionOf(world.applied)));
        expect(world.pod?.spec?.initContainers?.[0]?.image).toBe(world.network.spec.agent.image);
        expect(world.condition("Ready")).toMatch(/^True AllWell|NotRegistered/);
      }),
      { numRuns: 300 },
    );
  });
});
