import type { Clock } from "../lib/clock.ts";
import { type KubeObject, compareResourceVersions } from "./object.ts";

/** What is asked of a cache; a {@link Reflector} is one. */
export interface Cache {
  readonly resourceVersion: string | undefined;
  readonly store: { getByUid(uid: string): KubeObject | undefined };
}

interface Expectation {
  readonly cache: Cache;
  /** Set for a write, unset for a deletion. */
  readonly resourceVersion: string | undefined;
  /** When an object that was deleted once more was to end before that. */
  readonly deletionTimestamp?: string | undefined;
  readonly expires: number;
}

/**
 * Writes of ours that the cache has not shown yet, by reconcile key. A reconcile that runs before the cache shows its own
 * last write would make a second child; with these the {@link Controller} holds the key back until the cache has caught
 * up, or until a time limit after which the write counts as seen (the cache is then slow or the object was lost, and names
 * and preconditions have to protect).
 */
export class Expectations {
  readonly #clock: Clock;
  readonly #ttl: number;
  /** By key, then by the UID of what was written: a pool of thousands writes as many children in one reconcile. */
  readonly #pending = new Map<string, Map<string, Expectation>>();

  /** `ttl`: milliseconds after which an expectation is given up. Default 60 s. */
  constructor(clock: Clock, ttl = 60_000) {
    this.#clock = clock;
    this.#ttl = ttl;
  }

  /** `object` is what a create, patch or apply answered: the cache has to show this version of it, or a later one. */
  wrote(key: string, cache: Cache, object: KubeObject): void {
    const { uid, resourceVersion } = object.metadata;
    this.#expect(key, uid, { cache, resourceVersion });
  }

  /** `object` was deleted: the cache has to show it terminating, or not at all. */
  deleted(key: string, cache: Cache, object: KubeObject): void {
    this.#expect(key, object.metadata.uid, { cache, resourceVersion: undefined });
  }

  /** `object`, as it was seen terminating, was deleted once more with a shorter grace: the cache has to show its new end, or it gone. */
  shortened(key: string, cache: Cache, object: KubeObject): void {
    const { uid, deletionTimestamp } = object.metadata;
    this.#expect(key, uid, { cache, resourceVersion: undefined, deletionTimestamp });
  }

  /** Milliseconds after which the last unmet expectation of `key` is given up; 0 when there is none. */
  wait(key: string): number {
    const pending = this.#pending.get(key);
    if (!pending) return 0;
    const now = this.#clock.monotonic();
    let last = now;
    for (const [uid, expectation] of pending) {
      if (expectation.expires <= now || met(uid, expectation)) pending.delete(uid);
      else last = Math.max(last, expectation.expires);
    }
    if (pending.size === 0) this.#pending.delete(key);
    return last - now;
  }

  /** Drops what is expected for a key whose object is gone. */
  forget(key: string): void {
    this.#pending.delete(key);
  }

  #expect(key: string, uid: string, expected: Omit<Expectation, "expires">): void {
    let pending = this.#pending.get(key);
    if (!pending) this.#pending.set(key, (pending = new Map()));
    pending.set(uid, { ...expected, expires: this.#clock.monotonic() + this.#ttl });
  }
}

function met(uid: string, { cache, resourceVersion, deletionTimestamp }: Expectation): boolean {
  const seen = cache.store.getByUid(uid);
  if (resourceVersion === undefined) return !seen || seen.metadata.deletionTimestamp !== deletionTimestamp;
  if (seen && reached(seen.metadata.resourceVersion, resourceVersion)) return true;
  // Created and deleted again before the cache showed it: then the cache as a whole has come past that version.
  return cache.resourceVersion !== undefined && reached(cache.resourceVersion, resourceVersion);
}

function reached(seen: string, wanted: string): boolean {
  const order = compareResourceVersions(seen, wanted);
  return order !== undefined && order >= 0;
}
