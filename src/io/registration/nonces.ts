import { createHmac, timingSafeEqual } from "node:crypto";
import type { RandomBytes } from "../sessions/host.ts";

/** Life of a registration nonce, ms. */
export const nonceLifeMs = 5 * 60_000;

/**
 * Nonces for registration that need no memory: a time, random bytes, and a MAC over both with a key of this process. A
 * nonce may be used again within its life; registering again changes nothing, so that is no harm.
 */
export class Nonces {
  readonly #secret: string;
  readonly #random: RandomBytes;

  constructor(random: RandomBytes) {
    this.#random = random;
    this.#secret = random.bytes(32);
  }

  /** @param now wall time, ms. */
  issue(now: number): string {
    const text = `${now.toString(36)}.${this.#random.bytes(16)}`;
    return `${text}.${this.#mac(text).toString("base64url")}`;
  }

  /** Whether this process issued it within its life. @param now wall time, ms. */
  accepts(nonce: string, now: number): boolean {
    const [time = "", random = "", mac = "", ...rest] = nonce.split(".");
    if (rest.length > 0 || !/^[0-9a-z]{1,11}$/.test(time)) return false;
    const expected = this.#mac(`${time}.${random}`);
    const given = Buffer.from(mac, "base64url");
    if (given.length !== expected.length || !timingSafeEqual(given, expected)) return false;
    const age = now - Number.parseInt(time, 36);
    return age >= 0 && age <= nonceLifeMs;
  }

  #mac(text: string): Buffer {
    return createHmac("sha256", this.#secret).update(text).digest();
  }
}
