/**
 * A penalty that halves every minute: what a node (and, in part, its account) has against it when jobs are given out.
 * Below a half it no longer counts as deprioritised.
 */
export class Standing {
  #value = 0;
  #at = 0;

  /** Penalty at `now` (monotonic ms). */
  at(now: number): number {
    return this.#value === 0 ? 0 : this.#value * 2 ** (-(now - this.#at) / halfLifeMs);
  }

  add(weight: number, now: number): void {
    this.#value = this.at(now) + weight;
    this.#at = now;
  }

  /** Takes back what was added `since` (monotonic ms), as decayed by now. */
  forgive(weight: number, since: number, now: number): void {
    this.#value = Math.max(0, this.at(now) - weight * 2 ** (-(now - since) / halfLifeMs));
    this.#at = now;
  }

  /** Until when (monotonic ms) others go first; undefined = they do not. */
  deprioritisedUntil(now: number): number | undefined {
    const value = this.at(now);
    return value <= threshold ? undefined : now + halfLifeMs * Math.log2(value / threshold);
  }
}

const halfLifeMs = 60_000;
const threshold = 0.5;

/** What each failing weighs. */
export const penalties = {
  /** The node was gone while it held jobs. */
  vanished: 1,
  /** It let a lease run out while it was connected. */
  leaseLost: 2,
  /** Its engine failed. */
  engine: 1,
  /** Its result contradicts what was relayed. */
  refused: 8,
} as const;
/** Part of a node's penalty that its account gets. */
export const accountShare = 0.25;
