import { expect, test } from "vitest";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import type { Handler } from "../../../src/kube/reflector.ts";
import { Store } from "../../../src/kube/store.ts";
import { networkKeyOf } from "../../../src/operator/context.ts";
import { NodeUses } from "../../../src/operator/network/uses.ts";

let version = 0;
const nodeWith = (name: string, target: string, network = "testnet") =>
  ({
    metadata: { namespace: "ns", name, uid: name, resourceVersion: String(++version) },
    spec: { networkRef: { name: network } },
    status: { config: { target } },
  }) as ResultityNode;

/** A cache that counts how often the nodes of a network are gone through. */
class Cache {
  readonly #objects = new Store<ResultityNode>();
  readonly #handlers = new Set<Handler<ResultityNode>>();
  passes = 0;
  readonly store = {
    byIndex: (index: string, value: string) => {
      this.passes++;
      return this.#objects.byIndex(index, value);
    },
  };

  constructor() {
    this.#objects.addIndex("network", (node) => [networkKeyOf(node)]);
  }

  handle(handler: Handler<ResultityNode>): () => void {
    this.#handlers.add(handler);
    return () => this.#handlers.delete(handler);
  }

  put(node: ResultityNode): void {
    for (const change of this.#objects.put(node))
      for (const handler of this.#handlers) {
        if (change.type === "add") handler.added?.(change.object);
        if (change.type === "update") handler.updated?.(change.object, change.old);
      }
  }
}

test("nodes that are alike count as one use, and are gone through again only when one has changed", () => {
  const cache = new Cache();
  const uses = new NodeUses(cache);
  const told = (network = "testnet") =>
    Object.fromEntries(uses.of(`ns/${network}`).map(({ target, count }) => [target, count]));
  for (const name of ["a", "b", "c"]) cache.put(nodeWith(name, "old"));
  expect(told()).toEqual({ old: 3 });
  expect(told()).toEqual({ old: 3 });
  expect(cache.passes).toBe(1);
  cache.put(nodeWith("b", "new"));
  expect(told()).toEqual({ old: 2, new: 1 });
  expect(told("other")).toEqual({});
  cache.put(nodeWith("b", "new", "other"));
  expect([told(), told("other")]).toEqual([{ old: 2 }, { new: 1 }]);
  expect(cache.passes).toBe(5);
});
