import { expect, test } from "vitest";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import type { Source } from "../../../src/kube/sources.ts";
import { batched, concernsNetwork } from "../../../src/operator/network/wake.ts";
import { FakeClock } from "../../lib/fake-clock.ts";

const lastTransitionTime = "2026-01-01T00:00:00Z";
const nodeWith = (status: ResultityNode["status"]) =>
  ({
    metadata: { namespace: "ns", name: "one" },
    spec: { networkRef: { name: "testnet" } },
    status,
  }) as ResultityNode;
const ready = (status: "True" | "False", message = "") => ({
  conditions: [
    { type: "Ready" as const, status, reason: "AllWell", message, observedGeneration: 1, lastTransitionTime },
  ],
});

test.each([
  { name: "a new target", from: {}, to: { config: { target: "a" } }, wakes: true },
  {
    name: "what it runs",
    from: { config: { target: "a" } },
    to: { config: { target: "a", applied: "a" } },
    wakes: true,
  },
  { name: "ready", from: ready("False"), to: ready("True"), wakes: true },
  { name: "connected", from: {}, to: { session: { connected: true } }, wakes: true },
  { name: "what is staged", from: {}, to: { config: { staged: "a" } }, wakes: false },
  { name: "why it is not ready", from: ready("False"), to: ready("False", "another"), wakes: false },
  { name: "its host", from: {}, to: { hostName: "host-1" }, wakes: false },
])("a change of a node wakes its network or not: $name", ({ from, to, wakes }) => {
  expect(concernsNetwork({ type: "update", object: nodeWith(to), old: nodeWith(from) })).toBe(wakes);
});

test("many wakes become one at once and one a second later", () => {
  const clock = new FakeClock();
  let add: (key: string, reason: string) => void = () => undefined;
  let attached = false;
  const source: Source = {
    name: "nodes",
    synced: () => Promise.resolve(),
    attach(to) {
      [add, attached] = [to, true];
      return () => void (attached = false);
    },
  };
  const told: string[] = [];
  const detach = batched(source, clock, 1000).attach((key, reason) => told.push(`${key} ${reason}`));
  for (const reason of ["1", "2", "3"]) add("a", reason);
  add("b", "4");
  expect(told).toEqual(["a 1", "b 4"]);
  clock.advance(999);
  expect(told).toHaveLength(2);
  clock.advance(1);
  expect(told).toEqual(["a 1", "b 4", "a 2"]);
  clock.advance(1000);
  expect(told).toHaveLength(3);
  add("a", "5");
  expect(told.at(-1)).toBe("a 5");
  detach();
  expect(attached).toBe(false);
  expect(clock.pending).toBe(0);
});
