import { type KubeObject, keyOf } from "./object.ts";

/** What one step did to a store. `old` and the object of a deletion are as they were last seen. */
export type Change<T> =
  | { readonly type: "add"; readonly object: T }
  | { readonly type: "update"; readonly object: T; readonly old: T }
  | { readonly type: "delete"; readonly object: T };

/** Gives the values under which an object is found, none or several. Pure. */
export type IndexFunction<T> = (object: T) => readonly string[];

/** What everyone but the reflector may do with a store. */
export interface ReadStore<T extends KubeObject> {
  readonly size: number;
  /** By `namespace/name` ({@link keyOf}). */
  get(key: string): T | undefined;
  getByUid(uid: string): T | undefined;
  /** All objects, in no particular order. */
  values(): IterableIterator<T>;
  /** The objects that index `index` has under `value`: a look-up, never a scan. Throws when there is no such index. */
  byIndex(index: string, value: string): readonly T[];
  /** Adds an index by name; objects that are already there are indexed at once. Throws when the name is taken. */
  addIndex(index: string, valuesOf: IndexFunction<T>): void;
}

interface Index<T> {
  readonly valuesOf: IndexFunction<T>;
  readonly keys: Map<string, Set<string>>;
}

/**
 * The last seen state of every object of one resource, keyed by namespace and name. An object that was deleted and
 * created again under its name is another object, told by its UID: the store reports a delete and an add.
 */
export class Store<T extends KubeObject> implements ReadStore<T> {
  readonly #objects = new Map<string, T>();
  readonly #keyOfUid = new Map<string, string>();
  readonly #indexes = new Map<string, Index<T>>();

  get size(): number {
    return this.#objects.size;
  }

  get(key: string): T | undefined {
    return this.#objects.get(key);
  }

  getByUid(uid: string): T | undefined {
    const key = this.#keyOfUid.get(uid);
    return key === undefined ? undefined : this.#objects.get(key);
  }

  values(): IterableIterator<T> {
    return this.#objects.values();
  }

  byIndex(index: string, value: string): readonly T[] {
    const found = this.#indexes.get(index);
    if (!found) throw new Error(`the store has no index "${index}"; add it with addIndex before it is used`);
    const result: T[] = [];
    for (const key of found.keys.get(value) ?? []) {
      const object = this.#objects.get(key);
      if (object) result.push(object);
    }
    return result;
  }

  addIndex(name: string, valuesOf: IndexFunction<T>): void {
    if (this.#indexes.has(name)) throw new Error(`the store already has an index "${name}"`);
    const index: Index<T> = { valuesOf, keys: new Map() };
    this.#indexes.set(name, index);
    for (const [key, object] of this.#objects) insert(index, key, object);
  }

  /** Puts an object that was added or modified. No change when this very version is already there. */
  put(object: T): readonly Change<T>[] {
    const key = keyOf(object);
    const old = this.#objects.get(key);
    if (!old) {
      this.#set(key, object);
      return [{ type: "add", object }];
    }
    if (old.metadata.uid !== object.metadata.uid) {
      this.#unset(key, old);
      this.#set(key, object);
      return [
        { type: "delete", object: old },
        { type: "add", object },
      ];
    }
    if (old.metadata.resourceVersion === object.metadata.resourceVersion) return [];
    this.#unset(key, old);
    this.#set(key, object);
    return [{ type: "update", object, old }];
  }

  /** Takes out a deleted object. A deletion of an earlier object of this name changes nothing. */
  remove(object: T): readonly Change<T>[] {
    const key = keyOf(object);
    const old = this.#objects.get(key);
    if (!old || old.metadata.uid !== object.metadata.uid) return [];
    this.#unset(key, old);
    return [{ type: "delete", object }];
  }

  /** Puts exactly these objects in place of all: what is not among them was deleted while nobody watched. */
  replace(objects: Iterable<T>): readonly Change<T>[] {
    const changes: Change<T>[] = [];
    const kept = new Set<string>();
    const arrived: T[] = [];
    for (const object of objects) {
      kept.add(keyOf(object));
      arrived.push(object);
    }
    for (const [key, old] of this.#objects) {
      if (kept.has(key)) continue;
      this.#unset(key, old);
      changes.push({ type: "delete", object: old });
    }
    for (const object of arrived) changes.push(...this.put(object));
    return changes;
  }

  #set(key: string, object: T): void {
    this.#objects.set(key, object);
    this.#keyOfUid.set(object.metadata.uid, key);
    for (const index of this.#indexes.values()) insert(index, key, object);
  }

  #unset(key: string, object: T): void {
    this.#objects.delete(key);
    this.#keyOfUid.delete(object.metadata.uid);
    for (const index of this.#indexes.values()) {
      for (const value of index.valuesOf(object)) {
        const keys = index.keys.get(value);
        keys?.delete(key);
        if (keys?.size === 0) index.keys.delete(value);
      }
    }
  }
}

function insert<T>(index: Index<T>, key: string, object: T): void {
  for (const value of index.valuesOf(object)) {
    const keys = index.keys.get(value);
    if (keys) keys.add(key);
    else index.keys.set(value, new Set([key]));
  }
}

/** Index values: UIDs of all owners. `store.addIndex("owner", byOwnerUid)`. */
export function byOwnerUid(object: KubeObject): readonly string[] {
  return object.metadata.ownerReferences?.map((owner) => owner.uid) ?? [];
}

/** Index values: the object's namespace. */
export function byNamespace(object: KubeObject): readonly string[] {
  return object.metadata.namespace ? [object.metadata.namespace] : [];
}
