import { createHash } from "node:crypto";

/** Randomness that is the same for the same seed and name. Each part of a world has its own, so that one draws nothing from another. */
export class Dice {
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;
  readonly #name: string;

  constructor(name: string) {
    const hash = createHash("sha256").update(name).digest();
    this.#name = name;
    this.#a = hash.readInt32LE(0);
    this.#b = hash.readInt32LE(4);
    this.#c = hash.readInt32LE(8);
    for (let round = 0; round < 12; round++) this.number();
  }

  /** Dice of a part. */
  fork(part: string | number): Dice {
    return new Dice(`${this.#name}/${part}`);
  }

  /** Uniform in [0, 1): the generator sfc32 (C. Doty-Humphrey, PractRand). */
  readonly number = (): number => {
    const sum = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + sum;
    this.#c |= 0;
    return (sum >>> 0) / 4_294_967_296;
  };

  chance(share: number): boolean {
    return this.number() < share;
  }

  /** Uniform in [from, to). */
  between(from: number, to: number): number {
    return from + this.number() * (to - from);
  }

  /** Whole number in [from, to]. */
  int(from: number, to: number): number {
    return from + Math.floor(this.number() * (to - from + 1));
  }

  /** Exponential with this mean: the gap between independent events. */
  gap(mean: number): number {
    return -Math.log(1 - this.number()) * mean;
  }

  pick<T>(list: readonly T[]): T {
    const chosen = list[Math.floor(this.number() * list.length)];
    if (chosen === undefined) throw new Error("nothing to pick from");
    return chosen;
  }

  /** `count` random bytes, base64url. */
  readonly bytes = (count: number): string => {
    const bytes = Buffer.alloc(count);
    for (let at = 0; at < count; at++) bytes[at] = Math.floor(this.number() * 256);
    return bytes.toString("base64url");
  };
}
