import type { Random } from "../../../../src/lib/backoff.ts";
import type { Clock } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import type { Logger } from "../../../../src/lib/logger.ts";
import type { Addresses } from "../process/addresses.ts";
import type { Api } from "../process/api.ts";
import type { CrashLoopOptions } from "../process/crash-loop.ts";
import { PodEvents } from "../process/events.ts";
import { GpuSlots } from "../process/gpus.ts";
import type { Host } from "../process/host.ts";
import { HostPods, type RunningContainer } from "../process/host-pods.ts";
import { ImageStore, type MemoryImage } from "../process/images.ts";
import type { PodIdentity } from "../process/logs.ts";
import { type HostShape, keepNode, registerNode } from "../process/node.ts";
import type { Pod } from "../process/types.ts";
import { MemoryBackend } from "./backend.ts";

/** A container that a test may kill. */
export interface KillableContainer extends RunningContainer {
  readonly host: string;
  /** SIGKILL to its program. */
  kill(): void;
}

/** Finds an image that a host is to pull; undefined when it cannot be pulled there. */
export type MemoryImageResolver = (
  reference: string,
  host: string,
) => MemoryImage | undefined | Promise<MemoryImage | undefined>;

/** What the hosts of a fleet have in common. */
export interface FleetShared {
  readonly api: Api;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Logger;
  readonly images: MemoryImageResolver;
  readonly crashLoop: CrashLoopOptions;
  readonly syncPeriodMs: number;
  readonly leaseMs: number;
  readonly events: "all" | "warnings";
  readonly shape: HostShape;
  /** The pods bound to a host, as the fleet knows them. */
  readonly podsOf: (host: string) => readonly Pod[];
}

/** One boot of a host. */
interface Boot {
  readonly pods: HostPods;
  readonly host: Host;
  readonly events: PodEvents;
  readonly off: AbortController;
  /** Keeps its Node fresh. */
  beating: Promise<void>;
}

/** A host in memory. Its disk, that is volumes and pulled images, outlives power cuts. */
export class MemoryHost {
  readonly name: string;
  readonly #shared: FleetShared;
  readonly #addresses: Addresses;
  readonly #backend = new MemoryBackend();
  readonly #images: ImageStore;
  #boot: Boot | undefined;

  constructor(name: string, addresses: Addresses, shared: FleetShared) {
    this.name = name;
    this.#addresses = addresses;
    this.#shared = shared;
    this.#images = new ImageStore((reference) => shared.images(reference, name), shared.clock);
  }

  get up(): boolean {
    return this.#boot !== undefined;
  }

  /** Starts it; resolves when its Node is registered. Nothing happens while it is up. */
  async boot(): Promise<void> {
    if (this.#boot) return;
    const { api, clock, random, log, crashLoop, syncPeriodMs, shape } = this.#shared;
    const off = new AbortController();
    const events = new PodEvents(api, this.name, clock, log, this.#shared.events);
    const host: Host = {
      name: this.name,
      api,
      clock,
      random,
      log,
      events,
      images: this.#images,
      gpus: new GpuSlots(shape.gpus?.count ?? 0),
      addresses: this.#addresses,
      backend: this.#backend,
      crashLoop,
      syncPeriodMs,
    };
    const boot: Boot = { pods: new HostPods(host), host, events, off, beating: Promise.resolve() };
    this.#boot = boot;
    await registerNode(host, shape, off.signal);
    // The power may be gone again.
    if (off.signal.aborted) return;
    boot.beating = keepNode(host, shape, off.signal, this.#shared.leaseMs).catch((thrown: unknown) =>
      log.error({ host: this.name, why: messageOf(thrown) }, "node lease ended"),
    );
    boot.pods.all(this.#shared.podsOf(this.name));
  }

  /** Loses its power: every container is gone at once and the API server hears nothing. Nothing happens while it is off. */
  async crash(): Promise<void> {
    const boot = this.#boot;
    this.#boot = undefined;
    if (!boot) return;
    boot.off.abort();
    boot.events.close();
    await boot.pods.crash();
    await boot.beating;
  }

  /** Ends a pod for want of resources of the host: phase Failed, reason Evicted. @throws Error for a pod that is not here */
  evict(pod: PodIdentity, message: string): void {
    if (!this.#boot) throw new Error(`host ${this.name} is off`);
    this.#boot.pods.evict(pod, message);
  }

  /** Whether an image has been pulled. */
  hasImage(reference: string): boolean {
    return this.#images.has(reference);
  }

  /** Containers that run now. */
  containers(): KillableContainer[] {
    const { pods } = this.#boot ?? {};
    return (pods?.containers() ?? []).map((container) => ({
      ...container,
      host: this.name,
      kill: () => this.#backend.kill(container.pid),
    }));
  }

  all(pods: readonly Pod[]): void {
    this.#boot?.pods.all(pods);
  }

  changed(pod: Pod): void {
    this.#boot?.pods.changed(pod);
  }

  deleted(pod: Pod): void {
    this.#boot?.pods.deleted(pod);
  }
}
