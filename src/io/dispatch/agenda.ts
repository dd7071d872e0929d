/** Something that is due at a time. */
export interface AgendaEntry<T> {
  readonly at: number;
  readonly what: T;
  /** Place in the heap; -1 = no longer there. */
  place: number;
}

/** What is due when: a binary min-heap of times from which entries can be taken back. */
export class Agenda<T> {
  readonly #heap: AgendaEntry<T>[] = [];

  /** Time of the earliest entry. */
  get next(): number | undefined {
    return this.#heap[0]?.at;
  }

  get size(): number {
    return this.#heap.length;
  }

  add(at: number, what: T): AgendaEntry<T> {
    const entry = { at, what, place: this.#heap.length };
    this.#heap.push(entry);
    this.#rise(entry);
    return entry;
  }

  /** Takes an entry back; nothing happens if it is no longer there. */
  remove(entry: AgendaEntry<T>): void {
    const { place } = entry;
    if (place < 0) return;
    entry.place = -1;
    const last = this.#heap.pop();
    if (!last || last === entry) return;
    last.place = place;
    this.#heap[place] = last;
    this.#rise(last);
    this.#sink(last);
  }

  /** Takes the earliest entry if it is due at `now`. */
  take(now: number): T | undefined {
    const first = this.#heap[0];
    if (!first || first.at > now) return undefined;
    this.remove(first);
    return first.what;
  }

  #rise(entry: AgendaEntry<T>): void {
    const heap = this.#heap;
    while (entry.place > 0) {
      const above = heap[(entry.place - 1) >> 1];
      if (!above || above.at <= entry.at) return;
      this.#swap(above, entry);
    }
  }

  #sink(entry: AgendaEntry<T>): void {
    const heap = this.#heap;
    for (;;) {
      const left = heap[entry.place * 2 + 1];
      if (!left) return;
      const right = heap[entry.place * 2 + 2];
      const least = right && right.at < left.at ? right : left;
      if (least.at >= entry.at) return;
      this.#swap(entry, least);
    }
  }

  /** `lower` takes the place of `upper`. */
  #swap(upper: AgendaEntry<T>, lower: AgendaEntry<T>): void {
    const { place } = upper;
    upper.place = lower.place;
    lower.place = place;
    this.#heap[upper.place] = upper;
    this.#heap[lower.place] = lower;
  }
}
