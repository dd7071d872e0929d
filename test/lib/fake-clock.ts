import type { Clock, Timer } from "../../src/lib/clock.ts";

/** A clock that moves only when told to. Wall and monotonic time advance together unless `skew` is called. */
export class FakeClock implements Clock {
  #monotonic = 0;
  #wall: number;
  #timers: { at: number; seq: number; fn: () => void }[] = [];
  #seq = 0;

  constructor(wall = Date.UTC(2026, 0, 1)) {
    this.#wall = wall;
  }

  now(): number {
    return this.#wall + this.#monotonic;
  }

  monotonic(): number {
    return this.#monotonic;
  }

  setTimer(fn: () => void, ms: number): Timer {
    const entry = { at: this.#monotonic + Math.max(0, ms), seq: this.#seq++, fn };
    this.#timers.push(entry);
    return {
      cancel: () => {
        this.#timers = this.#timers.filter((timer) => timer !== entry);
      },
    };
  }

  /** Number of timers that have not fired. */
  get pending(): number {
    return this.#timers.length;
  }

  /** Moves wall time alone, as a corrected or wrong system clock does. */
  skew(ms: number): void {
    this.#wall += ms;
  }

  /** Moves time on by `ms`, firing due timers in order; timers set by those fire too when they fall due. */
  advance(ms: number): void {
    const end = this.#monotonic + ms;
    for (;;) {
      const due = this.#timers
        .filter((timer) => timer.at <= end)
        .sort((a, b) => a.at - b.at || a.seq - b.seq)[0];
      if (!due) break;
      this.#timers = this.#timers.filter((timer) => timer !== due);
      this.#monotonic = Math.max(this.#monotonic, due.at);
      due.fn();
    }
    this.#monotonic = end;
  }

  /** As {@link advance}, letting promise callbacks run between steps of `step` milliseconds. */
  async advanceAsync(ms: number, step = 10): Promise<void> {
    for (let left = ms; left > 0; left -= step) {
      this.advance(Math.min(step, left));
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}
