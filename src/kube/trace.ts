/**
 * What was written for whom: a reconcile hands its signal to every request, so the signal tells which reconcile a write
 * belongs to, and the {@link Controller} can say in one line why a key was queued and what followed from it.
 */
const traces = new WeakMap<AbortSignal, string[]>();

/** Begins to note the writes that are made with `signal`. Returns the list that they are added to: `patch pods ns/a`. */
export function traceWrites(signal: AbortSignal): readonly string[] {
  const writes: string[] = [];
  traces.set(signal, writes);
  return writes;
}

/** Notes a write that the API server has carried out. Does nothing for a signal that nobody traces. */
export function noteWrite(signal: AbortSignal | undefined, what: string): void {
  if (signal) traces.get(signal)?.push(what);
}
