import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../../src/api/v1alpha1/pool.ts";
import { isNodeReady, type Loop, namespace, type PodObject, poolName } from "../loop.ts";
import type { Capacity } from "./capacity.ts";
import { type OpenWatch, watchAll } from "./watch.ts";

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
  readonly pods = new Map<string, PodObject>();
  readonly sayings: Saying[] = [];
  /** Pods that were deleted, and why that is not right. */
  readonly problems: string[] = [];
  /** Target of the pool → wall time, ms, at which it said so first. */
  readonly targets = new Map<string, number>();
  pool: ResultityNodePool | undefined;
  readonly #capacity: Capacity;
  #watches: readonly OpenWatch[] = [];

  private constructor(capacity: Capacity) {
    this.#capacity = capacity;
  }

  static async open(loop: Loop, capacity: Capacity): Promise<PoolWatch> {
    const watch = new PoolWatch(capacity);
    const ours = `/apis/resultity.com/v1alpha1/namespaces/${namespace}`;
    const { adminKubeconfig } = loop.bed;
    watch.#watches = await Promise.all([
      watchAll<ResultityNodePool & { metadata: { name: string } }>(
        adminKubeconfig,
        `${ours}/resultitynodepools`,
        (_type, pool, at) => watch.#pool(pool, at),
      ),
      watchAll<PodObject>(adminKubeconfig, `/api/v1/namespaces/${namespace}/pods`, (type, pod, at) =>
        watch.#pod(type, pod, at),
      ),
      watchAll<ResultityNode>(adminKubeconfig, `${ours}/resultitynodes`, (_type, node, at) => {
        watch.nodes.set(node.metadata.name, node);
        watch.#see(node.metadata.name, at);
      }),
    ]);
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
    if (target !== undefined && !this.targets.has(target)) this.targets.set(target, at);
    const said = pool.status?.conditions?.find(({ type }) => type === "Progressing");
    if (!said || this.sayings.at(-1)?.message === said.message) return;
    this.sayings.push({ at, target, reason: said.reason, message: said.message });
  }

  #pod(type: string, pod: PodObject, at: number): void {
    const { name, labels } = pod.metadata;
    if (labels?.["resultity.com/node"] === undefined) return;
    if (type === "DELETED") {
      this.pods.delete(name);
      this.problems.push(`pod ${name} was deleted`);
    } else this.pods.set(name, pod);
    this.#see(name, at);
  }

  #see(name: string, at: number): void {
    const node = this.nodes.get(name);
    if (!node) return;
    const { config, observedGeneration } = node.status ?? {};
    this.#capacity.see(
      name,
      {
        available: isNodeReady(node) && this.#podReady(name),
        moving:
          (config?.target !== undefined && config.applied !== config.target) ||
          observedGeneration !== node.metadata.generation,
      },
      at,
    );
  }

  #podReady(name: string): boolean {
    const pod = this.pods.get(name);
    if (!pod || pod.metadata.deletionTimestamp !== undefined) return false;
    return pod.status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True") ?? false;
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
