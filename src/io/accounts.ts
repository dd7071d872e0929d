import { type AccountKey, parseAccountKey } from "../protocol/binding.ts";
import type { Kept } from "./store/port.ts";

/** Accounts and their keys. */
export class Accounts {
  readonly #keys = new Map<string, AccountKey>();

  constructor(kept: Kept["accounts"]) {
    for (const { id, key } of kept) this.add(id, key);
  }

  /** `key`: 32 bytes, base64url. */
  add(id: string, key: string): void {
    const parsed = parseAccountKey(key);
    if (parsed) this.#keys.set(id, parsed);
  }

  has(id: string): boolean {
    return this.#keys.has(id);
  }

  keyOf(id: string): AccountKey | undefined {
    return this.#keys.get(id);
  }
}
