import { createHash } from "node:crypto";
import { type Clock, systemClock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { type Logger, silentLogger } from "../lib/logger.ts";
import { Metrics } from "../lib/metrics.ts";
import type { Client } from "./client.ts";
import { isKubeError } from "./errors.ts";
import { microTime } from "./leader.ts";
import type { KubeObject } from "./object.ts";
import { type Event, events } from "./resources.ts";

/** What the recorder needs of a client. */
export type EventClient = Pick<Client, "create" | "mergePatch">;

/** What happened to an object, for `kubectl describe`. */
export interface EventDraft {
  readonly type: "Normal" | "Warning";
  /** Why, in CamelCase: `ImagePullFailed`. At most 128 characters. */
  readonly reason: string;
  /** What was done or tried, in CamelCase: `Patch`. */
  readonly action: string;
  /** For people; cut at 1 KiB. No secrets, and nothing that differs each time: equal notes are counted as one series. */
  readonly note: string;
}

/** Parts of an {@link EventRecorder}. */
export interface EventRecorderOptions {
  readonly client: EventClient;
  /** `resultity.com/operator`. */
  readonly controller: string;
  /** Of this replica: the pod's name. */
  readonly instance: string;
  readonly clock?: Clock;
  readonly logger?: Logger;
  readonly metrics?: Metrics;
  /** Events of one object at once; one more is allowed every `refill` milliseconds. Default 25 and 5 min, as client-go. */
  readonly burst?: number;
  readonly refill?: number;
}

interface Series {
  /** Answer of the create, so that later ones of the series can be counted on it. Unset until then. */
  event: Event | undefined;
  count: number;
  /** Monotonic time of the last one. */
  last: number;
}

interface Allowance {
  tokens: number;
  at: number;
}

/** A gap after which the same event is a new one, as in client-go. */
const seriesGap = 360_000;
const remembered = 4096;
const queued = 1000;

/**
 * Records events (`events.k8s.io/v1`). The same event again within six minutes is counted on the first one, and written only
 * when the count reaches a power of two; an object that has too many events loses some. Recording never waits and never
 * fails: events are a courtesy, and what could not be written is counted and logged.
 */
export class EventRecorder {
  readonly #options: EventRecorderOptions;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #dropped;
  /** In order of use, so that the longest unused are forgotten first. */
  readonly #series = new Map<string, Series>();
  readonly #allowances = new Map<string, Allowance>();
  #pending = 0;
  #tail: Promise<void> = Promise.resolve();

  constructor(options: EventRecorderOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#logger = options.logger ?? silentLogger;
    this.#dropped = (options.metrics ?? new Metrics()).counter(
      "resultity_events_dropped_total",
      "Kubernetes events that were not written, by why.",
      ["why"],
    );
  }

  /** Records that something happened to `object`. */
  record(object: KubeObject, draft: EventDraft): void {
    const key = JSON.stringify([object.metadata.uid, draft.type, draft.reason, draft.action, draft.note]);
    const now = this.#clock.monotonic();
    const known = this.#series.get(key);
    if (known && now - known.last < seriesGap) {
      known.count++;
      known.last = now;
      touch(this.#series, key, known);
      if ((known.count & (known.count - 1)) === 0) this.#enqueue(() => this.#repeat(known), draft);
      return;
    }
    if (!this.#allowed(object.metadata.uid, now)) {
      this.#dropped.inc({ why: "rate" });
      return;
    }
    const series: Series = { event: undefined, count: 1, last: now };
    touch(this.#series, key, series);
    const wall = this.#clock.now();
    this.#enqueue(() => this.#create(object, draft, key, series, wall), draft);
  }

  /** Resolves once everything recorded so far was written or given up. */
  flushed(): Promise<void> {
    return this.#tail;
  }

  #allowed(uid: string, now: number): boolean {
    const { burst = 25, refill = 300_000 } = this.#options;
    const allowance = this.#allowances.get(uid) ?? { tokens: burst, at: now };
    const tokens = Math.min(burst, allowance.tokens + (now - allowance.at) / refill);
    touch(this.#allowances, uid, { tokens: tokens < 1 ? tokens : tokens - 1, at: now });
    return tokens >= 1;
  }

  /** One write at a time, in order. */
  #enqueue(write: () => Promise<void>, draft: EventDraft): void {
    if (this.#pending >= queued) {
      this.#dropped.inc({ why: "queue" });
      return;
    }
    this.#pending++;
    this.#tail = this.#written(this.#tail, write, draft);
  }

  async #written(before: Promise<void>, write: () => Promise<void>, draft: EventDraft): Promise<void> {
    await before;
    try {
      await write();
    } catch (error) {
      this.#dropped.inc({ why: isKubeError(error) ? error.code : "error" });
      this.#logger.debug({ reason: draft.reason, error: messageOf(error) }, "an event could not be written");
    } finally {
      this.#pending--;
    }
  }

  async #create(
    object: KubeObject,
    draft: EventDraft,
    key: string,
    series: Series,
    wall: number,
  ): Promise<void> {
    const { client, controller, instance } = this.#options;
    const { name, namespace, uid, resourceVersion } = object.metadata;
    const time = microTime(wall);
    const suffix = createHash("sha256").update(`${key}${instance}${wall}`).digest("hex").slice(0, 16);
    series.event = await client.create(events, {
      metadata: { name: `${name.slice(0, 230)}.${suffix}`, namespace: namespace ?? "default" },
      eventTime: time,
      reportingController: controller,
      reportingInstance: instance.slice(0, 128),
      action: draft.action,
      reason: draft.reason.slice(0, 128),
      type: draft.type,
      note: draft.note.slice(0, 1024),
      regarding: {
        apiVersion: object.apiVersion,
        kind: object.kind,
        name,
        ...(namespace ? { namespace } : {}),
        uid,
        resourceVersion,
      },
    });
  }

  async #repeat(series: Series): Promise<void> {
    if (!series.event) return;
    const { name, namespace } = series.event.metadata;
    const lastObservedTime = microTime(this.#clock.now());
    await this.#options.client.mergePatch(
      events,
      { name, namespace },
      { series: { count: series.count, lastObservedTime } },
    );
  }
}

/** Puts at the end of a map, and takes the oldest out where it got too long. */
function touch<V>(map: Map<string, V>, key: string, value: V): void {
  map.delete(key);
  map.set(key, value);
  if (map.size <= remembered) return;
  const oldest = map.keys().next();
  if (!oldest.done) map.delete(oldest.value);
}
