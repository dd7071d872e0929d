import { type Clock, sleep } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import type { Logger } from "../../../../src/lib/logger.ts";
import type { Api, WatchEvent } from "./api.ts";
import type { Pod } from "./types.ts";

/** Told what the API server says about this host's pods. */
export interface PodHandler {
  /** The pods that there are; whatever is not among them is gone. */
  all(pods: readonly Pod[]): void;
  changed(pod: Pod): void;
  deleted(pod: Pod): void;
}

interface PodList {
  readonly metadata: { readonly resourceVersion: string };
  readonly items: readonly Pod[];
}

const retryMs = 500;
const watchSeconds = 240;

/** Pods that are bound to a host; default: to any. */
export function boundPods(hostName?: string): string {
  const bound = hostName === undefined ? "spec.nodeName!=" : `spec.nodeName=${hostName}`;
  return `/api/v1/pods?fieldSelector=${encodeURIComponent(bound)}`;
}

/**
 * Lists and watches pods until `signal` aborts; begins anew after every error.
 *
 * @param which path of the list with a query, such as {@link boundPods}
 */
export async function watchPods(
  api: Api,
  which: string,
  handler: PodHandler,
  { clock, log }: { readonly clock: Clock; readonly log: Logger },
  signal: AbortSignal,
): Promise<void> {
  let version = "";
  while (!signal.aborted) {
    try {
      if (version === "") {
        const list = await api.get<PodList>(which, { signal });
        handler.all(list.items);
        version = list.metadata.resourceVersion;
      }
      const query = `watch=true&allowWatchBookmarks=true&timeoutSeconds=${watchSeconds}&resourceVersion=${version}`;
      await api.watch(
        `${which}&${query}`,
        (event) => {
          version = take(event, handler);
        },
        signal,
      );
    } catch (thrown) {
      if (signal.aborted) return;
      version = "";
      log.debug({ which, why: messageOf(thrown) }, "pod watch broke, listing again");
      await sleep(clock, retryMs, signal);
    }
  }
}

/** Hands on one event and returns the version to go on from. */
function take(event: WatchEvent, handler: PodHandler): string {
  if (event.type === "ERROR" || !isPod(event.object)) {
    throw new Error(`watch ended: ${JSON.stringify(event.object).slice(0, 200)}`);
  }
  const pod = event.object;
  if (event.type === "DELETED") handler.deleted(pod);
  else if (event.type !== "BOOKMARK") handler.changed(pod);
  return pod.metadata.resourceVersion ?? "";
}

/** The API server's word is taken for the rest: this is a pod when it calls itself one. */
function isPod(object: unknown): object is Pod {
  return typeof object === "object" && object !== null && "kind" in object && object.kind === "Pod";
}
