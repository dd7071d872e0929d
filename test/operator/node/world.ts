import type { NodeSpec, ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import { ownedBy } from "../../../src/kube/object.ts";
import type { Pod } from "../../../src/kube/resources.ts";
import { podFacts } from "../../../src/operator/node/facts.ts";
import { inputsHashAnnotation } from "../../../src/operator/names.ts";
import { identityInputsHash, podInputsHash } from "../../../src/operator/node/inputs.ts";
import type { AgentView, NodeObservation } from "../../../src/operator/node/observation.ts";
import { type Action, type Plan, planNode } from "../../../src/operator/node/plan.ts";
import { identityHashAnnotation, resourcesAnnotation } from "../../../src/operator/node/pod-parts.ts";
import { podOf, terminationGraceSeconds } from "../../../src/operator/node/pod.ts";
import { NodeMemories } from "../../../src/operator/node/memory.ts";
import { emptyHost, type HostView } from "../../../src/operator/node/prefetch/plan.ts";
import type { PrefetchFacts } from "../../../src/operator/node/prefetch/facts.ts";
import { nodeStatus } from "../../../src/operator/node/status.ts";
import type { NetworkConfig } from "../../../src/operator/views.ts";
import { type Desired, desiredAnnotation, parseDesired } from "../../../src/protocol/desired.ts";
import type { ConfigDigest } from "../../../src/protocol/fields.ts";
import type { NodeId } from "../../../src/protocol/keys.ts";
import type { AgentStatus } from "../../../src/protocol/status.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { configOf, networkOf, snapshotOf } from "./network.ts";

type Writable<T> = T extends readonly (infer E)[]
  ? Writable<E>[]
  : T extends object
    ? { -readonly [K in keyof T]: Writable<T[K]> }
    : T;
type DraftPod = Writable<Pod>;
type ContainerStatus = NonNullable<NonNullable<DraftPod["status"]>["containerStatuses"]>[number];

const nodeId = "n".repeat(42) + "A";

/** The spec that most tests begin with, with the API server's defaults filled in. */
export const plainSpec: NodeSpec = {
  replicas: 1,
  networkRef: { name: "testnet" },
  gpu: { count: 1, resourceName: "nvidia.com/gpu" },
  runtime: { engine: "openai" },
  participation: { accept: true },
  drain: { timeoutSeconds: 300, evictionTimeoutSeconds: 30 },
};

/** A ResultityNode as the API server would answer it. */
export function nodeOf(spec: Partial<NodeSpec> = {}, name = "gpu-0"): ResultityNode {
  return {
    apiVersion: "resultity.com/v1alpha1",
    kind: "ResultityNode",
    metadata: {
      name,
      namespace: "inference",
      uid: `uid-of-${name}`,
      resourceVersion: "1",
      generation: 1,
      creationTimestamp: "2026-01-01T00:00:00Z",
    },
    spec: { ...plainSpec, ...spec },
  };
}

/**
 * One node with an API server, a kubelet and an agent that do nothing by themselves: each `kubelet…` and `agent…` step
 * is taken by the test, in any order. The plan's actions are applied one by one, so that a test can stop between them.
 */
export class World {
  node: ResultityNode;
  network = networkOf();
  config: NetworkConfig | undefined;
  inPool = false;
  pod: DraftPod | undefined;
  agent: AgentView = { status: undefined, silentMs: 0, problem: "" };
  turn = true;
  resizeRefused: string | undefined;
  host: HostView = emptyHost;
  /** Pods that bring images to the host; by themselves they bring them at once. */
  prefetches: readonly PrefetchFacts[] = [];
  prefetchState: PrefetchFacts["state"] = "present";
  now = Date.UTC(2026, 0, 1);
  feed: NodeObservation["feed"];
  feedLive = true;
  recreateInMs = 0;
  conflictsWith: string | undefined;
  /** A test takes it away, as a restart of the operator does. */
  memories = new NodeMemories(new FakeClock());
  fleet: NodeObservation["fleet"];
  hostLook: NodeObservation["hostLook"];
  /** Everything that was written, as `type detail`. */
  readonly log: string[] = [];
  #versions = 1;
  #pods = 0;

  constructor(node = nodeOf(), config: NetworkConfig | undefined = configOf([snapshotOf("v1")])) {
    this.node = node;
    this.config = config;
  }

  observe(): NodeObservation {
    return {
      now: this.now,
      node: this.node,
      inPool: this.inPool,
      network: this.network,
      config: this.config,
      pod: this.pod && podFacts(this.pod, this.node),
      agent: this.agent,
      mustRead: this.pod && this.memories.mustRead(this.node.metadata.name, this.pod.metadata.uid),
      host: { ...this.host, prefetches: this.prefetches },
      nodeId,
      conflictsWith: this.conflictsWith,
      feed: this.feed,
      feedLive: this.feedLive,
      recreateInMs: this.recreateInMs,
      turn: this.turn,
      fleet: this.fleet,
      hostLook: this.hostLook,
      resizeRefused: this.resizeRefused,
    };
  }

  plan(): Plan {
    return planNode(this.observe());
  }

  /** Plans and does all of it, then writes the status. Returns the types of the actions. */
  reconcile(): readonly string[] {
    const seen = this.observe();
    const plan = planNode(seen);
    for (const action of plan.actions) this.apply(action);
    this.node = { ...this.node, status: this.#withTarget(nodeStatus(seen, plan, {})) };
    return plan.actions.map(({ type }) => type);
  }

  #withTarget(status: NonNullable<ResultityNode["status"]>): NonNullable<ResultityNode["status"]> {
    const target = this.inPool ? this.node.status?.config?.target : status.config?.target;
    return target === undefined ? status : { ...status, config: { ...status.config, target } };
  }

  /** The pool's rollout tells the node where to go. */
  retarget(digest: ConfigDigest): void {
    this.inPool = true;
    this.node = {
      ...this.node,
      status: { ...this.node.status, config: { ...this.node.status?.config, target: digest } },
    };
  }

  changeSpec(spec: Partial<NodeSpec>): void {
    const { metadata } = this.node;
    this.node = {
      ...this.node,
      metadata: { ...metadata, generation: metadata.generation + 1 },
      spec: { ...this.node.spec, ...spec },
    };
  }

  apply(action: Action): void {
    switch (action.type) {
      case "create-pod":
        this.log.push(`create ${action.desired.target ?? ""}`);
        this.#create(action);
        break;
      case "annotate":
        this.log.push(`annotate ${movesOf(action.desired)}`);
        this.#order(action);
        this.#annotation(desiredAnnotation, JSON.stringify(action.desired));
        break;
      case "refresh-identity":
        this.log.push("refresh-identity");
        this.#annotation(identityHashAnnotation, action.hash);
        break;
      case "patch-image":
        this.log.push(`patch ${action.container}`);
        this.#image(action.container, action.image);
        break;
      case "delete-pod":
        this.log.push("delete");
        if (this.pod && action.uid === this.pod.metadata.uid) this.#terminate(action.graceSeconds);
        break;
      case "prefetch":
        this.log.push(`prefetch ${action.role}`);
        this.#prefetch(action);
        break;
      case "drop-prefetch":
        this.log.push("drop-prefetch");
        this.prefetches = this.prefetches.filter(({ uid }) => uid !== action.uid);
        break;
      case "resize":
        this.log.push("resize");
        this.#resize();
        break;
      case "recover":
        this.log.push(`recover ${action.step}`);
        break;
      case "look-at-host":
        this.log.push(`look at ${action.host}`);
        break;
      case "hasten":
        this.log.push(`hasten ${action.ms}`);
        break;
      case "rehearse-image":
      case "ask-agent":
      case "wait":
        break;
    }
  }

  #order({ desired, quiet }: Action & { type: "annotate" }): void {
    this.memories.ordered(this.node.metadata.name, this.#pod().metadata.uid, desired.revision, quiet);
  }

  get desired(): Desired {
    return parseDesired(this.#pod().metadata.annotations?.[desiredAnnotation] ?? "");
  }

  #pod(): DraftPod {
    if (!this.pod) throw new Error("there is no pod");
    return this.pod;
  }

  #change(edit: (pod: DraftPod) => void): void {
    const pod: DraftPod = structuredClone(this.#pod());
    edit(pod);
    pod.metadata.resourceVersion = String(++this.#versions);
    this.pod = pod;
  }

  #create(action: Action & { type: "create-pod" }): void {
    if (!this.config) throw new Error("a pod was created without a config");
    if (this.pod) throw new Error("a second pod was created");
    const draft = podOf({ node: this.node, config: this.config, drainToken: "token", ...action });
    const pod = {
      apiVersion: "v1",
      kind: "Pod",
      metadata: {
        ...draft.metadata,
        ownerReferences: [ownedBy(this.node)],
        uid: `pod-${++this.#pods}`,
        resourceVersion: String(++this.#versions),
        creationTimestamp: "2026-01-01T00:00:00Z",
      },
      spec: draft.spec,
      status: { phase: "Pending" },
    };
    this.pod = JSON.parse(JSON.stringify(pod));
    this.agent = { status: undefined, silentMs: 0, problem: "" };
  }

  #annotation(name: string, value: string): void {
    this.#change((pod) => (pod.metadata.annotations = { ...pod.metadata.annotations, [name]: value }));
  }

  #image(container: "agent" | "runtime", image: string): void {
    this.#change(({ spec }) => {
      for (const one of [...(spec?.initContainers ?? []), ...(spec?.containers ?? [])])
        if (one.name === container) one.image = image;
    });
  }

  #resize(): void {
    const { resources = {} } = this.node.spec.runtime;
    const hash = this.config ? podInputsHash(this.node, this.config) : "";
    this.#annotation(inputsHashAnnotation, hash);
    this.#annotation(resourcesAnnotation, JSON.stringify(resources));
  }

  #prefetch({ name, image, host }: Action & { type: "prefetch" }): void {
    if (this.prefetches.some((prefetch) => prefetch.name === name)) throw new Error(`a second ${name}`);
    const state = this.prefetchState;
    const said = state === "failed" ? "ErrImagePull" : "";
    const facts = { name, image, host, state, reason: said, message: said && "as the kubelet says" };
    const uid = `prefetch-${++this.#versions}`;
    this.prefetches = [
      ...this.prefetches,
      { ...facts, uid, byVolume: true, stalled: false, since: this.now },
    ];
  }

  /** As the API server does: another deletion may shorten the grace, counted from the first. */
  #terminate(graceSeconds = terminationGraceSeconds): void {
    if (graceSeconds === 0 || ["Failed", "Succeeded"].includes(this.#pod().status?.phase ?? "")) {
      this.pod = undefined;
      return;
    }
    const { deletionTimestamp, deletionGracePeriodSeconds: before } = this.#pod().metadata;
    if (before !== undefined && before <= graceSeconds) return;
    const began =
      deletionTimestamp === undefined ? this.now : Date.parse(deletionTimestamp) - (before ?? 0) * 1000;
    this.#change(({ metadata }) => {
      metadata.deletionTimestamp = new Date(began + graceSeconds * 1000).toISOString();
      metadata.deletionGracePeriodSeconds = graceSeconds;
    });
  }

  /** The kubelet has ended a pod that was being deleted. */
  kubeletRemoves(): void {
    if (!this.#pod().metadata.deletionTimestamp) throw new Error("the pod is not being deleted");
    this.pod = undefined;
    this.agent = { status: undefined, silentMs: 0, problem: "" };
  }

  /** Scheduled, agent up and asked for its config; the runtime follows with {@link kubeletRunsRuntime}. */
  kubeletRunsAgent(started = true): void {
    this.#change((pod) => {
      if (pod.spec) pod.spec.nodeName = "host-1";
      pod.status = {
        ...pod.status,
        phase: "Pending",
        podIP: "10.0.0.1",
        conditions: [{ type: "PodScheduled", status: "True" }],
        initContainerStatuses: [running("agent", pod.spec?.initContainers?.[0]?.image ?? "", started)],
      };
    });
  }

  /** The runtime container runs the image of the pod's spec. */
  kubeletRunsRuntime(ready: boolean): void {
    this.#change((pod) => {
      pod.status = {
        ...pod.status,
        phase: "Running",
        conditions: [
          { type: "PodScheduled", status: "True" },
          { type: "Ready", status: ready ? "True" : "False" },
        ],
        containerStatuses: [running("runtime", pod.spec?.containers[0]?.image ?? "", true)],
      };
    });
  }

  kubeletWaits(container: "agent" | "runtime", reason: string): void {
    this.#change((pod) => {
      const status = {
        ...running(container, "", false),
        imageID: "",
        state: { waiting: { reason, message: "as the kubelet says" } },
      };
      pod.status = {
        ...pod.status,
        conditions: [
          { type: "PodScheduled", status: "True" },
          { type: "Ready", status: "False" },
        ],
        ...(container === "agent" ? { initContainerStatuses: [status] } : { containerStatuses: [status] }),
      };
    });
  }

  /** The container has ended well, and the kubelet says no more of it. */
  kubeletEnds(container: "agent" | "runtime"): void {
    this.kubeletWaits(container, "");
    this.#change(({ status }) => {
      for (const one of [...(status?.initContainerStatuses ?? []), ...(status?.containerStatuses ?? [])])
        if (one.name === container) one.state = { terminated: { exitCode: 0, reason: "Completed" } };
    });
  }

  kubeletSays(status: NonNullable<DraftPod["status"]>): void {
    this.#change((pod) => (pod.status = { ...pod.status, ...status }));
  }

  /** The agent reads its annotation and says so; `changes` is what else is new. */
  agentAnswers(
    changes: {
      staged?: ConfigDigest;
      applied?: ConfigDigest | null;
      healthy?: boolean;
      error?: AgentStatus["config_error"];
    } = {},
  ): void {
    const { desired } = this;
    const last = this.agent.status?.report.config;
    const { staged = null, applied = last?.applied ?? null, healthy = true, error = null } = changes;
    this.agent = {
      silentMs: 0,
      problem: "",
      status: {
        nonce: "n",
        time: this.now,
        node_id: nodeId as NodeId,
        instance: "i",
        desired_revision: desired.revision,
        report: {
          agent_version: "0.1.0",
          engine: {
            type: "openai",
            version: "1.0",
            image: null,
            health: healthy ? "healthy" : "starting",
          },
          hardware: { cpus: 1, memory_mib: 1, gpus: [] },
          config: { applied, target: desired.target, staged, release_sequence: 1 },
          models: { installed: ["model-a"], active: ["model-a"] },
          load: { slots: 1, active: 0, accepting: true },
          subclouds: [],
        },
        config_error: error,
        drain: { state: "serving", jobs: 0, since: null },
        session: { connected: true, since: null, epoch: 1, last_error: null },
      },
    };
  }

  /** Takes the node from nothing to serving its config. */
  untilServing(): void {
    this.reconcile();
    this.kubeletRunsAgent();
    this.kubeletRunsRuntime(true);
    this.agentAnswers({ applied: this.desired.target });
    this.feed = {
      type: "node",
      node_id: nodeId as NodeId,
      kid: nodeId as unknown as NonNullable<NodeObservation["feed"]>["kid"],
      connected: true,
      since: this.now,
      epoch: 1,
      deprioritised_until: null,
      banned: null,
      generation: 0,
      revoked: false,
      conflict: null,
      config_applied: null,
      models_active: [],
      jobs_committed: 0,
      work: { config: null, completed: 0, failed: 0, duration_ms: 0 },
    };
    this.reconcile();
    this.log.length = 0;
  }

  condition(type: string): string {
    const found = this.node.status?.conditions?.find((one) => one.type === type);
    return found ? `${found.status} ${found.reason}` : "absent";
  }

  /** Hash that the pod should carry of its identity. */
  get identityHash(): string {
    return this.config ? identityInputsHash(this.config, undefined) : "";
  }
}

function movesOf({ stage, target, plannedStop }: Desired): string {
  return `stage=${stage ?? "-"} target=${target ?? "-"} stop=${plannedStop ?? "-"}`;
}

function running(name: string, image: string, started: boolean): ContainerStatus {
  return {
    name,
    image,
    imageID: image,
    ready: started,
    restartCount: 0,
    started,
    state: { running: { startedAt: "2026-01-01T00:00:00Z" } },
  };
}
