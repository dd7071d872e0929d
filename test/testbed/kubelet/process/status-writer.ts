import { sleep } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import { isStatus } from "./api.ts";
import type { Host } from "./host.ts";
import type { Pod, PodStatus } from "./types.ts";

const retryMs = 500;

/** Writes one pod's status, only when it changed, the newest only, and until the API server has taken it. */
export class StatusWriter {
  readonly #host: Host;
  readonly #path: string;
  readonly #uid: string;
  readonly #signal: AbortSignal;
  #wanted: PodStatus | undefined;
  #written = "";
  /** What was written last, and the pod's resourceVersion since. */
  #last: PodStatus | undefined;
  #version = 0;
  /** The pod as the API server had it last. */
  #seen: Pod | undefined;
  #writing: Promise<void> | undefined;

  constructor(host: Host, pod: Pod, signal: AbortSignal) {
    this.#host = host;
    this.#path = `/api/v1/namespaces/${pod.metadata.namespace}/pods/${pod.metadata.name}/status`;
    this.#uid = pod.metadata.uid;
    this.#signal = signal;
  }

  write(status: PodStatus): void {
    this.#wanted = status;
    this.#writing ??= this.#run().finally(() => {
      this.#writing = undefined;
      this.#restore();
    });
  }

  /** The pod as the API server has it: readiness that somebody else has taken away is written again. */
  see(pod: Pod): void {
    this.#seen = pod;
    this.#restore();
  }

  /** The control plane marks the pods of a host not ready that has been silent for a while, and leaves it at that. */
  #restore(): void {
    const [last, seen] = [this.#last, this.#seen];
    if (this.#writing || !last || !seen || this.#signal.aborted) return;
    if (Number(seen.metadata.resourceVersion) <= this.#version || readyOf(seen.status) === readyOf(last))
      return;
    this.#seen = undefined;
    this.#written = "";
    this.write(last);
  }

  /** Resolves when what was given last is written, or writing was given up. */
  async settled(): Promise<void> {
    while (this.#writing) await this.#writing;
  }

  async #run(): Promise<void> {
    while (this.#wanted && !this.#signal.aborted) {
      const status = this.#wanted;
      this.#wanted = undefined;
      const text = JSON.stringify(status);
      if (text === this.#written) continue;
      try {
        const taken = await this.#host.api.patch<Pod>(this.#path, this.#patch(status), {
          signal: this.#signal,
        });
        this.#written = text;
        this.#last = status;
        this.#version = Number(taken.metadata.resourceVersion);
      } catch (thrown) {
        // Gone, or replaced by another pod of that name: nobody is left to be told.
        if (isStatus(thrown, 404) || isStatus(thrown, 409)) return;
        if (this.#signal.aborted) return;
        this.#host.log.debug(
          { path: this.#path, why: messageOf(thrown) },
          "status not written, trying again",
        );
        this.#wanted ??= status;
        await sleep(this.#host.clock, retryMs, this.#signal);
      }
    }
  }

  /** Lists that merge by key are replaced as a whole, else an address of before a reboot would stay. */
  #patch(status: PodStatus): object {
    const replace = { $patch: "replace" };
    return {
      metadata: { uid: this.#uid },
      status: {
        ...status,
        ...(status.hostIPs ? { hostIPs: [...status.hostIPs, replace] } : {}),
        ...(status.podIPs ? { podIPs: [...status.podIPs, replace] } : {}),
      },
    };
  }
}

const readyOf = (status: PodStatus | undefined): string | undefined =>
  status?.conditions?.find(({ type }) => type === "Ready")?.status;
