import { messageOf } from "../../src/lib/errors.ts";
import type { KubeObject } from "../testbed/kube-json.ts";
import { Api } from "../testbed/kubelet/process/api.ts";

interface List<T> {
  readonly metadata: { readonly resourceVersion: string };
  readonly items: readonly T[];
}

/** What has happened to an object, and when it was heard of (wall time, ms). Objects that were there are added. */
export type Hear<T> = (change: "ADDED" | "MODIFIED" | "DELETED", object: T, at: number) => void;

/**
 * Tells of each object of a collection as it is, and of each change of it, in order. One watch, never begun anew: who counts
 * what happens must not miss anything. Not the project's own client, so that a fault there cannot hide.
 */
export class Watch<T extends KubeObject> {
  /** What has ended it before it was closed: then events were missed. */
  problem: string | undefined;
  readonly #api: Api;
  readonly #path: string;
  readonly #hear: Hear<T>;
  readonly #closed = new AbortController();
  #running: Promise<void> = Promise.resolve();

  /** @param path of the collection, without a query */
  constructor(kubeconfig: string, path: string, hear: Hear<T>) {
    this.#api = new Api(kubeconfig);
    this.#path = path;
    this.#hear = hear;
  }

  /** Resolves when it has told of what is there. */
  async open(): Promise<void> {
    const { metadata, items } = await this.#api.get<List<T>>(this.#path);
    for (const item of items) this.#hear("ADDED", item, Date.now());
    this.#running = this.#run(metadata.resourceVersion);
  }

  async close(): Promise<void> {
    this.#closed.abort();
    await this.#running;
    this.#api.close();
  }

  async #run(resourceVersion: string): Promise<void> {
    const query = `watch=true&timeoutSeconds=3600&resourceVersion=${resourceVersion}`;
    const { signal } = this.#closed;
    let why = "it ended";
    try {
      await this.#api.watch(
        `${this.#path}?${query}`,
        ({ type, object }) => {
          if (type === "ERROR") this.problem ??= `${this.#path}: ${JSON.stringify(object).slice(0, 300)}`;
          else if (type !== "BOOKMARK") this.#hear(type, object as T, Date.now());
        },
        signal,
      );
    } catch (thrown) {
      why = messageOf(thrown);
    }
    if (!signal.aborted) this.problem ??= `the watch of ${this.#path} is over: ${why}`;
  }
}
