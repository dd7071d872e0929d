import type { JobId } from "../../protocol/fields.ts";

/**
 * Jobs that wait for one model, fair between consumers: they take turns, however many jobs each has waiting. A job that
 * had been offered before goes to the front of its consumer's line.
 */
export class FairQueue {
  /** In order of turns: whoever was served goes to the end. */
  readonly #lines = new Map<string, { readonly again: Set<JobId>; readonly first: Set<JobId> }>();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  /** Jobs of one consumer that wait. */
  waiting(consumer: string): number {
    const line = this.#lines.get(consumer);
    return line ? line.again.size + line.first.size : 0;
  }

  push(consumer: string, job: JobId, offeredBefore: boolean): void {
    let line = this.#lines.get(consumer);
    if (!line) this.#lines.set(consumer, (line = { again: new Set(), first: new Set() }));
    const side = offeredBefore ? line.again : line.first;
    if (side.has(job)) return;
    side.add(job);
    this.#size++;
  }

  /** The job whose turn it is; it stays until `remove`. */
  peek(): { readonly consumer: string; readonly job: JobId } | undefined {
    for (const [consumer, line] of this.#lines) {
      const job = firstOf(line.again) ?? firstOf(line.first);
      if (job !== undefined) return { consumer, job };
    }
    return undefined;
  }

  /** Takes a job out. `served`: its consumer's turn is over. */
  remove(consumer: string, job: JobId, served: boolean): void {
    const line = this.#lines.get(consumer);
    if (!line || !(line.again.delete(job) || line.first.delete(job))) return;
    this.#size--;
    const empty = line.again.size + line.first.size === 0;
    if (empty || served) this.#lines.delete(consumer);
    if (!empty && served) this.#lines.set(consumer, line);
  }
}

function firstOf(jobs: Set<JobId>): JobId | undefined {
  for (const job of jobs) return job;
  return undefined;
}
