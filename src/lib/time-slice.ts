import type { Clock } from "./clock.ts";

/**
 * Work that awaits nothing but promises is done by Node before it turns to timers and sockets, however long it takes. Those who
 * may have much of it share a slice of time, and wait for {@link over} between two pieces.
 */
export class TimeSlice {
  readonly #clock: Pick<Clock, "monotonic">;
  readonly #ms: number;
  /** When the first piece since timers and sockets had their turn was done. */
  #since = 0;
  /** Resolves when they have it again; undefined = no piece was done since they had. */
  #turn: Promise<void> | undefined;

  /** @param ms how long the work may go on before the others have their turn */
  constructor(clock: Pick<Clock, "monotonic">, ms: number) {
    this.#clock = clock;
    this.#ms = ms;
  }

  /** Resolves once timers and sockets have had their turn, if the slice is over; at once if it is not. */
  async over(): Promise<void> {
    const now = this.#clock.monotonic();
    if (this.#turn) {
      if (now - this.#since >= this.#ms) await this.#turn;
      return;
    }
    this.#since = now;
    this.#turn = new Promise((resolve) => {
      setImmediate(() => {
        this.#turn = undefined;
        resolve();
      });
    });
  }
}
