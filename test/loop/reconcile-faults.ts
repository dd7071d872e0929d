import type { ClientEntry } from "./load.ts";
import type { IoJob } from "./loop.ts";
import type { Logs } from "./reconcile.ts";

/** What became of jobs that ran while something was killed. */
export interface FaultReconciliation {
  readonly answered: number;
  /** Answered in a later attempt, which the client cannot see. */
  readonly retried: readonly string[];
  /** Streams that ended with the error event `node_lost`. */
  readonly interrupted: readonly string[];
  /** Requests whose connection was cut: the service was killed. */
  readonly cut: number;
  /** Whatever no fault may do. Empty = every job was answered once, or ended as DESIGN §8 says. */
  readonly problems: readonly string[];
}

export interface FaultLogs extends Logs {
  /** Job of each receipt that the service has countersigned. */
  readonly receipts: readonly string[];
}

const committed: ReadonlySet<string> = new Set(["COMMITTED", "CONFIRMED"]);

/**
 * Reconciles client, store, receipts and engines by job id, where processes were killed in between. A job is answered in
 * full and committed once; or, after the first relayed byte, its stream ended with `node_lost` and it is INTERRUPTED; or the
 * service was killed (at `killedAt`, ms), its connection was cut and it is CANCELLED, unless it had been committed already. An answer of that very
 * moment may have overtaken its commit on the way to the disk; it is then neither committed nor charged.
 */
export function reconcileFaults(
  { client, store, engine, receipts }: FaultLogs,
  { killedAt }: { killedAt?: number | undefined } = {},
): FaultReconciliation {
  const problems: string[] = [];
  const jobs = new Map(store.map((job) => [job.id, job]));
  if (jobs.size !== store.length) problems.push("the store lists an id twice");
  const interrupted: string[] = [];
  const cut: ClientEntry[] = [];
  for (const entry of client) {
    const job = entry.id === undefined ? undefined : jobs.get(entry.id);
    if (entry.ok) problems.push(...answeredWrongly(entry, job, killedAt));
    else if (job?.state === "INTERRUPTED") {
      interrupted.push(job.id);
      problems.push(...interruptedWrongly(entry));
    } else if (killedAt !== undefined && entry.code === undefined) {
      cut.push(entry);
      problems.push(...cutWrongly(entry, job));
    } else
      problems.push(`${nameOf(entry)}: ${entry.error ?? ""} (the store says ${job?.state ?? "nothing"})`);
  }
  problems.push(...unasked(client, store, cut), ...engineWork(jobs, engine), ...charges(store, receipts));
  const answered = client.filter(({ ok }) => ok);
  for (const id of twice(client.flatMap(({ id }) => id ?? []))) problems.push(`${id}: answered twice`);
  const retried = answered.flatMap(({ id }) => (id && (jobs.get(id)?.attempt ?? 0) > 1 ? [id] : []));
  return { answered: answered.length, retried, interrupted, cut: cut.length, problems };
}

const nameOf = ({ id, stream }: ClientEntry): string => `${id ?? "(no id)"}${stream ? " (stream)" : ""}`;

/** Longest time that a commit may take to reach the disk, ms. */
const commitMs = 1_000;

function answeredWrongly(entry: ClientEntry, job: IoJob | undefined, killedAt: number | undefined): string[] {
  if (job && committed.has(job.state)) return [];
  const overtaken = killedAt !== undefined && Math.abs(killedAt - entry.ended) < commitMs;
  if (overtaken && job?.state === "CANCELLED") return [];
  return [`${nameOf(entry)}: answered, but the store says ${job?.state ?? "nothing"}`];
}

function interruptedWrongly(entry: ClientEntry): string[] {
  const wrong: string[] = [];
  if (!entry.stream) wrong.push("a plain request cannot be interrupted");
  if (entry.code !== "node_lost") wrong.push(`ended with ${entry.code ?? entry.error ?? "nothing"}`);
  if (!entry.relayed) wrong.push("nothing was relayed, so a retry would not have been seen");
  if (!entry.expected.startsWith(entry.text)) wrong.push("something else was glued on");
  return wrong.map((text) => `${nameOf(entry)}, INTERRUPTED: ${text}`);
}

function cutWrongly(entry: ClientEntry, job: IoJob | undefined): string[] {
  const wrong: string[] = [];
  if (entry.id !== undefined && job?.state !== "CANCELLED" && !committed.has(job?.state ?? ""))
    wrong.push(`the store says ${job?.state ?? "nothing"}`);
  if (!entry.expected.startsWith(entry.text)) wrong.push("something else was glued on");
  return wrong.map((text) => `${nameOf(entry)}, cut: ${text}`);
}

/** Jobs without a client: of requests that were cut before they had an id, or of none. */
function unasked(
  client: readonly ClientEntry[],
  store: readonly IoJob[],
  cut: readonly ClientEntry[],
): string[] {
  const asked = new Set(client.map(({ id }) => id));
  const orphans = store.filter(({ id }) => !asked.has(id));
  const nameless = cut.filter(({ id }) => id === undefined).length;
  const wrong = orphans.filter(({ state }) => state !== "CANCELLED" && !committed.has(state));
  return [
    ...wrong.map(({ id, state }) => `${id}: nobody was answered, the store says ${state}`),
    ...(orphans.length > nameless
      ? [`${orphans.length} jobs without a client, but only ${nameless} requests were cut without an id`]
      : []),
  ];
}

function engineWork(jobs: ReadonlyMap<string, IoJob>, engine: Logs["engine"]): string[] {
  const problems: string[] = [];
  const times = (event: string, outcome?: string) => {
    const ids = engine.filter((line) => line.event === event && (!outcome || line.outcome === outcome));
    return countBy(ids.map(({ id }) => id ?? ""));
  };
  const begun = times("begin");
  const ended = times("end");
  const completed = times("end", "completed");
  for (const [id, count] of begun) {
    const job = jobs.get(id);
    if (!job) problems.push(`${id || "(no id)"}: an engine began it, the store does not have it`);
    // Attempts of a job that ended with the service lived in its memory alone.
    else if (count > job.attempt && job.state !== "CANCELLED")
      problems.push(`${id}: begun ${count} times in ${job.attempt} attempts`);
  }
  for (const { id, state } of jobs.values()) {
    // An engine may be killed between its answer and its line about it.
    const cutShort = (begun.get(id) ?? 0) > (ended.get(id) ?? 0);
    if (committed.has(state) && !completed.has(id) && !cutShort)
      problems.push(`${id}: ${state}, but no engine completed it`);
  }
  return problems;
}

/** A job is charged once if it was committed, once at most if its stream was interrupted, and else not at all. */
function charges(store: readonly IoJob[], receipts: readonly string[]): string[] {
  const charged = new Set(receipts);
  return [
    ...twice(receipts).map((id) => `${id}: two receipts`),
    ...store
      .filter(({ id, state }) => state !== "INTERRUPTED" && committed.has(state) !== charged.has(id))
      .map(
        ({ id, state }) => `${id}: ${state}, ${charged.has(id) ? "but charged" : "but without a receipt"}`,
      ),
  ];
}

const twice = (ids: readonly string[]): string[] =>
  [...countBy(ids)].filter(([, count]) => count > 1).map(([id]) => id);

function countBy(ids: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1);
  return counts;
}
