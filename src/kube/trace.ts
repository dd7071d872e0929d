/**
 * What was written for whom: a reconcile hands its signal to every request, so the signal tells which reconcile a write
 * belongs to, and the {@link Controller} can say in one line why a key was queued and what followed from it.
 */
export interface WriteTrace {
  /** Writes that the API server has carried out. */
  count: number;
  /** The first of them: `patch pods ns/a`. */
  readonly first: string[];
}

const traces = new WeakMap<AbortSignal, WriteTrace>();
const kept = 16;

/** Begins to note the writes that are made with `signal`. */
export function traceWrites(signal: AbortSignal): Readonly<WriteTrace> {
  const trace: WriteTrace = { count: 0, first: [] };
  traces.set(signal, trace);
  return trace;
}

/** Notes a write that the API server has carried out. Does nothing for a signal that nobody traces. */
export function noteWrite(signal: AbortSignal | undefined, what: string): void {
  const trace = signal && traces.get(signal);
  if (!trace) return;
  trace.count++;
  if (trace.first.length < kept) trace.first.push(what);
}
