/**
 * A controller: keys come from sources, wait in a work queue, and are reconciled one at a time each. How one is put
 * together:
 *
 * ```ts
 * const transport = new Transport({ connection: await inCluster({ host, port }), userAgent, logger, metrics });
 * const elector = new LeaderElector({ client: new Client(transport), namespace, name: "resultity-operator", identity });
 * const client = new Client(transport).guarded(() => elector.assertLeading());
 *
 * const nodes = new Reflector({ client, resource: resultityNodes, logger, metrics });
 * const pods = new Reflector({ client, resource: podResource, labelSelector: "app.kubernetes.io/part-of=resultity" });
 * pods.store.addIndex("owner", byOwnerUid);
 *
 * const expectations = new Expectations(clock);
 * const controller = new Controller({
 *   name: "node",
 *   sources: [own(nodes, exceptStatus), owned(pods, resultityNodes), mapped(secrets, (secret) => nodesUsing(secret))],
 *   expectations,
 *   concurrency: 8,
 *   async reconcile(key, signal) {
 *     const node = nodes.store.get(key);
 *     if (!node) return;                        // deleted; its children are garbage collected
 *     const pod = await client.create(podResource, draftOf(node), { signal });
 *     expectations.wrote(key, pods, pod);       // this key rests until the cache shows the pod
 *     return { requeueAfter: 30_000 };          // or nothing: the next event queues it
 *   },
 * });
 *
 * void runReflectors([nodes, pods], stop);      // caches are warm before this replica leads
 * await elector.run((leading) => controller.run(leading), stop);
 * ```
 *
 * A reconcile that rejects is tried again, later each time; one that resolves starts from a clean record.
 */
import type { BackoffOptions, Random } from "../lib/backoff.ts";
import { type Clock, systemClock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { type Logger, silentLogger } from "../lib/logger.ts";
import { Metrics } from "../lib/metrics.ts";
import { TimeSlice } from "../lib/time-slice.ts";
import { KubeError, isKubeError } from "./errors.ts";
import type { Expectations } from "./expectations.ts";
import { type QueueItem, WorkQueue } from "./queue.ts";
import type { Source } from "./sources.ts";
import { type WriteTrace, traceWrites } from "./trace.ts";

/** What a reconcile wants next. */
export interface Result {
  /** Milliseconds after which the key is to be queued again, if no event queues it before. */
  readonly requeueAfter?: number;
}

/**
 * Brings the world nearer to what the object `key` (`namespace/name`) asks for. `signal` aborts when leadership is lost, the
 * process stops or the reconcile takes too long: hand it to every request, since the controller waits for it to end. `reasons` says why the key was queued.
 */
export type Reconcile = (
  key: string,
  signal: AbortSignal,
  reasons: readonly string[],
) => Promise<Result | undefined | void>;

/** Parts of a {@link Controller}. */
export interface ControllerOptions {
  /** Label of metrics and log lines. */
  readonly name: string;
  readonly sources: readonly Source[];
  readonly reconcile: Reconcile;
  /** Reconciles at once. Default 4. */
  readonly concurrency?: number;
  /** Milliseconds after which a reconcile's signal aborts. Default 60 s. */
  readonly timeout?: number;
  /** Holds a key back until the caches show what its last reconcile wrote. */
  readonly expectations?: Expectations;
  readonly backoff?: BackoffOptions;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly logger?: Logger;
  readonly metrics?: Metrics;
}

/**
 * Milliseconds between two looks whether the cache shows a write: as long as it has not, within these. A look costs no request, but
 * a turn that others wait for, and where the watch lags thousands of keys are on hold together.
 */
const expectationCheck = { least: 50, most: 250 };
/**
 * Milliseconds of reconciles that await no I/O after which the rest of the process has its turn: 10,000 nodes are looked at in three
 * seconds of CPU, and the Lease is not to wait for them.
 */
const sliceMs = 10;

/** Runs one reconcile function over one queue of keys. */
export class Controller {
  readonly name: string;
  readonly #options: ControllerOptions;
  readonly #clock: Clock;
  readonly #logger: Logger;
  readonly #metrics: Metrics;
  readonly #measured: ControllerMetrics;
  readonly #concurrency: number;
  /** Keys that wait for the caches, by the monotonic time since which they have. */
  readonly #onHold = new Map<string, number>();
  #queue: WorkQueue | undefined;

  constructor(options: ControllerOptions) {
    this.name = options.name;
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#logger = (options.logger ?? silentLogger).child({ controller: options.name });
    this.#metrics = options.metrics ?? new Metrics();
    this.#measured = controllerMetrics(this.#metrics);
    this.#concurrency = options.concurrency ?? 4;
  }

  /** Queues a key for a reason that no source knows of (a feed, a timer). Does nothing while the controller does not run. */
  enqueue(key: string, reason: string): void {
    this.#queue?.add(key, reason);
  }

  /** As {@link enqueue}, in `ms` milliseconds, unless the key is worked on before. */
  enqueueAfter(key: string, ms: number, reason: string): void {
    this.#queue?.hold(key, ms, [reason]);
  }

  /** Whether every key that was queued has been worked on. Keys that wait for their time do not count. */
  get idle(): boolean {
    return this.#queue?.idle ?? true;
  }

  /**
   * Works until `signal` aborts, then resolves once the last reconcile has ended. Waits for all sources first: nothing is
   * decided on half a cache. Each run begins with every object there is, so it may be run again after leadership came back.
   */
  async run(signal: AbortSignal): Promise<void> {
    const { name, sources, random = Math.random, backoff } = this.#options;
    const queue = new WorkQueue({
      name,
      clock: this.#clock,
      random,
      metrics: this.#metrics,
      ...(backoff ? { backoff } : {}),
    });
    this.#queue = queue;
    this.#measured.workers.set(this.#concurrency, { controller: name });
    const detach = sources.map((source) => source.attach((key, reason) => queue.add(key, reason)));
    try {
      await Promise.race([Promise.all(sources.map((source) => source.synced())), aborted(signal)]);
      const slice = new TimeSlice(this.#clock, sliceMs);
      await Promise.all(Array.from({ length: this.#concurrency }, () => this.#work(queue, signal, slice)));
    } finally {
      queue.shutDown();
      for (const end of detach) end();
      this.#onHold.clear();
      if (this.#queue === queue) this.#queue = undefined;
    }
  }

  async #work(queue: WorkQueue, signal: AbortSignal, slice: TimeSlice): Promise<void> {
    for (;;) {
      await slice.over();
      const item = await queue.get(signal);
      if (!item) return;
      let underWay = false;
      try {
        underWay = await this.#reconcile(queue, item, signal);
      } finally {
        queue.done(item.key, underWay);
      }
    }
  }

  /** Returns whether the key is under way: it wrote something, or waits for something, and so will be looked at again. */
  async #reconcile(queue: WorkQueue, item: QueueItem, signal: AbortSignal): Promise<boolean> {
    const { key, reasons } = item;
    const hold = this.#options.expectations?.wait(key) ?? 0;
    if (hold > 0) {
      // The event that shows the write may be one that no source lets through, so the key looks for itself too.
      queue.hold(key, Math.min(hold, this.#nextCheckMs(key)), reasons);
      return true;
    }
    this.#onHold.delete(key);
    const labels = { controller: this.name };
    const started = this.#clock.monotonic();
    this.#measured.active.inc(labels);
    try {
      const { result, wrote } = await this.#bounded(item, signal);
      queue.forget(key);
      const again = result?.requeueAfter;
      this.#measured.total.inc({ ...labels, result: again === undefined ? "success" : "requeue_after" });
      if (again !== undefined) queue.hold(key, Math.max(1, again), ["requeue after a while"]);
      return wrote || again !== undefined;
    } catch (error) {
      if (signal.aborted) return false;
      this.#measured.total.inc({ ...labels, result: "error" });
      this.#measured.errors.inc(labels);
      this.#failed(queue, item, error);
      return false;
    } finally {
      this.#measured.active.dec(labels);
      this.#measured.seconds.observe((this.#clock.monotonic() - started) / 1000, labels);
    }
  }

  #nextCheckMs(key: string): number {
    const now = this.#clock.monotonic();
    const since = this.#onHold.get(key) ?? now;
    this.#onHold.set(key, since);
    return Math.min(expectationCheck.most, Math.max(expectationCheck.least, now - since));
  }

  #failed(queue: WorkQueue, { key, reasons }: QueueItem, error: unknown): void {
    const asked = error instanceof KubeError ? error.retryAfter : undefined;
    const wait = queue.addRateLimited(key, `failed: ${messageOf(error)}`, asked);
    const line = {
      key,
      error: messageOf(error),
      failures: queue.failures(key),
      retryInMs: Math.round(wait),
      reasons,
    };
    // Someone else wrote first: nothing is wrong, the next round sees what they wrote.
    if (isKubeError(error, "Conflict", "AlreadyExists")) this.#logger.debug(line, "reconcile met a conflict");
    else this.#logger.warn(line, "reconcile failed");
  }

  /** One reconcile with a deadline. Its key and worker stay taken until it has really ended. */
  async #bounded(item: QueueItem, signal: AbortSignal) {
    const { key, reasons } = item;
    const { timeout = 60_000 } = this.#options;
    const abort = new AbortController();
    const forward = () => abort.abort(signal.reason);
    if (signal.aborted) forward();
    signal.addEventListener("abort", forward, { once: true });
    const timer = this.#clock.setTimer(() => {
      const message = `reconcile took longer than ${timeout / 1000} s`;
      this.#measured.timeouts.inc({ controller: this.name });
      this.#logger.error({ key }, message);
      abort.abort(new Error(message));
    }, timeout);
    const started = this.#clock.monotonic();
    const writes = traceWrites(abort.signal);
    try {
      const result = await this.#options.reconcile(key, abort.signal, reasons);
      return { result, wrote: writes.count > 0 };
    } finally {
      this.#trace(item, writes, this.#clock.monotonic() - started);
      timer.cancel();
      signal.removeEventListener("abort", forward);
    }
  }

  /** Why the key was queued and what came of it. A fleet that is well writes nothing, so this says nothing at level info. */
  #trace({ key, reasons, waitedMs }: QueueItem, { count, first }: WriteTrace, tookMs: number): void {
    const line = { key, reasons, waitedMs: Math.round(waitedMs), tookMs: Math.round(tookMs) };
    if (count === 0) this.#logger.debug(line, "reconciled, nothing written");
    else
      this.#logger.info({ ...line, writes: first, ...(count > first.length ? { count } : {}) }, "reconciled");
  }
}

function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** Names and labels as controller-runtime has them. */
function controllerMetrics(metrics: Metrics) {
  const labels = ["controller"];
  return {
    total: metrics.counter("controller_runtime_reconcile_total", "Reconciles by result.", [
      ...labels,
      "result",
    ]),
    errors: metrics.counter("controller_runtime_reconcile_errors_total", "Reconciles that failed.", labels),
    timeouts: metrics.counter(
      "controller_runtime_reconcile_timeouts_total",
      "Reconciles that outlasted their deadline.",
      labels,
    ),
    seconds: metrics.histogram(
      "controller_runtime_reconcile_time_seconds",
      "How long reconciles took.",
      [0.005, 0.025, 0.1, 0.5, 1, 5, 10, 30, 60],
      labels,
    ),
    active: metrics.gauge("controller_runtime_active_workers", "Reconciles that run now.", labels),
    workers: metrics.gauge(
      "controller_runtime_max_concurrent_reconciles",
      "Reconciles at once, at most.",
      labels,
    ),
  };
}

type ControllerMetrics = ReturnType<typeof controllerMetrics>;
