import type { Clock, Timer } from "../lib/clock.ts";
import type { Informer } from "./informer.ts";
import { type KubeObject, controllerOf, keyOf } from "./object.ts";
import type { Resource } from "./resources.ts";
import type { Change } from "./store.ts";

/** Where a controller's keys come from. */
export interface Source {
  /** For messages. */
  readonly name: string;
  /** Resolves once everything that exists has been told. */
  synced(): Promise<void>;
  /** Begins to tell keys, with the reason for each; what exists is told at once. Returns what ends it. */
  attach(add: (key: string, reason: string) => void): () => void;
}

/** Whether a change is worth a reconcile. */
export type Predicate<T> = (change: Change<T>) => boolean;

/** The objects that the controller is about: each queues its own key. */
export function own<T extends KubeObject>(informer: Informer<T>, when?: Predicate<T>): Source {
  return mapped(informer, (object) => [keyOf(object)], when);
}

/** Children: each queues the object of kind `owner` that controls it. */
export function owned<T extends KubeObject>(
  informer: Informer<T>,
  owner: Resource<KubeObject>,
  when?: Predicate<T>,
): Source {
  return mapped(
    informer,
    (object) => {
      const reference = controllerOf(object);
      if (!reference || reference.kind !== owner.kind) return [];
      const group = reference.apiVersion.includes("/") ? (reference.apiVersion.split("/")[0] ?? "") : "";
      if (group !== owner.group) return [];
      const { namespace } = object.metadata;
      return [owner.namespaced && namespace ? `${namespace}/${reference.name}` : reference.name];
    },
    when,
  );
}

/** Anything else: each object queues the keys that `keysOf` gives. An update asks for the old and the new object. */
export function mapped<T extends KubeObject>(
  informer: Informer<T>,
  keysOf: (object: T) => Iterable<string>,
  when: Predicate<T> = () => true,
): Source {
  const { plural } = informer.resource;
  return {
    name: plural,
    synced: () => informer.synced(),
    attach(add) {
      const tell = (change: Change<T>, did: string) => {
        if (!when(change)) return;
        const reason = `${plural} ${keyOf(change.object)} ${did}`;
        const keys = new Set(keysOf(change.object));
        if (change.type === "update") for (const key of keysOf(change.old)) keys.add(key);
        for (const key of keys) add(key, reason);
      };
      return informer.handle({
        added: (object) => tell({ type: "add", object }, "added"),
        updated: (object, old) => tell({ type: "update", object, old }, "updated"),
        deleted: (object) => tell({ type: "delete", object }, "deleted"),
      });
    },
  };
}

/**
 * `source` with each key at most once in `msOf(key)` milliseconds: the first time is told at once, what follows is told when the
 * time is over. For keys whose reconcile is long and whose events are many.
 */
export function batched(source: Source, clock: Clock, msOf: (key: string) => number): Source {
  return {
    name: source.name,
    synced: () => source.synced(),
    attach(add) {
      const resting = new Map<string, { readonly timer: Timer; reason: string | undefined }>();
      const rest = (key: string) => {
        const ms = msOf(key);
        if (ms < 1) return;
        const timer = clock.setTimer(() => {
          const waiting = resting.get(key)?.reason;
          resting.delete(key);
          if (waiting === undefined) return;
          add(key, waiting);
          rest(key);
        }, ms);
        resting.set(key, { timer, reason: undefined });
      };
      const detach = source.attach((key, reason) => {
        const waiting = resting.get(key);
        if (waiting) waiting.reason ??= reason;
        else {
          add(key, reason);
          rest(key);
        }
      });
      return () => {
        detach();
        for (const { timer } of resting.values()) timer.cancel();
        resting.clear();
      };
    },
  };
}

/** Lets through what changed the spec, or metadata that controllers read; not what changed the status alone. */
export function exceptStatus<T extends KubeObject>(change: Change<T>): boolean {
  if (change.type !== "update") return true;
  const [now, before] = [change.object.metadata, change.old.metadata];
  return (
    now.generation !== before.generation ||
    now.deletionTimestamp !== before.deletionTimestamp ||
    JSON.stringify([now.labels, now.annotations, now.ownerReferences, now.finalizers]) !==
      JSON.stringify([before.labels, before.annotations, before.ownerReferences, before.finalizers])
  );
}
