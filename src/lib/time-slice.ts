import type { Clock } from "./clock.ts";

/**
 * Work that awaits nothing but promises is done by Node before it turns to timers and sockets, however long it takes. Those who
 * may have much of it share a slice of time, and wait for {@link over} between two pieces.
 */
export class TimeSlice {
  readonly #clock: Pick<Clock, "monotonic">;
  readonly #ms: number;
  #since = Number.NEGATIVE_INFINITY;
  #turn: Promise<void> | undefined;

  /** @param ms how long the work may go on before the others have their turn */
  constructor(clock: Pick<Clock, "monotonic">, ms: number) {
    this.#clock = clock;
    this.#ms = ms;
  }

  /** Resolves once timers and sockets have had their turn, if the slice is over; at once if it is not. */
  async over(): Promise<void> {
    if (this.#clock.monotonic() - this.#since < this.#ms) return;
    this.#turn ??= new Promise((resolve) => {
      setImmediate(() => {
        this.#turn = undefined;
        this.#since = this.#clock.monotonic();
        resolve();
      });
    });
    await this.#turn;
  }
}
