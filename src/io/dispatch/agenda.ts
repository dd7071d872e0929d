/**
 * What is due when: a binary min-heap of times. An entry that has been overtaken (a lease renewed since) is not taken
 * out; whoever gets it looks whether it still means something and enters the new time.
 */
export class Agenda<T> {
  readonly #heap: { readonly at: number; readonly what: T }[] = [];

  /** Time of the earliest entry. */
  get next(): number | undefined {
    return this.#heap[0]?.at;
  }

  get size(): number {
    return this.#heap.length;
  }

  add(at: number, what: T): void {
    const heap = this.#heap;
    let child = heap.length;
    const entry = { at, what };
    heap.push(entry);
    while (child > 0) {
      const parent = (child - 1) >> 1;
      const above = heap[parent];
      if (!above || above.at <= at) break;
      heap[child] = above;
      child = parent;
    }
    heap[child] = entry;
  }

  /** Takes the earliest entry if it is due at `now`. */
  take(now: number): T | undefined {
    const heap = this.#heap;
    const first = heap[0];
    if (!first || first.at > now) return undefined;
    const last = heap.pop();
    if (last && heap.length > 0) this.#sink(last);
    return first.what;
  }

  #sink(entry: { readonly at: number; readonly what: T }): void {
    const heap = this.#heap;
    let parent = 0;
    for (;;) {
      let child = parent * 2 + 1;
      const left = heap[child];
      if (!left) break;
      const right = heap[child + 1];
      let least = left;
      if (right && right.at < left.at) {
        least = right;
        child++;
      }
      if (least.at >= entry.at) break;
      heap[parent] = least;
      parent = child;
    }
    heap[parent] = entry;
  }
}
