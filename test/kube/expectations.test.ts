import { describe, expect, it } from "vitest";
import { Expectations } from "../../src/kube/expectations.ts";
import { compareResourceVersions } from "../../src/kube/object.ts";
import type { ConfigMap } from "../../src/kube/resources.ts";
import { Store } from "../../src/kube/store.ts";
import { FakeClock } from "../lib/fake-clock.ts";
import { configMap } from "./objects.ts";

function make() {
  const clock = new FakeClock();
  const store = new Store<ConfigMap>();
  const cache: { store: Store<ConfigMap>; resourceVersion: string | undefined } = {
    store,
    resourceVersion: "10",
  };
  return { clock, store, cache, expectations: new Expectations(clock, 60_000) };
}

describe("Expectations", () => {
  it("F02 hold a key back until the cache shows the created object", () => {
    const { store, cache, expectations } = make();
    expectations.wrote("ns/owner", cache, configMap("child", 11));
    expect(expectations.wait("ns/owner")).toBeGreaterThan(0);
    expect(expectations.wait("ns/other")).toBe(0);
    store.put(configMap("child", 11));
    expect(expectations.wait("ns/owner")).toBe(0);
  });

  it("hold a key back until the cache shows the patched version or a later one", () => {
    const { store, cache, expectations } = make();
    store.put(configMap("child", 9));
    expectations.wrote("k", cache, configMap("child", 100));
    expect(expectations.wait("k")).toBeGreaterThan(0);
    store.put(configMap("child", 99));
    expect(expectations.wait("k")).toBeGreaterThan(0);
    store.put(configMap("child", 101));
    expect(expectations.wait("k")).toBe(0);
  });

  it("are met when the cache as a whole came past the write, the object being gone again", () => {
    const { cache, expectations } = make();
    expectations.wrote("k", cache, configMap("child", 11));
    cache.resourceVersion = "12";
    expect(expectations.wait("k")).toBe(0);
  });

  it("of a deletion are met when the object terminates or is gone", () => {
    const { store, cache, expectations } = make();
    store.put(configMap("child", 9));
    expectations.deleted("k", cache, configMap("child", 9));
    expect(expectations.wait("k")).toBeGreaterThan(0);
    store.put(configMap("child", 11, { deletionTimestamp: "2026-01-01T00:00:00Z" }));
    expect(expectations.wait("k")).toBe(0);
  });

  it("of a deletion that shortens the grace of what terminates are met when the cache shows another end", () => {
    const { store, cache, expectations } = make();
    const ending = (version: number, deletionTimestamp: string) =>
      configMap("child", version, { deletionTimestamp });
    const seen = ending(9, "2026-01-01T01:05:00Z");
    store.put(seen);
    expectations.shortened("k", cache, seen);
    store.put(ending(10, "2026-01-01T01:05:00Z"));
    expect(expectations.wait("k")).toBeGreaterThan(0);
    store.put(ending(11, "2026-01-01T00:00:10Z"));
    expect(expectations.wait("k")).toBe(0);
  });

  it("are given up after their time", () => {
    const { clock, cache, expectations } = make();
    expectations.wrote("k", cache, configMap("child", 11));
    clock.advance(59_999);
    expect(expectations.wait("k")).toBe(1);
    clock.advance(1);
    expect(expectations.wait("k")).toBe(0);
  });

  it("wait for all of several writes, and only for the last of one object", () => {
    const { store, cache, expectations } = make();
    expectations.wrote("k", cache, configMap("a", 11));
    expectations.wrote("k", cache, configMap("b", 12));
    expectations.wrote("k", cache, configMap("a", 13));
    store.put(configMap("a", 13));
    expect(expectations.wait("k")).toBeGreaterThan(0);
    store.put(configMap("b", 12));
    expect(expectations.wait("k")).toBe(0);
  });
});

describe("compareResourceVersions", () => {
  it("compares as numbers of any length, and not at all what is no number", () => {
    expect(compareResourceVersions("9", "10")).toBeLessThan(0);
    expect(compareResourceVersions("18446744073709551617", "18446744073709551616")).toBeGreaterThan(0);
    expect(compareResourceVersions("7", "7")).toBe(0);
    expect(compareResourceVersions("abc", "7")).toBeUndefined();
    expect(compareResourceVersions("007", "7")).toBeUndefined();
  });
});
