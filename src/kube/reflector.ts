import { type BackoffOptions, type Random, fullJitter } from "../lib/backoff.ts";
import { type Clock, type Timer, sleep, systemClock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { type Logger, silentLogger } from "../lib/logger.ts";
import { Metrics } from "../lib/metrics.ts";
import type { Client } from "./client.ts";
import { KubeError, type Status, errorOfStatus, isKubeError } from "./errors.ts";
import { lines } from "./lines.ts";
import { type KubeObject, keyOf } from "./object.ts";
import type { Selection } from "./paths.ts";
import { type Resource, apiVersionOf } from "./resources.ts";
import { type Change, type ReadStore, Store } from "./store.ts";

/**
 * What a handler is told. `old` and deleted objects are as they were last seen; a deletion that nobody watched is told all
 * the same, when the next list lacks the object. Handlers are quick and synchronous: they map to keys and queue them.
 */
export interface Handler<T> {
  added?(object: T): void;
  updated?(object: T, old: T): void;
  deleted?(object: T): void;
}

/** What a {@link Reflector} needs of a client. */
export type WatchClient = Pick<Client, "pages" | "watch">;

/** Parts of a {@link Reflector}. */
export interface ReflectorOptions<T extends KubeObject> extends Selection {
  readonly client: WatchClient;
  readonly resource: Resource<T>;
  /** Drops on the way in what nobody reads. Default {@link dropNoise}. It may change and return the object it is given. */
  readonly trim?: (object: T) => T;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly logger?: Logger;
  readonly metrics?: Metrics;
  /** Between attempts that fail. Default 200 ms doubling to 30 s, with full jitter. */
  readonly backoff?: BackoffOptions;
  /** Silence in milliseconds, bookmarks included, after which everything is read again. Default 150 s. */
  readonly stall?: number;
}

type WatchEvent<T> =
  | { readonly type: "ADDED" | "MODIFIED" | "DELETED"; readonly object: T }
  | { readonly type: "BOOKMARK"; readonly object: KubeObject }
  | { readonly type: "ERROR"; readonly object: Status };

const longestLine = 16 << 20;

/**
 * Keeps a {@link Store} like the API server's state of one resource and tells handlers what changed. The first state comes
 * as a stream (WatchList), or in pages where the server refuses that. It then watches from there; only where the server
 * has forgotten that point (410 Gone) is everything read again, and the difference told as changes. While the server
 * cannot be reached the store stays as it was: absence of an answer is not absence of objects.
 */
export class Reflector<T extends KubeObject> {
  readonly resource: Resource<T>;
  readonly #options: ReflectorOptions<T>;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;
  readonly #backoff: BackoffOptions;
  readonly #stall: number;
  readonly #store = new Store<T>();
  readonly #handlers = new Set<Handler<T>>();
  readonly #metrics: ReflectorMetrics;
  readonly #name: string;
  readonly #synced = Promise.withResolvers<void>();
  #hasSynced = false;
  #watchList = true;
  /** Where the next watch begins. Unset: everything has to be read. */
  #resourceVersion: string | undefined;

  constructor(options: ReflectorOptions<T>) {
    this.#options = options;
    this.resource = options.resource;
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? Math.random;
    this.#logger = options.logger ?? silentLogger;
    this.#backoff = options.backoff ?? { base: 200, cap: 30_000 };
    this.#stall = options.stall ?? 150_000;
    this.#metrics = reflectorMetrics(options.metrics ?? new Metrics());
    this.#name = options.namespace ? `${this.resource.plural}/${options.namespace}` : this.resource.plural;
  }

  /** The objects, and indexes over them. */
  get store(): ReadStore<T> {
    return this.#store;
  }

  /** Whether the store has ever held a whole state. */
  get hasSynced(): boolean {
    return this.#hasSynced;
  }

  /** Resolves once {@link hasSynced}. */
  synced(): Promise<void> {
    return this.#synced.promise;
  }

  /** The version of the last state or bookmark seen. */
  get resourceVersion(): string | undefined {
    return this.#resourceVersion;
  }

  /** Adds a handler. What the store holds already is told to it at once as added. Returns what takes it off again. */
  handle(handler: Handler<T>): () => void {
    this.#handlers.add(handler);
    for (const object of this.#store.values()) this.#call(handler, { type: "add", object });
    return () => this.#handlers.delete(handler);
  }

  /** Runs until `signal` aborts. Never rejects: what fails is logged, counted and tried again. Call it once. */
  async run(signal: AbortSignal): Promise<void> {
    let failures = 0;
    while (!signal.aborted) {
      const started = this.#clock.monotonic();
      let wait = 0;
      try {
        if (this.#resourceVersion === undefined && !this.#watchList) await this.#list(signal);
        await this.#watch(signal);
        // A server that ends every watch at once must not be asked in a tight loop.
        failures = this.#clock.monotonic() - started < 1000 ? failures + 1 : 0;
        if (failures > 0) wait = fullJitter(failures, this.#backoff, this.#random);
      } catch (error) {
        if (signal.aborted) break;
        if (this.#clock.monotonic() - started > this.#backoff.cap) failures = 0;
        wait = this.#failed(error, failures++);
      }
      await sleep(this.#clock, wait, signal);
    }
  }

  /** Decides what an error means for the next attempt. Returns how long to wait before it. */
  #failed(error: unknown, failures: number): number {
    const code = error instanceof KubeError ? error.code : "Unavailable";
    this.#metrics.errors.inc({ name: this.#name, code });
    if (isKubeError(error, "Gone") || isTooLarge(error)) {
      this.#logger.info(
        { resource: this.#name },
        "the watch's starting point is gone: reading everything again",
      );
      const first = this.#resourceVersion !== undefined;
      this.#resourceVersion = undefined;
      return first ? 0 : fullJitter(failures, this.#backoff, this.#random);
    }
    if (
      this.#watchList &&
      this.#resourceVersion === undefined &&
      isKubeError(error, "BadRequest", "Invalid")
    ) {
      this.#watchList = false;
      this.#logger.info({ resource: this.#name }, "the API server has no WatchList: listing in pages");
      return 0;
    }
    const asked = error instanceof KubeError ? (error.retryAfter ?? 0) : 0;
    const wait = Math.max(asked, fullJitter(failures, this.#backoff, this.#random));
    this.#logger.warn(
      { resource: this.#name, code, error: messageOf(error), failures: failures + 1, retryInMs: wait },
      "list or watch failed; the cache stays as it was",
    );
    return wait;
  }

  async #list(signal: AbortSignal): Promise<void> {
    this.#metrics.lists.inc({ name: this.#name });
    const objects: T[] = [];
    let resourceVersion = "";
    for await (const page of this.#options.client.pages(this.resource, { ...this.#selection(), signal })) {
      for (const item of page.items) objects.push(this.#trimmed(item));
      ({ resourceVersion } = page);
    }
    this.#replace(objects, resourceVersion);
  }

  async #watch(signal: AbortSignal): Promise<void> {
    const initial = this.#resourceVersion === undefined;
    this.#metrics.watches.inc({ name: this.#name });
    const abort = new AbortController();
    const forward = () => abort.abort();
    if (signal.aborted) forward();
    signal.addEventListener("abort", forward, { once: true });
    let stalled = false;
    let timer: Timer | undefined;
    const heard = () => {
      timer?.cancel();
      timer = this.#clock.setTimer(() => {
        stalled = true;
        abort.abort();
      }, this.#stall);
    };
    try {
      heard();
      const answer = await this.#options.client.watch(this.resource, {
        ...this.#selection(),
        ...(this.#resourceVersion === undefined ? {} : { resourceVersion: this.#resourceVersion }),
        initial,
        // Spread, so that the watches of many clients do not end together.
        timeoutSeconds: 300 + Math.floor(this.#random() * 300),
        signal: abort.signal,
      });
      const sync = initial ? new Map<string, T>() : undefined;
      await this.#events(lines(answer.body, longestLine), sync, heard);
      if (initial && this.#resourceVersion === undefined)
        throw new Error("the server ended the initial stream");
    } catch (error) {
      if (stalled) {
        // A server whose state was put back to before our version is silent for as long as it has not come past it again.
        this.#resourceVersion = undefined;
        throw new KubeError("Timeout", `watch ${this.#name}: nothing heard for ${this.#stall / 1000} s`, {
          cause: error,
        });
      }
      throw error;
    } finally {
      timer?.cancel();
      signal.removeEventListener("abort", forward);
    }
  }

  /** Follows one watch. `sync` collects the initial objects until the bookmark that ends them. */
  async #events(
    stream: AsyncIterable<string>,
    sync: Map<string, T> | undefined,
    heard: () => void,
  ): Promise<void> {
    let collecting = sync;
    for await (const line of stream) {
      heard();
      const event: WatchEvent<T> = parseEvent(line);
      switch (event.type) {
        case "ERROR":
          throw errorOfStatus(event.object.code ?? 500, event.object, {
            verb: "watch",
            resource: this.resource.plural,
            object: this.#options.namespace ?? "",
          });
        case "BOOKMARK": {
          const { resourceVersion, annotations } = event.object.metadata;
          if (!collecting) this.#resourceVersion = resourceVersion;
          else if (annotations?.["k8s.io/initial-events-end"] === "true") {
            this.#replace(collecting.values(), resourceVersion);
            collecting = undefined;
          }
          break;
        }
        case "ADDED":
        case "MODIFIED":
        case "DELETED": {
          const object = this.#trimmed(event.object);
          if (collecting) {
            if (event.type === "DELETED") collecting.delete(keyOf(object));
            else collecting.set(keyOf(object), object);
            break;
          }
          this.#tell(event.type === "DELETED" ? this.#store.remove(object) : this.#store.put(object));
          this.#resourceVersion = object.metadata.resourceVersion;
          break;
        }
        default:
          throw new Error("a watch event of unknown type");
      }
    }
  }

  #replace(objects: Iterable<T>, resourceVersion: string): void {
    const changes = this.#store.replace(objects);
    this.#resourceVersion = resourceVersion;
    this.#tell(changes);
    if (this.#hasSynced) return;
    this.#hasSynced = true;
    this.#synced.resolve();
  }

  #tell(changes: readonly Change<T>[]): void {
    for (const change of changes) {
      for (const handler of this.#handlers) this.#call(handler, change);
    }
    this.#metrics.items.set(this.#store.size, { name: this.#name });
  }

  /** A handler that throws has lost one event of one object; the others go on. */
  #call(handler: Handler<T>, change: Change<T>): void {
    try {
      if (change.type === "add") handler.added?.(change.object);
      else if (change.type === "update") handler.updated?.(change.object, change.old);
      else handler.deleted?.(change.object);
    } catch (error) {
      this.#metrics.handlerErrors.inc({ name: this.#name });
      this.#logger.error(
        { resource: this.#name, object: keyOf(change.object), change: change.type, error: messageOf(error) },
        "an event handler threw; this event is lost to it",
      );
    }
  }

  #trimmed(object: T): T {
    const { kind } = this.resource;
    // One string for all objects instead of one for each.
    Object.assign(object, { apiVersion: apiVersionOf(this.resource), kind });
    return (this.#options.trim ?? dropNoise)(object);
  }

  #selection(): Selection {
    const { namespace, labelSelector, fieldSelector } = this.#options;
    return { namespace, labelSelector, fieldSelector };
  }
}

/** Runs several reflectors until `signal` aborts. */
export async function runReflectors(
  reflectors: readonly { run(signal: AbortSignal): Promise<void> }[],
  signal: AbortSignal,
): Promise<void> {
  await Promise.all(reflectors.map((reflector) => reflector.run(signal)));
}

/** Takes out what no controller reads and what is large: managed fields and kubectl's copy of the object. */
export function dropNoise<T extends KubeObject>(object: T): T {
  const metadata: { managedFields?: unknown; annotations?: Record<string, string> } = object.metadata;
  delete metadata.managedFields;
  delete metadata.annotations?.["kubectl.kubernetes.io/last-applied-configuration"];
  return object;
}

function parseEvent<T>(line: string): WatchEvent<T> {
  try {
    return JSON.parse(line);
  } catch (cause) {
    throw new KubeError("Unavailable", "watch: an event is not JSON", { cause });
  }
}

/** The server's state is older than what we saw (it was restored): it cannot serve our version until it gets there. */
function isTooLarge(error: unknown): boolean {
  return (
    error instanceof KubeError && error.causes.some(({ reason }) => reason === "ResourceVersionTooLarge")
  );
}

function reflectorMetrics(metrics: Metrics) {
  const labels = ["name"];
  return {
    lists: metrics.counter("reflector_lists_total", "Lists by reflectors, WatchList not counted.", labels),
    watches: metrics.counter("reflector_watches_total", "Watches begun by reflectors.", labels),
    errors: metrics.counter("reflector_errors_total", "Lists and watches that failed, by error code.", [
      ...labels,
      "code",
    ]),
    handlerErrors: metrics.counter("reflector_handler_errors_total", "Event handlers that threw.", labels),
    items: metrics.gauge("reflector_items", "Objects in the cache.", labels),
  };
}

type ReflectorMetrics = ReturnType<typeof reflectorMetrics>;
