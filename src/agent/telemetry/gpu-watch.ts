import type { Clock, Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Logger } from "../../lib/logger.ts";
import type { Report, Xid } from "../../protocol/messages.ts";
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
  /** What the driver last said of each GPU that was ever read; undefined = nothing. */
  readonly #xids = new Map<string, Xid | undefined>();
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

  /** What the driver last said of each GPU, by {@link gpuKey}. */
  get xids(): ReadonlyMap<string, Xid | undefined> {
    return this.#xids;
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
      this.#readings.forEach((gpu, at) => this.#learnXid(gpuKey(gpu, at), gpu.xid));
      this.#say(undefined);
    } catch (thrown) {
      this.#say(messageOf(thrown));
    }
    if (this.#stopped) return;
    this.#changed();
    this.#timer = this.#clock.setTimer(() => void this.#poll(source), pollMs);
  }

  /** DCGM shows the last one until the driver is loaded anew: what a first reading shows may be years old. */
  #learnXid(key: string, code: number | null): void {
    if (code === null) return;
    const known = this.#xids.has(key);
    if (code <= 0) this.#xids.set(key, undefined);
    else if (this.#xids.get(key)?.code !== code)
      this.#xids.set(key, { code, since: known ? this.#clock.now() : null });
  }

  #say(problem: string | undefined): void {
    if (problem !== undefined && problem !== this.#problem)
      this.#log.warn({ why: problem }, "GPUs cannot be read; their telemetry is unknown, tried again");
    this.#problem = problem;
  }
}

/** What a GPU is known by between two readings: its UUID, else its place. */
export const gpuKey = ({ uuid }: GpuReading, at: number): string => uuid ?? `#${at}`;

/**
 * The GPUs of a report: those that were read, and as many more as the spec says there are, of which only the product is
 * known.
 */
export function reportedGpus(
  readings: readonly GpuReading[],
  specified: { readonly count: number; readonly product: string | null },
  xids: ReadonlyMap<string, Xid | undefined> = new Map(),
): Report["hardware"]["gpus"] {
  const { product } = specified;
  const read = readings.map((gpu, at) => {
    const xid = xids.get(gpuKey(gpu, at));
    return {
      product: (gpu.product ?? product)?.slice(0, 512) ?? null,
      memory_mib: gpu.memoryMib === null || gpu.memoryMib < 0 ? null : Math.round(gpu.memoryMib),
      ...(xid && { xid }),
    };
  });
  const unread = Math.max(0, specified.count - read.length);
  return [...read, ...Array.from({ length: unread }, () => ({ product, memory_mib: null }))].slice(0, 64);
}
