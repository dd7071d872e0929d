import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { Informer } from "../../kube/informer.ts";
import type { ReadStore } from "../../kube/store.ts";
import { networkKeyOf } from "../context.ts";
import { type NodeUse, observeNode } from "./observe.ts";

/** Where the nodes are seen. */
interface Seen extends Pick<Informer<ResultityNode>, "handle"> {
  readonly store: Pick<ReadStore<ResultityNode>, "byIndex">;
}

/**
 * What the nodes of each network run and move to, those that are alike as one. A reconcile asks several times, and a network may have
 * thousands: they are gone through again once one of them has changed.
 */
export class NodeUses {
  readonly #nodes: Seen;
  readonly #known = new Map<string, readonly NodeUse[]>();
  /** Ends it. */
  readonly stop: () => void;

  constructor(nodes: Seen) {
    this.#nodes = nodes;
    const changed = (node: ResultityNode) => void this.#known.delete(networkKeyOf(node));
    this.stop = nodes.handle({
      added: changed,
      updated: (node, old) => {
        changed(node);
        changed(old);
      },
      deleted: changed,
    });
  }

  /** @param networkKey `namespace/name` */
  of(networkKey: string): readonly NodeUse[] {
    const known = this.#known.get(networkKey);
    if (known) return known;
    const alike = new Map<string, NodeUse>();
    for (const node of this.#nodes.store.byIndex("network", networkKey)) {
      const use = observeNode(node);
      const key = `${use.target} ${use.applied} ${use.next} ${use.ready} ${use.connected}`;
      alike.set(key, { ...use, count: (alike.get(key)?.count ?? 0) + 1 });
    }
    const uses = [...alike.values()];
    this.#known.set(networkKey, uses);
    return uses;
  }
}
