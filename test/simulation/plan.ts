interface Entry<T> {
  readonly at: number;
  readonly order: number;
  readonly what: T;
}

/** What is planned for when; of the same time, what was planned first comes first. A binary heap. */
export class Plan<T> {
  readonly #heap: Entry<T>[] = [];
  #order = 0;

  /** Time of the first; undefined = nothing is planned. */
  get next(): number | undefined {
    return this.#heap[0]?.at;
  }

  add(at: number, what: T): void {
    const heap = this.#heap;
    const entry = { at, order: this.#order++, what };
    let place = heap.length;
    while (place > 0) {
      const above = (place - 1) >> 1;
      const parent = heap[above];
      if (!parent || before(parent, entry)) break;
      heap[place] = parent;
      place = above;
    }
    heap[place] = entry;
  }

  take(): T | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (!first || !last || first === last) return first?.what;
    let place = 0;
    for (;;) {
      const left = heap[2 * place + 1];
      if (!left) break;
      const right = heap[2 * place + 2];
      const least = right && before(right, left) ? right : left;
      if (before(last, least)) break;
      heap[place] = least;
      place = least === left ? 2 * place + 1 : 2 * place + 2;
    }
    heap[place] = last;
    return first.what;
  }
}

function before<T>(a: Entry<T>, b: Entry<T>): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}
