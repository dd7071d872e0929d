/**
 * Time as an argument. Code that waits or measures takes a {@link Clock}, so tests drive it by hand and never
 * sleep. Durations are milliseconds throughout the project.
 */

/** A pending timer. `cancel` is idempotent and does nothing once the timer has fired. */
export interface Timer {
  cancel(): void;
}

/** Wall time, monotonic time and timers. */
export interface Clock {
  /** Wall time in milliseconds since the Unix epoch. May jump. Only for what other machines read. */
  now(): number;
  /** Milliseconds from an arbitrary origin, never going back. For every deadline and duration of our own. */
  monotonic(): number;
  /** Calls `fn` once after `ms` milliseconds. */
  setTimer(fn: () => void, ms: number): Timer;
}

/** The machine's clock. Its timers keep the process alive, as `setTimeout` does. */
export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  setTimer(fn, ms) {
    const handle = setTimeout(fn, ms);
    return { cancel: () => clearTimeout(handle) };
  },
};

/**
 * Resolves after `ms` milliseconds on `clock`, or at once when `signal` aborts (it never rejects: the caller
 * looks at `signal.aborted`, which it must do anyway).
 */
export function sleep(clock: Clock, ms: number, signal?: AbortSignal): Promise<void> {
  if (signal?.aborted) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      timer.cancel();
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = clock.setTimer(done, ms);
    signal?.addEventListener("abort", done, { once: true });
  });
}
