/**
 * Waits between restarts and between image pulls: 10 s, doubling to 300 s. The book-keeping is that of the kubelet
 * (k8s.io/client-go/util/flowcontrol.Backoff and doBackOff in kuberuntime_manager.go), because what it leads to is
 * subtle: the wait is looked up with the time of the last exit *known when the sync began*, so that a container which
 * the kubelet itself kills restarts at once one time more than one which crashes.
 */

/** Milliseconds. */
export interface CrashLoopOptions {
  /** First wait. Default 10,000. */
  readonly initial?: number;
  /** Longest wait. Default 300,000. An entry untouched for twice as long is forgotten. */
  readonly max?: number;
  /** Multiplies both, for tests that cannot wait. Default 1. */
  readonly scale?: number;
}

interface Entry {
  readonly wait: number;
  readonly updated: number;
}

/** Back-off per key. Times are milliseconds of one monotonic clock. */
export class CrashLoop {
  readonly #initial: number;
  readonly #max: number;
  readonly #entries = new Map<string, Entry>();

  constructor({ initial = 10_000, max = 300_000, scale = 1 }: CrashLoopOptions = {}) {
    this.#initial = initial * scale;
    this.#max = max * scale;
  }

  /** Milliseconds that `key`, which failed last at `since`, must still wait at `now`; 0 when it may go on. */
  remaining(key: string, since: number, now: number): number {
    const entry = this.#live(key, since);
    return entry ? Math.max(0, since + entry.wait - now) : 0;
  }

  /** The whole wait that is in force for `key`, for messages ("back-off 20s restarting …"). */
  wait(key: string): number {
    return this.#entries.get(key)?.wait ?? 0;
  }

  /** Notes that `key` goes on at `now` after it failed at `since`: the next wait is longer. */
  next(key: string, since: number, now: number): void {
    const entry = this.#live(key, since);
    const wait = entry ? Math.min(this.#max, entry.wait * 2) : this.#initial;
    this.#entries.set(key, { wait, updated: now });
  }

  #live(key: string, since: number): Entry | undefined {
    const entry = this.#entries.get(key);
    return entry && since - entry.updated <= 2 * this.#max ? entry : undefined;
  }
}

/** A duration as Go prints it, for whole seconds: `10s`, `2m40s`, `5m0s`; below a second in milliseconds. */
export function goDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)}ms`;
  const seconds = Math.round(ms / 1000);
  return seconds < 60 ? `${seconds}s` : `${Math.floor(seconds / 60)}m${seconds % 60}s`;
}
