import { fullJitter } from "../../lib/backoff.ts";
import type { Ports } from "../ports.ts";

/** When the service may be asked again after it could not be had: full jitter of 1 s·2ⁿ, at most 64 s. */
export class Asking {
  readonly #ports: Pick<Ports, "clock" | "random">;
  #failures = 0;
  #again = Number.NEGATIVE_INFINITY;
  /** False while nothing may be asked at all. */
  allowed = true;

  constructor(ports: Pick<Ports, "clock" | "random">) {
    this.#ports = ports;
  }

  get may(): boolean {
    return this.allowed && this.#ports.clock.monotonic() >= this.#again;
  }

  failed(): void {
    if (!this.may) return;
    const wait = fullJitter(this.#failures++, { base: 1_000, cap: 64_000 }, this.#ports.random.number);
    this.#again = this.#ports.clock.monotonic() + wait;
  }

  /** There is news: the next question need not wait. */
  hurry(): void {
    this.#again = Number.NEGATIVE_INFINITY;
  }

  /** All is well: the next failure starts the back-off anew. */
  reset(): void {
    this.#failures = 0;
  }
}
