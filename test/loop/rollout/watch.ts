import { Api } from "../../testbed/kubelet/process/api.ts";
import { messageOf } from "../../../src/lib/errors.ts";
import type { KubeObject } from "../../testbed/kube-json.ts";

interface List<T> {
  readonly metadata: { readonly resourceVersion: string };
  readonly items: readonly T[];
}

/** A watch that runs until it is closed. */
export interface OpenWatch {
  /** What has ended it before it was closed: then events were missed. */
  readonly problem: string | undefined;
  close(): Promise<void>;
}

/**
 * Tells of each object of a collection as it is, and of each change of it, in order. One watch, never begun anew: who counts
 * what happens must not miss anything. Not the project's own client, so that a fault there cannot hide.
 *
 * @param path of the collection, without a query
 */
export async function watchAll<T extends KubeObject>(
  kubeconfig: string,
  path: string,
  onEvent: (type: "ADDED" | "MODIFIED" | "DELETED", object: T, at: number) => void,
): Promise<OpenWatch> {
  const api = new Api(kubeconfig);
  const closed = new AbortController();
  const { metadata, items } = await api.get<List<T>>(path);
  for (const item of items) onEvent("ADDED", item, Date.now());
  let problem: string | undefined;
  const query = `watch=true&timeoutSeconds=3600&resourceVersion=${metadata.resourceVersion}`;
  const running = api
    .watch(
      `${path}?${query}`,
      ({ type, object }) => {
        if (type === "ERROR") problem ??= `${path}: ${JSON.stringify(object).slice(0, 300)}`;
        else if (type !== "BOOKMARK") onEvent(type, object as T, Date.now());
      },
      closed.signal,
    )
    .then(() => closed.signal.aborted || (problem ??= `the watch of ${path} ended`))
    .catch((thrown: unknown) => {
      if (!closed.signal.aborted) problem ??= `the watch of ${path} broke: ${messageOf(thrown)}`;
    });
  return {
    get problem() {
      return problem;
    },
    async close() {
      closed.abort();
      await running;
      api.close();
    },
  };
}
