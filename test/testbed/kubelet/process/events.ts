import { randomBytes } from "node:crypto";
import type { Clock } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import type { Logger } from "../../../../src/lib/logger.ts";
import type { Api } from "./api.ts";
import { type Pod, wireTime } from "./types.ts";

interface Recorded {
  readonly name: string;
  readonly firstTimestamp: string;
  count: number;
}

const queueLimit = 500;

/**
 * Writes events on pods as the kubelet does: one object per (pod, container, reason, message), counted up when it
 * happens again. Events are advice: they are sent one after the other, and lost when the API server refuses them.
 */
export class PodEvents {
  readonly #api: Api;
  readonly #hostName: string;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #recorded = new Map<string, Recorded>();
  readonly #which: "all" | "warnings";
  #queue: Promise<void> = Promise.resolve();
  #waiting = 0;
  #closed = false;

  constructor(api: Api, hostName: string, clock: Clock, log: Logger, which: "all" | "warnings" = "all") {
    this.#which = which;
    this.#api = api;
    this.#hostName = hostName;
    this.#clock = clock;
    this.#log = log;
  }

  normal(pod: Pod, reason: string, message: string, container?: string): void {
    if (this.#which === "all") this.#add("Normal", pod, reason, message, container);
  }

  warning(pod: Pod, reason: string, message: string, container?: string): void {
    this.#add("Warning", pod, reason, message, container);
  }

  close(): void {
    this.#closed = true;
  }

  #add(type: string, pod: Pod, reason: string, message: string, container?: string): void {
    if (this.#closed || this.#waiting >= queueLimit) return;
    this.#waiting++;
    const before = this.#queue;
    const write = async () => {
      await before;
      try {
        if (!this.#closed) await this.#write(type, pod, reason, message, container);
      } catch (thrown) {
        this.#log.debug({ pod: pod.metadata.name, reason, why: messageOf(thrown) }, "event not written");
      } finally {
        this.#waiting--;
      }
    };
    this.#queue = write();
  }

  async #write(type: string, pod: Pod, reason: string, message: string, container?: string): Promise<void> {
    const { name, namespace, uid, resourceVersion } = pod.metadata;
    const init = pod.spec.initContainers?.some((entry) => entry.name === container);
    const fieldPath = container && `spec.${init ? "initContainers" : "containers"}{${container}}`;
    const key = [uid, container, type, reason, message].join("\0");
    const path = `/api/v1/namespaces/${namespace}/events`;
    const now = wireTime(this.#clock.now());
    const known = this.#recorded.get(key);
    if (known) {
      known.count++;
      await this.#api.patch(`${path}/${known.name}`, { count: known.count, lastTimestamp: now });
      return;
    }
    const event: Recorded = {
      name: `${name}.${randomBytes(8).toString("hex")}`,
      firstTimestamp: now,
      count: 1,
    };
    await this.#api.create(path, {
      apiVersion: "v1",
      kind: "Event",
      metadata: { name: event.name, namespace },
      involvedObject: { apiVersion: "v1", kind: "Pod", name, namespace, uid, resourceVersion, fieldPath },
      reason,
      message: message.slice(0, 1024),
      type,
      source: { component: "kubelet", host: this.#hostName },
      reportingComponent: "kubelet",
      reportingInstance: this.#hostName,
      firstTimestamp: now,
      lastTimestamp: now,
      count: 1,
    });
    this.#recorded.set(key, event);
  }
}
