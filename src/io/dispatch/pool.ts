import type { DispatchNode } from "./node.ts";

/** Nodes that can take a job of one model now. Adding, removing and drawing one at random take constant time. */
export class Pool {
  readonly #nodes: DispatchNode[] = [];
  readonly #places = new Map<DispatchNode, number>();

  get size(): number {
    return this.#nodes.length;
  }

  add(node: DispatchNode): void {
    if (this.#places.has(node)) return;
    this.#places.set(node, this.#nodes.length);
    this.#nodes.push(node);
  }

  remove(node: DispatchNode): void {
    const place = this.#places.get(node);
    if (place === undefined) return;
    this.#places.delete(node);
    const last = this.#nodes.pop();
    if (last === undefined || last === node) return;
    this.#nodes[place] = last;
    this.#places.set(last, place);
  }

  /** Up to `count` nodes that follow each other from place `start` on (0 ≤ start < 1, a share of the pool). */
  *from(start: number, count: number): Generator<DispatchNode> {
    const size = this.#nodes.length;
    const first = Math.floor(start * size);
    for (let step = 0; step < Math.min(count, size); step++) {
      const node = this.#nodes[(first + step) % size];
      if (node) yield node;
    }
  }
}
