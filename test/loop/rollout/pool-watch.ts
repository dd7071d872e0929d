import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../../src/api/v1alpha1/pool.ts";
import type { KubeObject } from "../../testbed/kube-json.ts";
import { isNodeReady, type Loop, namespace, type PodObject, poolName } from "../loop.ts";
import { until } from "../../testbed/until.ts";
import type { Capacity } from "./capacity.ts";
import { Watch } from "../watch.ts";

/** What the operator says of a node is by then of what it is, not of what it was when it was looked at. Ms. */
const settledMs = 3_000;

/** A pod of a node with its images. */
interface RolledPod extends PodObject {
  readonly spec: PodObject["spec"] & { readonly containers: readonly { readonly image: string }[] };
}

/** What the pool has said of its update, each different text once. */
export interface Saying {
  readonly at: number;
  readonly target: string | undefined;
  readonly reason: string;
  readonly message: string;
}

/** Follows a pool, its nodes and their pods by watches of its own, and tells `capacity` what it sees. */
export class PoolWatch {
  readonly nodes = new Map<string, ResultityNode>();
  readonly pods = new Map<string, RolledPod>();
  readonly sayings: Saying[] = [];
  /** Pods that were deleted, and why that is not right. */
  readonly problems: string[] = [];
  /** All targets that the pool has had. It says so once its nodes have been told. */
  readonly targets = new Set<string>();
  /** Image of a runtime → node → wall time, ms, at which its pod was given it first. */
  readonly given = new Map<string, Map<string, number>>();
  /** Config → node → wall time, ms, at which it was told to go there first. */
  readonly told = new Map<string, Map<string, number>>();
  pool: ResultityNodePool | undefined;
  /** What was last seen of each node, for who has to find out why it was wrong. */
  readonly #seen = new Map<string, string[]>();
  readonly #capacity: Capacity;
  readonly #watches: readonly Pick<Watch<KubeObject>, "open" | "close" | "problem">[];

  private constructor(kubeconfig: string, capacity: Capacity) {
    this.#capacity = capacity;
    const ours = `/apis/resultity.com/v1alpha1/namespaces/${namespace}`;
    this.#watches = [
      new Watch<ResultityNodePool>(kubeconfig, `${ours}/resultitynodepools`, (_change, pool, at) =>
        this.#pool(pool, at),
      ),
      new Watch<RolledPod>(kubeconfig, `/api/v1/namespaces/${namespace}/pods`, (change, pod, at) =>
        this.#pod(change, pod, at),
      ),
      new Watch<ResultityNode>(kubeconfig, `${ours}/resultitynodes`, (_change, node, at) => {
        this.nodes.set(node.metadata.name, node);
        note(this.told, node.status?.config?.target, node.metadata.name, at);
        this.#see(node.metadata.name, at);
      }),
    ];
  }

  static async open(loop: Loop, capacity: Capacity): Promise<PoolWatch> {
    const watch = new PoolWatch(loop.bed.adminKubeconfig, capacity);
    // Pods before nodes: a node is looked at together with its pod.
    for (const each of watch.#watches) await each.open();
    return watch;
  }

  /** Ends it. @throws Error if it has missed events */
  async close(): Promise<void> {
    const broken = this.#watches.flatMap(({ problem }) => problem ?? []);
    await Promise.all(this.#watches.map((watch) => watch.close()));
    if (broken.length > 0) throw new Error(broken.join("; "));
  }

  #pool(pool: ResultityNodePool, at: number): void {
    if (pool.metadata.name !== poolName) return;
    this.pool = pool;
    const target = pool.status?.rollout?.target;
    if (target !== undefined) this.targets.add(target);
    const said = pool.status?.conditions?.find(({ type }) => type === "Progressing");
    if (!said || this.sayings.at(-1)?.message === said.message) return;
    this.sayings.push({ at, target, reason: said.reason, message: said.message });
  }

  #pod(type: string, pod: RolledPod, at: number): void {
    const { name, labels } = pod.metadata;
    if (labels?.["resultity.com/node"] === undefined) return;
    if (type === "DELETED") {
      this.pods.delete(name);
      this.problems.push(`pod ${name} was deleted`);
    } else this.pods.set(name, pod);
    note(this.given, pod.spec.containers[0]?.image, name, at);
    this.#see(name, at);
  }

  #see(name: string, at: number): void {
    const node = this.nodes.get(name);
    if (!node) return;
    const { config, observedGeneration } = node.status ?? {};
    const view = {
      available: isNodeReady(node) && this.#podReady(name),
      moving:
        (config?.target !== undefined && config.applied !== config.target) ||
        observedGeneration !== node.metadata.generation,
    };
    const { problems } = this.#capacity;
    const before = problems.length;
    this.#capacity.see(name, view, at);
    const seen = this.#note(name, node, at);
    for (let n = before; n < problems.length; n++) problems[n] += `; seen before: ${seen.join(" | ")}`;
  }

  #note(name: string, node: ResultityNode, at: number): readonly string[] {
    const { conditions, config } = node.status ?? {};
    const pod = this.pods.get(name);
    const versions = `node ${node.metadata.resourceVersion} pod ${pod?.metadata.resourceVersion}`;
    const said = conditions?.find(({ type }) => type === "Ready");
    const ready = `Ready ${said?.status} ${said?.reason}, pod ready ${this.#podReady(name)}`;
    const seen = this.#seen.get(name) ?? [];
    seen.push(
      `${at} ${versions}: ${ready}, ${config?.applied?.slice(-6)} of ${config?.target?.slice(-6)}, ${pod?.spec.containers[0]?.image.slice(-6)}`,
    );
    this.#seen.set(name, seen.slice(-12));
    return seen;
  }

  #podReady(name: string): boolean {
    const pod = this.pods.get(name);
    if (!pod || pod.metadata.deletionTimestamp !== undefined) return false;
    return pod.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
  }

  /** How often a node's agent was started again, as its pod says. */
  agentRestarts(name: string): number {
    const agents = this.pods.get(name)?.status?.initContainerStatuses ?? [];
    return agents.find((container) => container.name === "agent")?.restartCount ?? 0;
  }

  /** Resolves when a node whose agent has been started again so often serves, and what was said of it before has come. */
  async untilServing(name: string, restarts: number, deadlineMs: number): Promise<void> {
    let since: number | undefined;
    await until(
      `${name} to serve with its agent`,
      () => {
        const node = this.nodes.get(name);
        const serves =
          node !== undefined &&
          isNodeReady(node) &&
          this.#podReady(name) &&
          this.agentRestarts(name) >= restarts;
        since = serves ? (since ?? performance.now()) : undefined;
        return since !== undefined && performance.now() - since > settledMs;
      },
      { deadlineMs, intervalMs: 50 },
    );
  }

  /** Nodes that have applied a config. */
  applied(digest: string): readonly string[] {
    return [...this.nodes.values()]
      .filter(({ status }) => status?.config?.applied === digest)
      .map(({ metadata }) => metadata.name);
  }

  /** Nodes on a host. */
  on(host: string): readonly string[] {
    return [...this.pods.values()]
      .filter(({ spec }) => spec.nodeName === host)
      .map(({ metadata }) => metadata.name);
  }
}

/** Notes the first time of something at a node. */
function note(
  times: Map<string, Map<string, number>>,
  what: string | undefined,
  node: string,
  at: number,
): void {
  if (what === undefined) return;
  const of = times.get(what) ?? new Map<string, number>();
  times.set(what, of);
  if (!of.has(node)) of.set(node, at);
}
