import type { Host } from "./host.ts";
import type { PodIdentity } from "./logs.ts";
import type { PodHandler } from "./pod-watch.ts";
import { PodWorker } from "./pod-worker.ts";
import { type Pod, podName } from "./types.ts";

/** A container that runs now. */
export interface RunningContainer {
  readonly namespace: string;
  readonly pod: string;
  readonly uid: string;
  readonly container: string;
  /** Process 1 of the container, by its pid on this machine; in memory a number of its own. */
  readonly pid: number;
  /** Restart count. */
  readonly attempt: number;
}

/** The pods of one host: turns what the watch says into workers, one a pod UID. */
export class HostPods implements PodHandler {
  readonly #host: Host;
  readonly #workers = new Map<string, PodWorker>();
  #first = true;

  constructor(host: Host) {
    this.#host = host;
  }

  all(pods: readonly Pod[]): void {
    const listed = new Set(pods.map((pod) => pod.metadata.uid));
    if (this.#first) this.#host.backend.keepOnly(listed);
    this.#first = false;
    // Those that had started before come first, so that a reboot does not give their GPUs to others.
    const age = (pod: Pod) => `${pod.status?.startTime ?? "~"} ${pod.metadata.creationTimestamp ?? ""}`;
    for (const pod of [...pods].sort((a, b) => age(a).localeCompare(age(b)))) this.changed(pod);
    for (const [uid, worker] of this.#workers) if (!listed.has(uid)) worker.remove();
  }

  changed(pod: Pod): void {
    const { uid } = pod.metadata;
    const host = this.#host;
    const worker = this.#workers.get(uid);
    if (worker) worker.update(pod);
    else {
      host.log.info({ host: host.name, pod: podName(pod), uid }, "pod bound to this host");
      this.#workers.set(uid, new PodWorker(host, pod));
    }
    for (const [key, entry] of this.#workers) if (key !== uid && entry.done) this.#workers.delete(key);
  }

  deleted(pod: Pod): void {
    this.#workers.get(pod.metadata.uid)?.remove();
  }

  containers(): RunningContainer[] {
    return [...this.#workers.values()].flatMap((worker) => {
      const { namespace, name, uid } = worker.pod.metadata;
      return worker.running().map((running) => ({ namespace, pod: name, uid, ...running }));
    });
  }

  /** Ends a pod for want of resources of the host. @throws Error for a pod that is not here */
  evict(pod: PodIdentity, message: string): void {
    const worker = [...this.#workers.values()].find(
      ({ pod: { metadata } }) =>
        metadata.namespace === pod.namespace &&
        metadata.name === pod.name &&
        (pod.uid === undefined || metadata.uid === pod.uid),
    );
    if (!worker) throw new Error(`host ${this.#host.name} has no pod ${pod.namespace}/${pod.name} to evict`);
    worker.evict(message);
  }

  /** SIGKILL to everything, and nothing written: the host lost its power. */
  async crash(): Promise<void> {
    await Promise.all([...this.#workers.values()].map((worker) => worker.crash()));
  }
}
