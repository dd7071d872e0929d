import type { Pod } from "../../../kube/resources.ts";
import { prefetchImageAnnotation } from "../../names.ts";
import { containerFacts, pullFails, startFails } from "../facts.ts";

/** Container of a prefetch, and the volume that holds the image. */
export const holdContainer = "hold";
export const heldVolume = "held";

/** A pod that brings one image to one host, as far as it matters here. */
export interface PrefetchFacts {
  readonly name: string;
  readonly uid: string;
  /** The reference that it was made for; a webhook may have rewritten the one in its spec. */
  readonly image: string;
  readonly host: string;
  /** Holds the image by an image volume; else by a command that is run from it. */
  readonly byVolume: boolean;
  /**
   * `present`: the host has the image. `coming`: it is pulled. `failed`: it cannot be pulled; the kubelet tries on.
   * `ended`: the pod was ended from outside (refused by the host, evicted) and does nothing more. `going`: it is being deleted.
   */
  readonly state: "present" | "coming" | "failed" | "ended" | "going";
  /** The kubelet's words for `failed` and `ended`. */
  readonly reason: string;
  readonly message: string;
  /** The host has not even set it up: what it mounts is not there, or the host does not know such volumes. */
  readonly stalled: boolean;
  /** When it was created, ms. */
  readonly since: number;
}

/** Reads the facts of a prefetch. */
export function prefetchFacts({ metadata, spec, status }: Pod): PrefetchFacts {
  const container = containerFacts(
    "",
    status?.containerStatuses?.find(({ name }) => name === holdContainer),
  );
  const ended = status?.phase === "Failed" && Boolean(status.reason);
  // One that could not be started was pulled before: an image without a shell, or a runtime that takes no image volumes.
  const present = container.state === "running" || container.state === "terminated" || startFails(container);
  const sandbox = status?.conditions?.find(({ type }) => type === "PodReadyToStartContainers");
  return {
    name: metadata.name,
    uid: metadata.uid,
    image: metadata.annotations?.[prefetchImageAnnotation] ?? "",
    host: spec?.nodeName ?? "",
    byVolume: spec?.volumes?.some(({ name }) => name === heldVolume) ?? false,
    state:
      metadata.deletionTimestamp !== undefined
        ? "going"
        : ended
          ? "ended"
          : present
            ? "present"
            : pullFails(container)
              ? "failed"
              : "coming",
    reason: ended ? (status.reason ?? "") : container.reason,
    message: ended ? (status.message ?? "") : container.message,
    stalled: sandbox?.status === "False" && container.state !== "running",
    since: Date.parse(metadata.creationTimestamp),
  };
}
