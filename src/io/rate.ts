import type { Clock } from "../lib/clock.ts";

/** A token bucket's size and how fast it fills. */
export interface Rate {
  readonly burst: number;
  readonly perSecond: number;
}

/** One bucket of tokens, full at first. */
export class Bucket {
  readonly #rate: Rate;
  #tokens: number;
  #at: number;

  /** @param now monotonic ms. */
  constructor(rate: Rate, now: number) {
    this.#rate = rate;
    this.#tokens = rate.burst;
    this.#at = now;
  }

  /** Takes `count` tokens; false, and nothing taken, if there are not so many. @param now monotonic ms. */
  take(count: number, now: number): boolean {
    const { burst, perSecond } = this.#rate;
    this.#tokens = Math.min(burst, this.#tokens + ((now - this.#at) / 1000) * perSecond);
    this.#at = now;
    if (this.#tokens < count) return false;
    this.#tokens -= count;
    return true;
  }
}

/** Most keys that are remembered; beyond it the oldest are forgotten, which only lets them start full again. */
const maxKeys = 65_536;

/** Token buckets by key: an address, or an address and a node. Asked before any signature is checked. */
export class RateLimit {
  readonly #rate: Rate;
  readonly #clock: Clock;
  readonly #buckets = new Map<string, Bucket>();

  constructor(rate: Rate, clock: Clock) {
    this.#rate = rate;
    this.#clock = clock;
  }

  /** Takes one token; false if there is none. */
  take(key: string): boolean {
    const now = this.#clock.monotonic();
    let bucket = this.#buckets.get(key);
    // Keeps the map in order of use, so that the first key is the one to forget.
    if (bucket) this.#buckets.delete(key);
    else if (this.#buckets.size >= maxKeys) this.#forgetOldest();
    bucket ??= new Bucket(this.#rate, now);
    this.#buckets.set(key, bucket);
    return bucket.take(1, now);
  }

  #forgetOldest(): void {
    for (const key of this.#buckets.keys()) {
      this.#buckets.delete(key);
      return;
    }
  }
}
