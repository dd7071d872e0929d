import { findCondition } from "../../../api/v1alpha1/conditions.ts";
import type { PodFacts } from "../facts.ts";
import type { NodeObservation } from "../observation.ts";
import type { Action, Note } from "../plan.ts";
import type { PrefetchFacts } from "./facts.ts";
import { noRoomFor } from "./disk.ts";
import { prefetchName } from "./pod.ts";

/** What is known of the images of a host. */
export interface HostView {
  /** Images that other nodes' containers run there, as their pods name them: they stay as long as those run. */
  readonly images: readonly string[];
  readonly prefetches: readonly PrefetchFacts[];
  /** Whether one more image may be fetched now: not too many are on their way to the hosts of the network. */
  readonly room: boolean;
  /** False where an image volume was seen not to work. */
  readonly volumes: boolean;
  /** Least that a host must have free to begin to fetch an image; undefined = that is not asked for. */
  readonly minFreeBytes?: number | undefined;
}

/** For who plans without a host, or cannot see it. */
export const emptyHost: HostView = { images: [], prefetches: [], room: true, volumes: true };

/** Whether an image is on the node's host. */
export type Fetched =
  | { readonly ok: true; readonly image: string }
  | { readonly ok: false; readonly actions: readonly Action[]; readonly note: Note };

/** How long one that ended by itself rests before it is made again, and when to look again for room. */
const endedMs = 60_000;
const roomMs = 5_000;
/** A host that has not set up an image volume by then does not know them. */
const volumeMs = 60_000;

/**
 * Sees to it that a host has an image before a container is stopped for it: the kubelet would pull only afterwards. A node whose
 * engine does not run has nothing to lose and is told that it has it.
 *
 * @param places where the image is to be had, in the order in which they are tried.
 */
export function fetchImage(
  o: NodeObservation,
  pod: PodFacts,
  role: "agent" | "runtime",
  places: readonly [string, ...string[]],
): Fetched {
  const { host } = pod;
  if (host === undefined || pod.runtime.state !== "running") return { ok: true, image: places[0] };
  const there = places.find((place) => o.host.images.includes(place));
  if (there !== undefined) return { ok: true, image: there };
  let failed: Note | undefined;
  for (const image of places) {
    const name = prefetchName({ node: o.node, host, role, image });
    const seen = o.host.prefetches.find((prefetch) => prefetch.name === name);
    const about = `host ${host} fetches the new ${role} image ${image} (pod ${name}) while the node serves on`;
    if (!seen) {
      // The next place takes the room of the one before.
      if (!o.host.room && !failed) {
        const reason = "as many other images are being fetched as strategy.rollingUpdate.prefetch allows";
        return { ok: false, actions: [{ type: "wait", ms: roomMs, reason }], note: staging(reason) };
      }
      const noRoom = noRoomFor(o, image);
      if (noRoom) return { ok: false, ...noRoom };
      const make: Action = { type: "prefetch", role, image, host, name, reason: about };
      return { ok: false, actions: [make], note: staging(about) };
    }
    switch (seen.state) {
      case "present":
        return { ok: true, image };
      case "going": {
        const wait: Action = { type: "wait", ms: 1_000, reason: `pod ${name} of before is being deleted` };
        return { ok: false, actions: [wait], note: staging(about) };
      }
      case "coming":
        return { ok: false, actions: hurry(o, seen), note: staging(about) };
      case "ended":
        return { ok: false, actions: again(o, seen), note: failedNote(o, role, seen) };
      case "failed":
        failed = failedNote(o, role, seen);
    }
  }
  return { ok: false, actions: [], note: failed ?? staging("") };
}

const staging = (message: string): Note => ({ status: "False", reason: "Staging", message });

function drop(seen: PrefetchFacts, reason: string): Action {
  const { name, uid, host, byVolume } = seen;
  return { type: "drop-prefetch", name, uid, noVolumes: byVolume && seen.stalled ? host : undefined, reason };
}

function hurry(o: NodeObservation, seen: PrefetchFacts): readonly Action[] {
  if (!seen.byVolume || !seen.stalled) return [];
  const left = seen.since + volumeMs - o.now;
  if (left > 0) return [{ type: "wait", ms: left, reason: `does host ${seen.host} know image volumes?` }];
  return [drop(seen, `host ${seen.host} does not set up an image volume; the image is run instead`)];
}

function again(o: NodeObservation, seen: PrefetchFacts): readonly Action[] {
  const left = seen.since + endedMs - o.now;
  if (left > 0) return [{ type: "wait", ms: left, reason: `pod ${seen.name} ended: ${seen.reason}` }];
  return [drop(seen, `it ended (${seen.reason}): it is made again`)];
}

function failedNote({ node }: NodeObservation, role: string, seen: PrefetchFacts): Note {
  const { host, image, reason, message } = seen;
  const last = findCondition(node.status?.conditions, "ConfigApplied");
  const about = `host ${host} cannot get the new ${role} image ${image}`;
  // Between two tries the kubelet says only that it waits: what it said before tells more.
  const said =
    reason === "ImagePullBackOff" && last?.reason === "PrefetchFailed" && last.message.startsWith(about)
      ? last.message
      : `${about} (${reason}${message ? `: ${message}` : ""}), so the node stays as it is and serves on: check that the registry has the image and that spec.podOverrides.imagePullSecrets lets the host pull it, or change the config`;
  return { status: "False", reason: "PrefetchFailed", message: said };
}
