import { type BackoffOptions, type Random, fullJitter } from "../lib/backoff.ts";
import type { Clock, Timer } from "../lib/clock.ts";
import { type Counter, type Gauge, type Histogram, Metrics } from "../lib/metrics.ts";

/** A key to work on, and why it was queued: the first few distinct reasons since it was last worked on. */
export interface QueueItem {
  readonly key: string;
  readonly reasons: readonly string[];
  /** Milliseconds that it was ready and waited for a worker. */
  readonly waitedMs: number;
}

/** Parts of a {@link WorkQueue}. */
export interface WorkQueueOptions {
  /** Labels `name` and `controller` of the metrics. */
  readonly name: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly metrics?: Metrics;
  /** Of a key that failed again and again. Default: 5 ms doubling to 60 s. */
  readonly backoff?: BackoffOptions;
}

const defaultBackoff: BackoffOptions = { base: 5, cap: 60_000 };
const reasonsKept = 8;
/** So many keys that are under way go ahead of one that waits longer. */
const aheadAtMost = 3;

/**
 * A queue of keys, as client-go's: a key is in it at most once; one that is added while it is worked on comes again
 * afterwards, so no key is ever worked on twice at once and no change is missed; one that fails waits longer each time.
 *
 * Keys that are under way ({@link done}) go ahead of others: what was begun is brought to its end before more is begun, so
 * that a thousand new objects pass through one after the other, and not all together from state to state. Others have a
 * quarter of the turns at the least.
 */
export class WorkQueue {
  readonly #options: WorkQueueOptions;
  readonly #backoff: BackoffOptions;
  readonly #metrics: QueueMetrics;
  /** In insertion order: the queue itself. Value: when it was added. */
  readonly #ready = new Map<string, number>();
  /** As `#ready`, of the keys that are under way. */
  readonly #ahead = new Map<string, number>();
  /** Whose last work was not yet the end. */
  readonly #underWay = new Set<string>();
  /** Keys given out of `#ahead` since one was of `#ready`. */
  #overtaken = 0;
  /** Worked on now → since when. */
  readonly #processing = new Map<string, number>();
  /** Added while worked on. */
  readonly #dirty = new Set<string>();
  readonly #delayed = new Map<string, { at: number; timer: Timer }>();
  readonly #held = new Map<string, { at: number; timer: Timer }>();
  readonly #failures = new Map<string, number>();
  readonly #reasons = new Map<string, string[]>();
  readonly #waiting: (() => void)[] = [];
  readonly #unmeasure: () => void;
  #closed = false;

  constructor(options: WorkQueueOptions) {
    this.#options = options;
    this.#backoff = options.backoff ?? defaultBackoff;
    const metrics = options.metrics ?? new Metrics();
    this.#metrics = queueMetrics(metrics);
    this.#unmeasure = metrics.beforeText(() => this.#measureUnfinished());
  }

  /** Keys that are ready to be worked on. */
  get length(): number {
    return this.#ready.size + this.#ahead.size;
  }

  /** Nothing ready and nothing worked on. Keys that wait for their time do not count. */
  get idle(): boolean {
    return this.length === 0 && this.#processing.size === 0;
  }

  /** Queues a key now. */
  add(key: string, reason?: string): void {
    if (this.#closed) return;
    this.#note(key, reason);
    if (this.#ready.has(key) || this.#ahead.has(key) || this.#dirty.has(key)) return;
    this.#metrics.adds.inc(this.#labels);
    if (this.#processing.has(key)) {
      this.#dirty.add(key);
      return;
    }
    this.#enqueue(key);
  }

  /** Queues a key after `ms` milliseconds. Of several such wishes for one key the earliest counts. */
  addAfter(key: string, ms: number, reason?: string): void {
    if (this.#closed) return;
    if (ms <= 0) {
      this.add(key, reason);
      return;
    }
    const { clock } = this.#options;
    const at = clock.monotonic() + ms;
    const earlier = this.#delayed.get(key);
    if (earlier && earlier.at <= at) return;
    earlier?.timer.cancel();
    const timer = clock.setTimer(() => {
      this.#delayed.delete(key);
      this.add(key, reason);
    }, ms);
    this.#delayed.set(key, { at, timer });
  }

  /**
   * Queues a key after `ms` milliseconds unless it is given out before: for a look at something that events may tell first. Of
   * several such wishes for one key the earliest counts.
   */
  hold(key: string, ms: number, reasons: readonly string[] = []): void {
    if (this.#closed) return;
    const { clock } = this.#options;
    const at = clock.monotonic() + ms;
    const earlier = this.#held.get(key);
    if (earlier && earlier.at <= at) {
      for (const reason of reasons) this.#note(key, reason);
      return;
    }
    earlier?.timer.cancel();
    const timer = clock.setTimer(() => {
      this.#held.delete(key);
      for (const reason of reasons) this.#note(key, reason);
      this.add(key);
    }, ms);
    this.#held.set(key, { at, timer });
  }

  /**
   * Queues a key that failed, after a wait that doubles with every failure until {@link forget}, and of `atLeast`
   * milliseconds. Returns the wait.
   */
  addRateLimited(key: string, reason?: string, atLeast = 0): number {
    const failures = this.#failures.get(key) ?? 0;
    this.#failures.set(key, failures + 1);
    this.#metrics.retries.inc(this.#labels);
    // Half of the wait is certain, so that a failing key never spins; half is random, so that keys which failed together
    // do not come back together.
    const { base, cap } = this.#backoff;
    const half = Math.min(cap, base * 2 ** Math.min(failures, 52)) / 2;
    const wait = Math.max(atLeast, half + fullJitter(0, { base: half, cap: half }, this.#options.random));
    this.addAfter(key, wait, reason);
    return wait;
  }

  /** Failures of a key since it was last forgotten. */
  failures(key: string): number {
    return this.#failures.get(key) ?? 0;
  }

  /** Forgets the failures of a key: the next one waits as little as the first. */
  forget(key: string): void {
    this.#failures.delete(key);
  }

  /**
   * Takes the next key, waiting for one. The caller must call {@link done} with it, whatever happens. `undefined` when the
   * queue was shut down or `signal` aborted.
   */
  async get(signal?: AbortSignal): Promise<QueueItem | undefined> {
    for (;;) {
      if (this.#closed) return undefined;
      if (signal?.aborted) {
        // It may have been woken for a key that it now leaves to another.
        if (this.length > 0) this.#waiting.shift()?.();
        return undefined;
      }
      const line = this.#nextLine();
      const next = line.entries().next();
      if (!next.done) {
        const [key, since] = next.value;
        line.delete(key);
        return this.#take(key, since);
      }
      await this.#wait(signal);
    }
  }

  /** Says that the work on a key has ended. `underWay`: more of it is to come, as far as can be told. */
  done(key: string, underWay = false): void {
    const since = this.#processing.get(key);
    if (since === undefined) return;
    this.#processing.delete(key);
    if (underWay) this.#underWay.add(key);
    else this.#underWay.delete(key);
    this.#metrics.work.observe((this.#options.clock.monotonic() - since) / 1000, this.#labels);
    if (this.#dirty.delete(key) && !this.#closed) this.#enqueue(key);
  }

  /** Empties the queue and ends every {@link get}. Adding does nothing from here on. */
  shutDown(): void {
    this.#closed = true;
    for (const { timer } of this.#delayed.values()) timer.cancel();
    for (const { timer } of this.#held.values()) timer.cancel();
    this.#delayed.clear();
    this.#held.clear();
    this.#ready.clear();
    this.#ahead.clear();
    this.#underWay.clear();
    this.#dirty.clear();
    this.#reasons.clear();
    this.#unmeasure();
    for (const gauge of [this.#metrics.depth, this.#metrics.unfinished, this.#metrics.longest])
      gauge.set(0, this.#labels);
    for (const wake of this.#waiting.splice(0)) wake();
  }

  get #labels() {
    const { name } = this.#options;
    return { name, controller: name };
  }

  /** Work that hangs shows nowhere else: its duration is observed when it ends. */
  #measureUnfinished(): void {
    const now = this.#options.clock.monotonic();
    let [sum, longest] = [0, 0];
    for (const since of this.#processing.values()) {
      sum += now - since;
      longest = Math.max(longest, now - since);
    }
    this.#metrics.unfinished.set(sum / 1000, this.#labels);
    this.#metrics.longest.set(longest / 1000, this.#labels);
  }

  #note(key: string, reason: string | undefined): void {
    if (reason === undefined) return;
    const reasons = this.#reasons.get(key);
    if (!reasons) this.#reasons.set(key, [reason]);
    else if (reasons.length < reasonsKept && !reasons.includes(reason)) reasons.push(reason);
  }

  #enqueue(key: string): void {
    const line = this.#underWay.has(key) ? this.#ahead : this.#ready;
    line.set(key, this.#options.clock.monotonic());
    this.#metrics.depth.set(this.length, this.#labels);
    this.#waiting.shift()?.();
  }

  /** Whose turn it is: empty only if both are. */
  #nextLine(): Map<string, number> {
    const overtakes = this.#ahead.size > 0 && (this.#ready.size === 0 || this.#overtaken < aheadAtMost);
    this.#overtaken = overtakes ? this.#overtaken + 1 : 0;
    return overtakes ? this.#ahead : this.#ready;
  }

  #take(key: string, since: number): QueueItem {
    const now = this.#options.clock.monotonic();
    this.#processing.set(key, now);
    this.#held.get(key)?.timer.cancel();
    this.#held.delete(key);
    this.#metrics.depth.set(this.length, this.#labels);
    this.#metrics.queued.observe((now - since) / 1000, this.#labels);
    const reasons = this.#reasons.get(key) ?? [];
    this.#reasons.delete(key);
    return { key, reasons, waitedMs: now - since };
  }

  #wait(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const wake = () => {
        signal?.removeEventListener("abort", aborted);
        resolve();
      };
      const aborted = () => {
        const at = this.#waiting.indexOf(wake);
        if (at >= 0) this.#waiting.splice(at, 1);
        resolve();
      };
      this.#waiting.push(wake);
      signal?.addEventListener("abort", aborted, { once: true });
    });
  }
}

interface QueueMetrics {
  readonly depth: Gauge;
  readonly adds: Counter;
  readonly retries: Counter;
  readonly queued: Histogram;
  readonly work: Histogram;
  readonly unfinished: Gauge;
  readonly longest: Gauge;
}

const seconds = [1e-4, 1e-3, 1e-2, 0.1, 1, 10, 60];

/** Names and labels as client-go and controller-runtime have them, so that their dashboards fit. */
function queueMetrics(metrics: Metrics): QueueMetrics {
  const labels = ["name", "controller"];
  return {
    depth: metrics.gauge("workqueue_depth", "Keys that wait to be worked on.", labels),
    adds: metrics.counter("workqueue_adds_total", "Keys added to the work queue.", labels),
    retries: metrics.counter("workqueue_retries_total", "Keys queued again because they failed.", labels),
    queued: metrics.histogram(
      "workqueue_queue_duration_seconds",
      "How long a key waited in the queue before it was worked on.",
      seconds,
      labels,
    ),
    work: metrics.histogram(
      "workqueue_work_duration_seconds",
      "How long a key was worked on.",
      seconds,
      labels,
    ),
    unfinished: metrics.gauge(
      "workqueue_unfinished_work_seconds",
      "How long all keys that are worked on now have been so, added up.",
      labels,
    ),
    longest: metrics.gauge(
      "workqueue_longest_running_processor_seconds",
      "How long the longest of them has been so.",
      labels,
    ),
  };
}
