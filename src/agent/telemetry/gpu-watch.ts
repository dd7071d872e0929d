import type { Clock, Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Logger } from "../../lib/logger.ts";
import type { Report } from "../../protocol/messages.ts";
import type { GpuReading, GpuSource } from "./gpu.ts";

/** dcgm-exporter collects every 30 s unless told otherwise. */
const pollMs = 15_000;
/** A reading that could not be renewed for this long is no longer one. */
const staleMs = 60_000;

/** Keeps the readings of the node's GPUs fresh. */
export class GpuWatch {
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #source: GpuSource | undefined;
  readonly #changed: () => void;
  #readings: readonly GpuReading[] = [];
  #readAt = Number.NEGATIVE_INFINITY;
  #problem: string | undefined;
  #timer: Timer | undefined;
  #stopped = false;

  /** @param source undefined = nobody tells; all is unknown. */
  constructor(clock: Clock, log: Logger, source: GpuSource | undefined, changed: () => void) {
    this.#clock = clock;
    this.#log = log;
    this.#source = source;
    this.#changed = changed;
  }

  /** What is known now; empty = nothing. */
  get readings(): readonly GpuReading[] {
    return this.#clock.monotonic() - this.#readAt <= staleMs ? this.#readings : [];
  }

  start(): void {
    if (this.#source) void this.#poll(this.#source);
  }

  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  async #poll(source: GpuSource): Promise<void> {
    try {
      this.#readings = await source();
      this.#readAt = this.#clock.monotonic();
      this.#say(undefined);
    } catch (thrown) {
      this.#say(messageOf(thrown));
    }
    if (this.#stopped) return;
    this.#changed();
    this.#timer = this.#clock.setTimer(() => void this.#poll(source), pollMs);
  }

  #say(problem: string | undefined): void {
    if (problem !== undefined && problem !== this.#problem)
      this.#log.warn({ why: problem }, "GPUs cannot be read; their telemetry is unknown, tried again");
    this.#problem = problem;
  }
}

/**
 * The GPUs of a report: those that were read, and as many more as the spec says there are, of which only the product is
 * known.
 */
export function reportedGpus(
  readings: readonly GpuReading[],
  specified: { readonly count: number; readonly product: string | null },
): Report["hardware"]["gpus"] {
  const { product } = specified;
  const read = readings.map((gpu) => ({
    product: (gpu.product ?? product)?.slice(0, 512) ?? null,
    memory_mib: gpu.memoryMib === null || gpu.memoryMib < 0 ? null : Math.round(gpu.memoryMib),
  }));
  const unread = Math.max(0, specified.count - read.length);
  return [...read, ...Array.from({ length: unread }, () => ({ product, memory_mib: null }))].slice(0, 64);
}
