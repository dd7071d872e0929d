import {
  Counter as PromCounter,
  Gauge as PromGauge,
  Histogram as PromHistogram,
  Registry,
  collectDefaultMetrics,
} from "@prometheus-io/client";

/** Label values of one series. Keep them few: each combination is kept for the life of the process. */
export type Labels = Readonly<Record<string, string | number>>;

/** Goes up only. */
export interface Counter {
  inc(labels?: Labels, by?: number): void;
}

/** Goes up and down. */
export interface Gauge {
  set(value: number, labels?: Labels): void;
  inc(labels?: Labels, by?: number): void;
  dec(labels?: Labels, by?: number): void;
  /** Forgets one series, when what it told of is gone. */
  remove(labels: Labels): void;
}

/** Counts observations by size. */
export interface Histogram {
  observe(value: number, labels?: Labels): void;
}

/**
 * The metrics of one process, in Prometheus' text format. Asking twice for one name gives the same metric, so that parts
 * which do not know each other may share one (two work queues and `workqueue_depth`).
 */
export class Metrics {
  readonly #registry = new Registry();
  readonly #counters = new Map<string, Counter>();
  readonly #gauges = new Map<string, Gauge>();
  readonly #histograms = new Map<string, Histogram>();
  readonly #refreshes = new Set<() => void>();

  /** Content type of {@link text}. */
  get contentType(): string {
    return this.#registry.contentType;
  }

  /** Everything, as `GET /metrics` answers. */
  text(): Promise<string> {
    for (const refresh of this.#refreshes) refresh();
    return this.#registry.metrics();
  }

  /** Calls `refresh` before each {@link text}: it sets gauges whose values change as time goes by. Returns what ends that. */
  beforeText(refresh: () => void): () => void {
    this.#refreshes.add(refresh);
    return () => this.#refreshes.delete(refresh);
  }

  /** Adds what Node tells of itself: memory, CPU, event loop lag, garbage collection. */
  collectProcess(): void {
    collectDefaultMetrics({ register: this.#registry });
  }

  /** A counter. `name` ends in `_total`; `labels` are the label names that `inc` takes. */
  counter(name: string, help: string, labels: readonly string[] = []): Counter {
    return once(this.#counters, name, () => {
      const metric = new PromCounter<string>({
        name,
        help,
        labelNames: [...labels],
        registers: [this.#registry],
      });
      return { inc: (values: Labels = {}, by = 1) => metric.inc(values, by) };
    });
  }

  /** A gauge. `read`, where given, is asked for the value at each scrape. */
  gauge(name: string, help: string, labels: readonly string[] = [], read?: () => number): Gauge {
    return once(this.#gauges, name, () => {
      const metric: PromGauge<string> = new PromGauge<string>({
        name,
        help,
        labelNames: [...labels],
        registers: [this.#registry],
        ...(read ? { collect: () => metric.set(read()) } : {}),
      });
      return {
        set: (value: number, values: Labels = {}) => metric.set(values, value),
        inc: (values: Labels = {}, by = 1) => metric.inc(values, by),
        dec: (values: Labels = {}, by = 1) => metric.dec(values, by),
        remove: (values: Labels) => metric.remove(values),
      };
    });
  }

  /** A histogram. `buckets` are upper bounds in the metric's unit (seconds, bytes), ascending. */
  histogram(
    name: string,
    help: string,
    buckets: readonly number[],
    labels: readonly string[] = [],
  ): Histogram {
    return once(this.#histograms, name, () => {
      const metric = new PromHistogram<string>({
        name,
        help,
        buckets: [...buckets],
        labelNames: [...labels],
        registers: [this.#registry],
      });
      return { observe: (value: number, values: Labels = {}) => metric.observe(values, value) };
    });
  }
}

function once<M>(made: Map<string, M>, name: string, make: () => M): M {
  let metric = made.get(name);
  if (!metric) made.set(name, (metric = make()));
  return metric;
}
