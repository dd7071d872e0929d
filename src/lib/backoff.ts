/** Source of randomness in [0, 1), as `Math.random`. An argument, so that tests are the same twice. */
export type Random = () => number;

/** Bounds of an exponential back-off, in milliseconds. */
export interface BackoffOptions {
  /** Upper bound of the first wait. */
  readonly base: number;
  /** Upper bound of every wait. */
  readonly cap: number;
}

/**
 * Exponential back-off with full jitter: wait number n (from 0) is uniform in [0, min(cap, base·2ⁿ)). Full jitter
 * spreads a fleet that lost its server at one instant evenly over the window
 * (M. Brooker, "Exponential Backoff And Jitter", 2015).
 */
export function fullJitter(attempt: number, { base, cap }: BackoffOptions, random: Random): number {
  const ceiling = Math.min(cap, base * 2 ** Math.min(attempt, 52));
  return Math.floor(random() * ceiling);
}
