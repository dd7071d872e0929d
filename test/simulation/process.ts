import type { Clock, Timer } from "../../src/lib/clock.ts";
import type { Planned, World } from "./world.ts";

/** Wall time at which every world begins. */
export const worldBegin = Date.UTC(2026, 0, 1);

/** A host's wall clock: off by so many ms, which may change. */
export interface HostClock {
  skewMs: number;
}

/**
 * One process: what it has planned dies with it, and waits while it is stopped (SIGSTOP). Its monotonic clock begins when
 * it does, its wall clock is the host's.
 */
export class SimProcess {
  readonly name: string;
  readonly world: World;
  readonly clock: Clock;
  alive = true;
  /** World time until which it stands still. */
  pausedUntil = 0;
  readonly #onDeath = new Set<() => void>();

  constructor(world: World, name: string, host: HostClock) {
    this.world = world;
    this.name = name;
    const begin = world.now;
    this.clock = {
      now: () => Math.floor(worldBegin + world.now + host.skewMs),
      monotonic: () => world.now - begin,
      // As a platform timer: whole milliseconds, at least one.
      setTimer: (fn, ms): Timer => this.plan(Math.max(1, Math.ceil(ms)), `${name} timer`, fn),
    };
  }

  /** Plans something that this process does; nothing happens if it is dead by then. */
  plan(ms: number, label: string, run: () => void): Planned {
    return this.world.plan(
      ms,
      label,
      () => (this.alive ? run() : undefined),
      () => this.pausedUntil,
    );
  }

  /** Stops it for so long. What happens to it meanwhile happens afterwards. */
  pause(ms: number): void {
    this.pausedUntil = Math.max(this.pausedUntil, this.world.now + ms);
  }

  get paused(): boolean {
    return this.pausedUntil > this.world.now;
  }

  /** Called when it dies; returns how to take that back. */
  onDeath(then: () => void): () => void {
    this.#onDeath.add(then);
    return () => this.#onDeath.delete(then);
  }

  /** Ends it between two steps, as SIGKILL does. */
  kill(): void {
    if (!this.alive) return;
    this.alive = false;
    for (const then of this.#onDeath) then();
    this.#onDeath.clear();
  }
}
