import type { NodeObservation } from "../observation.ts";
import type { Action, Note } from "../plan.ts";

/** An image that does not begin to come now, for want of room on its host or of knowing about it. */
export interface NoRoom {
  readonly actions: readonly Action[];
  readonly note: Note;
}

/** For how long what an agent said of the disk counts, and when to look again at one that is full. Milliseconds. */
const freshMs = 25_000;
const againMs = 30_000;
/** When to look whether the agent has answered. */
const answerMs = 1_000;

const gib = 2 ** 30;
/** Steps in which free bytes are told: each other text is a write to the API server. */
const stepBytes = 2 ** 28;

/**
 * Whether a host has too little free disk for one more image, as its node's agent says: its container's own root lies where
 * the host keeps images. A kubelet that runs out of disk evicts pods, and the engine with them, so the rollout stops before.
 * Undefined = it may come: there is room, no limit is set, or the agent is too old to know.
 */
export function noRoomFor(o: NodeObservation, image: string): NoRoom | undefined {
  const { minFreeBytes, host } = { ...o.host, host: o.pod?.host ?? "" };
  if (minFreeBytes === undefined) return undefined;
  const disk = o.agent.status?.image_disk;
  const fresh = (o.agent.ageMs ?? Number.POSITIVE_INFINITY) < freshMs;
  if (fresh && (!disk || disk.free >= minFreeBytes)) return undefined;
  const reason = `how much disk has host ${host} free?`;
  const actions: readonly Action[] = fresh
    ? [{ type: "wait", ms: againMs, reason }]
    : [
        { type: "ask-agent", reason },
        { type: "wait", ms: answerMs, reason },
      ];
  // While it is asked again, what it said before is not taken back.
  const note: Note =
    disk && disk.free < minFreeBytes
      ? { status: "False", reason: "HostDiskFull", message: fullMessage(o, image, disk, minFreeBytes) }
      : {
          status: "False",
          reason: "Staging",
          message: `the agent is asked how much disk host ${host} has free, before that fetches an image`,
        };
  return { actions, note };
}

function fullMessage(
  { node, pod }: NodeObservation,
  image: string,
  { free, total }: { readonly free: number; readonly total: number },
  needed: number,
): string {
  const bytes = (count: number) => `${count} bytes (${(count / gib).toFixed(1)} GiB)`;
  const told = Math.floor(free / stepBytes) * stepBytes;
  return `host ${pod?.host ?? ""} of node ${node.metadata.name} has ${bytes(told)} of ${bytes(total)} free where it keeps images, and strategy.rollingUpdate.prefetch.minFreeDisk wants ${bytes(needed)} before it fetches ${image}: the node stays as it is and serves on; remove what fills the disk (\`crictl rmi --prune\` on the host), or lower minFreeDisk if the image is small`;
}
