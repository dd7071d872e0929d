import type { ClientEntry } from "./load.ts";
import type { IoJob } from "./loop.ts";

/** A line that the test engine wrote about a request. */
export interface EngineLine {
  readonly time: number;
  readonly version: string;
  readonly event: "begin" | "end" | "start" | "stop";
  readonly id?: string;
  readonly outcome?: string;
}

/** The three logs of the same jobs, each written by itself. */
export interface Logs {
  readonly client: readonly ClientEntry[];
  readonly store: readonly IoJob[];
  readonly engine: readonly EngineLine[];
}

/** What the logs say together. `problems` names each disagreement; empty = all reconcile. */
export interface Reconciliation {
  readonly asked: number;
  readonly answered: number;
  readonly lost: readonly string[];
  readonly doubled: readonly string[];
  /** Jobs that were begun by an engine more than once, which a retry may do. */
  readonly retried: readonly string[];
  readonly problems: readonly string[];
}

const committed: ReadonlySet<string> = new Set(["COMMITTED", "CONFIRMED"]);

/**
 * Reconciles client, store and engine by job id. Lost: asked but not answered in full. Doubled: one id answered twice to the
 * client, or completed twice by engines, or begun more often than the store has attempts for it.
 */
export function reconcile({ client, store, engine }: Logs): Reconciliation {
  const problems: string[] = [];
  const lost = client.filter(({ ok }) => !ok).map(({ id, error }) => `${id ?? "(no id)"}: ${error ?? ""}`);
  const begun = countBy(engine.filter(({ event }) => event === "begin").map(({ id }) => id ?? ""));
  const completed = countBy(
    engine
      .filter(({ event, outcome }) => event === "end" && outcome === "completed")
      .map(({ id }) => id ?? ""),
  );
  const answered = countBy(client.filter(({ ok }) => ok).map(({ id }) => id ?? ""));
  const jobs = new Map(store.map((job) => [job.id, job]));

  const doubled: string[] = [];
  for (const [id, times] of answered) if (times > 1) doubled.push(`${id}: ${times} answers to the client`);
  for (const [id, times] of completed)
    if (times > 1) doubled.push(`${id}: completed ${times} times by engines`);
  if (answered.has("")) problems.push("an answer had no x-request-id");
  if (jobs.size !== store.length) problems.push("the store lists an id twice");

  for (const entry of client) {
    if (entry.id === undefined) continue;
    const job = jobs.get(entry.id);
    if (!job) problems.push(`${entry.id}: the client has it, the store does not`);
    else if (entry.ok && !committed.has(job.state))
      problems.push(`${entry.id}: answered, but the store says ${job.state}`);
    if (entry.ok && !completed.has(entry.id))
      problems.push(`${entry.id}: answered, but no engine completed it`);
  }
  const asked = new Set(client.map(({ id }) => id));
  for (const job of store)
    if (!asked.has(job.id)) problems.push(`${job.id}: the store has it, the client does not`);
  for (const [id, times] of begun) {
    const job = jobs.get(id);
    if (!job) problems.push(`${id || "(no id)"}: an engine began it, the store does not have it`);
    else if (times > job.attempt)
      doubled.push(`${id}: begun ${times} times by engines in ${job.attempt} attempts`);
  }
  const retried = [...begun].filter(([, times]) => times > 1).map(([id]) => id);
  return { asked: client.length, answered: client.length - lost.length, lost, doubled, retried, problems };
}

function countBy(ids: Iterable<string>): Map<string, number> {
  const counts = new Map<string, number>();
  for (const id of ids) counts.set(id, (counts.get(id) ?? 0) + 1);
  return counts;
}
