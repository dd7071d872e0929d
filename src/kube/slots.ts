/** Lets a bounded number in at a time, the others in the order in which they came. */
export class Slots {
  #free: number;
  readonly #waiting: (() => void)[] = [];

  constructor(count: number) {
    this.#free = count;
  }

  /** Resolves once there is a place; rejects with the signal's reason when it aborts before. */
  async acquire(signal: AbortSignal): Promise<void> {
    if (signal.aborted) throw signal.reason;
    if (this.#free > 0) {
      this.#free--;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const aborted = () => {
        this.#waiting.splice(this.#waiting.indexOf(admitted), 1);
        reject(signal.reason);
      };
      const admitted = () => {
        signal.removeEventListener("abort", aborted);
        resolve();
      };
      this.#waiting.push(admitted);
      signal.addEventListener("abort", aborted, { once: true });
    });
  }

  /** Frees a place. To be called once for each {@link acquire} that resolved. */
  release(): void {
    const next = this.#waiting.shift();
    if (next) next();
    else this.#free++;
  }
}
