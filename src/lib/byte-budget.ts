/** Where bytes are taken from and given back to. */
export interface Bytes {
  /** Takes `bytes` if they are there to take. */
  take(bytes: number): boolean;
  give(bytes: number): void;
}

/** Bytes that may be held in memory at once, whoever wants them: what is taken is given back. */
export class ByteBudget implements Bytes {
  readonly #max: number;
  #used = 0;

  constructor(max: number) {
    this.#max = max;
  }

  get used(): number {
    return this.#used;
  }

  /** Takes `bytes` if they are there to take. */
  take(bytes: number): boolean {
    if (this.#used + bytes > this.#max) return false;
    this.#used += bytes;
    return true;
  }

  /** Takes `bytes` also where they are not there: they are held already. */
  hold(bytes: number): void {
    this.#used += bytes;
  }

  give(bytes: number): void {
    this.#used -= bytes;
  }
}

/** A budget of which nobody may have more than a part at once, so that one who asks for much leaves some to the others. */
export class SharedBudget {
  readonly #whole: Bytes;
  readonly #most: number;
  /** By who has any. */
  readonly #parts = new Map<string, ByteBudget>();

  constructor(whole: Bytes, most: number) {
    this.#whole = whole;
    this.#most = most;
  }

  /** What `who` may take. */
  of(who: string): Bytes {
    return {
      take: (bytes) => {
        const part = this.#parts.get(who) ?? new ByteBudget(this.#most);
        if (!part.take(bytes)) return false;
        if (!this.#whole.take(bytes)) {
          part.give(bytes);
          return false;
        }
        this.#parts.set(who, part);
        return true;
      },
      give: (bytes) => {
        const part = this.#parts.get(who);
        part?.give(bytes);
        if (part?.used === 0) this.#parts.delete(who);
        this.#whole.give(bytes);
      },
    };
  }
}
