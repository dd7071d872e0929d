import { setTimeout as wait } from "node:timers/promises";
import type { ResultityNode } from "../../src/api/v1alpha1/node.ts";
import { isNodeReady, type Loop, type PodObject } from "./loop.ts";

/** What was seen of one node, by wall time in ms; the last occurrence of each. */
export interface NodeHistory {
  readonly name: string;
  readonly uids: Set<string>;
  /** Digest → when the node was first seen Ready with it applied. */
  readonly readyWith: Map<string, number>;
  gone: number | undefined;
}

/** Watches nodes and pods by polling, independently of the operator, until stopped. */
export class Timeline {
  readonly nodes = new Map<string, NodeHistory>();
  /** Fewest nodes that were Ready at once since {@link resetFloor}. */
  floor = Number.POSITIVE_INFINITY;
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;

  constructor(loop: Loop) {
    this.#running = this.#run(loop);
  }

  resetFloor(): void {
    this.floor = Number.POSITIVE_INFINITY;
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.#running;
  }

  async #run(loop: Loop): Promise<void> {
    while (!this.#stop.signal.aborted) {
      try {
        this.#note(await loop.nodes(), await loop.pods(), Date.now());
      } catch {
        // The API server may be away for a moment in tests that kill it: the next look tells.
      }
      await wait(200);
    }
  }

  #note(nodes: readonly ResultityNode[], pods: readonly PodObject[], now: number): void {
    this.floor = Math.min(this.floor, nodes.filter(isNodeReady).length);
    for (const node of nodes) {
      const { name } = node.metadata;
      const history = this.nodes.get(name) ?? {
        name,
        uids: new Set(),
        readyWith: new Map(),
        gone: undefined,
      };
      this.nodes.set(name, history);
      history.gone = undefined;
      const pod = pods.find(({ metadata }) => metadata.name === name);
      if (pod) history.uids.add(pod.metadata.uid);
      const applied = node.status?.config?.applied;
      if (applied !== undefined && isNodeReady(node) && !history.readyWith.has(applied))
        history.readyWith.set(applied, now);
    }
    const names = new Set(nodes.map(({ metadata }) => metadata.name));
    for (const history of this.nodes.values()) {
      if (!names.has(history.name)) history.gone ??= now;
    }
  }
}
