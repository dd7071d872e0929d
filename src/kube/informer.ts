import type { KubeObject } from "./object.ts";
import { refOf } from "./object.ts";
import { type Handler, Reflector, type ReflectorOptions } from "./reflector.ts";
import type { Resource } from "./resources.ts";
import type { IndexFunction, ReadStore } from "./store.ts";

/** One resource as controllers see it: a cache, and what changed in it. A {@link Reflector} is one. */
export interface Informer<T extends KubeObject> {
  readonly resource: Resource<T>;
  readonly store: ReadStore<T>;
  /** Whether the store has ever held a whole state. */
  readonly hasSynced: boolean;
  /** The version that the whole store has come to. */
  readonly resourceVersion: string | undefined;
  synced(): Promise<void>;
  /** Adds a handler; what the store holds is told to it at once. Returns what takes it off again. */
  handle(handler: Handler<T>): () => void;
  /** Runs until `signal` aborts. Never rejects. Call it once. */
  run(signal: AbortSignal): Promise<void>;
}

/**
 * The objects of some namespaces, or of all where `namespaces` is empty. Each namespace has a reflector of its own, since
 * the API server lists and watches one namespace or all: so a Role in each is enough.
 */
export function informerOf<T extends KubeObject>(
  options: Omit<ReflectorOptions<T>, "namespace">,
  namespaces: readonly string[],
): Informer<T> {
  const [first, ...more] = namespaces;
  if (first === undefined) return new Reflector(options);
  if (more.length === 0) return new Reflector({ ...options, namespace: first });
  const parts = new Map<string, Reflector<T>>();
  for (const namespace of namespaces) parts.set(namespace, new Reflector({ ...options, namespace }));
  return new Namespaces(options.resource, parts);
}

/** Reflectors of several namespaces, read as one. */
class Namespaces<T extends KubeObject> implements Informer<T> {
  readonly resource: Resource<T>;
  readonly store: ReadStore<T>;
  readonly #parts: readonly Reflector<T>[];

  constructor(resource: Resource<T>, parts: ReadonlyMap<string, Reflector<T>>) {
    this.resource = resource;
    this.#parts = [...parts.values()];
    this.store = new JoinedStore(new Map([...parts].map(([namespace, { store }]) => [namespace, store])));
  }

  get hasSynced(): boolean {
    return this.#parts.every(({ hasSynced }) => hasSynced);
  }

  /**
   * That of the namespace which is furthest behind. A quiet one is told of others' versions by bookmarks only, once a
   * minute: late, never wrong.
   */
  get resourceVersion(): string | undefined {
    let lowest: bigint | undefined;
    for (const { resourceVersion } of this.#parts) {
      if (resourceVersion === undefined || !/^\d+$/.test(resourceVersion)) return undefined;
      const version = BigInt(resourceVersion);
      if (lowest === undefined || version < lowest) lowest = version;
    }
    return lowest?.toString();
  }

  async synced(): Promise<void> {
    await Promise.all(this.#parts.map((part) => part.synced()));
  }

  handle(handler: Handler<T>): () => void {
    const ends = this.#parts.map((part) => part.handle(handler));
    return () => {
      for (const end of ends) end();
    };
  }

  async run(signal: AbortSignal): Promise<void> {
    await Promise.all(this.#parts.map((part) => part.run(signal)));
  }
}

/** Stores of several namespaces, read as one. */
class JoinedStore<T extends KubeObject> implements ReadStore<T> {
  readonly #stores: ReadonlyMap<string, ReadStore<T>>;

  constructor(stores: ReadonlyMap<string, ReadStore<T>>) {
    this.#stores = stores;
  }

  get size(): number {
    let size = 0;
    for (const store of this.#stores.values()) size += store.size;
    return size;
  }

  get(key: string): T | undefined {
    return this.#stores.get(refOf(key).namespace ?? "")?.get(key);
  }

  getByUid(uid: string): T | undefined {
    for (const store of this.#stores.values()) {
      const found = store.getByUid(uid);
      if (found) return found;
    }
    return undefined;
  }

  *values(): IterableIterator<T> {
    for (const store of this.#stores.values()) yield* store.values();
  }

  byIndex(index: string, value: string): readonly T[] {
    const found: T[] = [];
    for (const store of this.#stores.values())
      for (const object of store.byIndex(index, value)) found.push(object);
    return found;
  }

  addIndex(index: string, valuesOf: IndexFunction<T>): void {
    for (const store of this.#stores.values()) store.addIndex(index, valuesOf);
  }
}
