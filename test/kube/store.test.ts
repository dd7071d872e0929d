import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Store, byOwnerUid } from "../../src/kube/store.ts";
import type { ConfigMap } from "../../src/kube/resources.ts";
import { configMap } from "./objects.ts";

const types = (changes: readonly { type: string }[]) => changes.map(({ type }) => type);

describe("Store", () => {
  it("tells an add, an update, and nothing for a version that it has", () => {
    const store = new Store<ConfigMap>();
    expect(types(store.put(configMap("a", 1)))).toEqual(["add"]);
    expect(types(store.put(configMap("a", 2)))).toEqual(["update"]);
    expect(store.put(configMap("a", 2))).toEqual([]);
    expect(store.get("ns/a")?.metadata.resourceVersion).toBe("2");
    expect(store.getByUid("uid-a")).toBe(store.get("ns/a"));
  });

  it("F09 takes an object of the same name with another UID for another object", () => {
    const store = new Store<ConfigMap>();
    store.put(configMap("a", 1));
    const changes = store.put(configMap("a", 5, { uid: "second" }));
    expect(changes.map(({ type, object }) => `${type} ${object.metadata.uid}`)).toEqual([
      "delete uid-a",
      "add second",
    ]);
    expect(store.getByUid("uid-a")).toBeUndefined();
    // The late deletion of the first one must not take the second one away.
    expect(store.remove(configMap("a", 6))).toEqual([]);
    expect(store.size).toBe(1);
  });

  it("F09 tells a delete and an add when the recreation happened between two lists", () => {
    const store = new Store<ConfigMap>();
    store.put(configMap("a", 1));
    expect(types(store.replace([configMap("a", 9, { uid: "second" })]))).toEqual(["delete", "add"]);
  });

  it("replaces its contents and tells only the difference", () => {
    const store = new Store<ConfigMap>();
    for (const name of ["gone", "same", "changed"]) store.put(configMap(name, 1));
    const changes = store.replace([configMap("same", 1), configMap("changed", 2), configMap("new", 3)]);
    expect(changes.map(({ type, object }) => `${type} ${object.metadata.name}`).sort()).toEqual([
      "add new",
      "delete gone",
      "update changed",
    ]);
    expect(store.size).toBe(3);
  });

  it("refuses an index that does not exist or exists already", () => {
    const store = new Store<ConfigMap>();
    expect(() => store.byIndex("owner", "x")).toThrow(/no index "owner"/);
    store.addIndex("owner", byOwnerUid);
    expect(() => store.addIndex("owner", byOwnerUid)).toThrow(/already has an index/);
  });

  it("keeps its indexes equal to a scan, whatever happens to it", () => {
    const object = fc
      .record({
        name: fc.constantFrom("a", "b", "c", "d"),
        uid: fc.constantFrom("1", "2"),
        version: fc.integer({ min: 1, max: 5 }),
        colours: fc.uniqueArray(fc.constantFrom("red", "green"), { maxLength: 2 }),
      })
      .map(({ name, uid, version, colours }) =>
        configMap(name, version, { uid: `${name}-${uid}`, data: { colours: colours.join(",") } }),
      );
    const step = fc.oneof(
      fc.record({ do: fc.constant("put" as const), object }),
      fc.record({ do: fc.constant("remove" as const), object }),
      fc.record({
        do: fc.constant("replace" as const),
        objects: fc.uniqueArray(object, { selector: ({ metadata }) => metadata.name }),
      }),
    );
    const colours = (o: ConfigMap) => o.data?.["colours"]?.split(",").filter(Boolean) ?? [];
    fc.assert(
      fc.property(fc.array(step, { maxLength: 40 }), (steps) => {
        const store = new Store<ConfigMap>();
        store.addIndex("colour", colours);
        const shadow = new Map<string, string>();
        for (const s of steps) {
          const changes =
            s.do === "put"
              ? store.put(s.object)
              : s.do === "remove"
                ? store.remove(s.object)
                : store.replace(s.objects);
          // The changes alone must lead a follower to the same contents.
          for (const { type, object } of changes) {
            const { name, uid } = object.metadata;
            if (type === "add") expect(shadow.has(name)).toBe(false);
            if (type === "update") expect(shadow.get(name)).toBe(uid);
            if (type === "delete") expect(shadow.get(name)).toBe(uid);
            if (type === "delete") shadow.delete(name);
            else shadow.set(name, uid);
          }
        }
        const all = [...store.values()];
        expect(new Map(all.map(({ metadata }) => [metadata.name, metadata.uid]))).toEqual(shadow);
        for (const colour of ["red", "green"]) {
          expect(new Set(store.byIndex("colour", colour))).toEqual(
            new Set(all.filter((o) => colours(o).includes(colour))),
          );
        }
        for (const o of all) expect(store.getByUid(o.metadata.uid)).toBe(o);
      }),
    );
  });
});
