interface Entry<T> {
  readonly at: number;
  readonly order: number;
  readonly item: T;
}

/** What comes due when: the earliest first, and what is due at once in the order in which it was put. A binary heap. */
export class DueQueue<T> {
  readonly #heap: Entry<T>[] = [];
  #order = 0;

  put(at: number, item: T): void {
    const heap = this.#heap;
    const entry = { at, order: this.#order++, item };
    let place = heap.push(entry) - 1;
    while (place > 0) {
      const above = (place - 1) >> 1;
      const parent = heap[above];
      if (!parent || before(parent, entry)) break;
      heap[place] = parent;
      place = above;
    }
    heap[place] = entry;
  }

  /** When the next is due; undefined = never. */
  get next(): number | undefined {
    return this.#heap[0]?.at;
  }

  take(): T | undefined {
    const heap = this.#heap;
    const [first] = heap;
    const last = heap.pop();
    if (!first || !last || heap.length === 0) return first?.item;
    let place = 0;
    for (;;) {
      const left = 2 * place + 1;
      const [a, b] = [heap[left], heap[left + 1]];
      if (!a) break;
      const [at, child] = b && before(b, a) ? [left + 1, b] : [left, a];
      if (before(last, child)) break;
      heap[place] = child;
      place = at;
    }
    heap[place] = last;
    return first.item;
  }
}

const before = <T>(a: Entry<T>, b: Entry<T>): boolean => a.at < b.at || (a.at === b.at && a.order < b.order);
