import type { JobId } from "../../protocol/fields.ts";
import type { LiveJob } from "./live-job.ts";

/** Jobs that are not over, or whose end is not on the disk yet, and who waits for that. */
export class LiveJobs {
  readonly #jobs = new Map<JobId, LiveJob>();
  /** Those with a client that waits on a connection. */
  #synchronous = 0;
  #idle: (() => void)[] = [];
  readonly #settled = new Map<JobId, (() => void)[]>();

  get all(): ReadonlyMap<JobId, LiveJob> {
    return this.#jobs;
  }

  get(id: JobId): LiveJob | undefined {
    return this.#jobs.get(id);
  }

  add(job: LiveJob): void {
    this.#jobs.set(job.spec.id, job);
    if (!job.spec.durable) this.#synchronous++;
  }

  /** It is over. */
  remove(id: JobId): void {
    const job = this.#jobs.get(id);
    if (!job) return;
    this.#jobs.delete(id);
    job.output.letGo();
    for (const resolve of this.#settled.get(id) ?? []) resolve();
    this.#settled.delete(id);
    if (job.spec.durable) return;
    this.#synchronous--;
    if (this.#synchronous === 0) for (const resolve of this.#idle.splice(0)) resolve();
  }

  /** Resolves when no client waits on a connection any more. */
  async idle(): Promise<void> {
    if (this.#synchronous > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  /** Resolves when a job is over; at once, if it is none of these. */
  async settled(id: JobId): Promise<void> {
    if (!this.#jobs.has(id)) return;
    await new Promise<void>((resolve) => {
      const waiting = this.#settled.get(id);
      if (waiting) waiting.push(resolve);
      else this.#settled.set(id, [resolve]);
    });
  }
}
