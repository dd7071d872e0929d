import type { Clock } from "../lib/clock.ts";

/** A token bucket's size and how fast it fills. */
export interface Rate {
  readonly burst: number;
  readonly perSecond: number;
}

/** Most keys that are remembered; beyond it the oldest are forgotten, which only lets them start full again. */
const maxKeys = 65_536;

/** Token buckets by key: an address, or an address and a node. Asked before any signature is checked. */
export class RateLimit {
  readonly #rate: Rate;
  readonly #clock: Clock;
  readonly #buckets = new Map<string, { tokens: number; at: number }>();

  constructor(rate: Rate, clock: Clock) {
    this.#rate = rate;
    this.#clock = clock;
  }

  /** Takes one token; false if there is none. */
  take(key: string): boolean {
    const now = this.#clock.monotonic();
    const { burst, perSecond } = this.#rate;
    let bucket = this.#buckets.get(key);
    if (bucket) {
      bucket.tokens = Math.min(burst, bucket.tokens + ((now - bucket.at) / 1000) * perSecond);
      bucket.at = now;
      // Keeps the map in order of use, so that the first key is the one to forget.
      this.#buckets.delete(key);
    } else {
      bucket = { tokens: burst, at: now };
      if (this.#buckets.size >= maxKeys) this.#forgetOldest();
    }
    this.#buckets.set(key, bucket);
    if (bucket.tokens < 1) return false;
    bucket.tokens -= 1;
    return true;
  }

  #forgetOldest(): void {
    for (const key of this.#buckets.keys()) {
      this.#buckets.delete(key);
      return;
    }
  }
}
