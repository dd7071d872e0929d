import type { Random } from "../../../../src/lib/backoff.ts";
import type { Clock } from "../../../../src/lib/clock.ts";
import type { Logger } from "../../../../src/lib/logger.ts";
import type { HostAddresses } from "./addresses.ts";
import type { Api } from "./api.ts";
import type { CrashLoopOptions } from "./crash-loop.ts";
import type { PodEvents } from "./events.ts";
import type { GpuSlots } from "./gpus.ts";
import type { ImageStore } from "./images.ts";
import type { Isolation } from "./isolation.ts";

/** What all pods of one virtual host share. */
export interface Host {
  readonly name: string;
  /** Folder of the kubelet: `pods` (logs), `volumes`, `memory`, `run`. */
  readonly dir: string;
  readonly api: Api;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly events: PodEvents;
  readonly images: ImageStore;
  readonly gpus: GpuSlots;
  readonly addresses: HostAddresses;
  readonly isolation: Isolation;
  /** Waits between restarts of a container and between pulls of an image. */
  readonly crashLoop: CrashLoopOptions;
  /** Milliseconds between two syncs of a pod that nobody touched, which read its volumes anew. */
  readonly syncPeriodMs: number;
}
