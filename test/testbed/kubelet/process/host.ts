import type { Random } from "../../../../src/lib/backoff.ts";
import type { Clock } from "../../../../src/lib/clock.ts";
import type { Logger } from "../../../../src/lib/logger.ts";
import type { Addresses } from "./addresses.ts";
import type { Api } from "./api.ts";
import type { ContainerBackend } from "./backend.ts";
import type { CrashLoopOptions } from "./crash-loop.ts";
import type { PodEvents } from "./events.ts";
import type { GpuSlots } from "./gpus.ts";
import type { ImageStore } from "./images.ts";

/** What all pods of one virtual host share. */
export interface Host {
  readonly name: string;
  readonly api: Api;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly events: PodEvents;
  readonly images: ImageStore;
  readonly gpus: GpuSlots;
  readonly addresses: Addresses;
  readonly backend: ContainerBackend;
  /** Waits between restarts of a container and between pulls of an image. */
  readonly crashLoop: CrashLoopOptions;
  /** Milliseconds between two syncs of a pod that nobody touched, which read its volumes anew. */
  readonly syncPeriodMs: number;
}
