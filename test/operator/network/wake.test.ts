import { expect, test } from "vitest";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import { concernsNetwork } from "../../../src/operator/network/wake.ts";

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
  { name: "what it gets ready for", from: {}, to: { config: { next: "a" } }, wakes: true },
  { name: "ready", from: ready("False"), to: ready("True"), wakes: true },
  { name: "connected", from: {}, to: { session: { connected: true } }, wakes: true },
  { name: "what is staged", from: {}, to: { config: { staged: "a" } }, wakes: false },
  { name: "why it is not ready", from: ready("False"), to: ready("False", "another"), wakes: false },
  { name: "its host", from: {}, to: { hostName: "host-1" }, wakes: false },
])("a change of a node wakes its network or not: $name", ({ from, to, wakes }) => {
  expect(concernsNetwork({ type: "update", object: nodeWith(to), old: nodeWith(from) })).toBe(wakes);
});
