import { Worker } from "node:worker_threads";
import type { Clock } from "../../lib/clock.ts";
import type { JobId } from "../../protocol/fields.ts";
import {
  type BodyPurpose,
  type Change,
  type JobFilter,
  type JobRow,
  type Kept,
  type KeptJob,
  type ReceiptRow,
  type Store,
  StoreError,
} from "./port.ts";
import type { StoreAnswer, StoreRequest, StoreThread } from "./worker.ts";

/** How the SQLite store runs. */
export interface SqliteOptions {
  /** Path of the database file; made when it is not there. */
  readonly path: string;
  /**
   * Module that the worker thread runs: `store/worker.ts` itself, or a bundle that contains it.
   */
  readonly worker: URL;
  readonly clock: Clock;
  /** Told of a commit: how many writes it held and how long it took, ms. */
  readonly onCommit?: (writes: number, ms: number) => void;
  /** Told when writes stop getting through (with the reason) and when they do again (undefined). */
  readonly onHealth?: (problem: string | undefined) => void;
}

interface PendingWrite {
  readonly changes: readonly Change[];
  readonly resolve: () => void;
  readonly reject: (error: StoreError) => void;
}

interface PendingAsk {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: StoreError) => void;
}

/** Most writes in one transaction. */
const batchSize = 512;
/** Jobs that are forgotten in one transaction: few milliseconds, in which no write gets through. */
const pruneSlice = 500;
/** How long closing goes on trying to write what waits, ms. */
const closeMs = 5_000;
/** Pause before a commit that the disk refused is tried again, ms. */
const retryMs = 250;

/**
 * SQLite behind a worker thread, so that no fsync ever blocks a session. Group commit: at most one transaction is under
 * way; what arrives meanwhile goes into the next one, at once. So a write waits for at most one fsync before its own,
 * and for no timer.
 */
export class SqliteStore implements Store {
  readonly #worker: Worker;
  readonly #clock: Clock;
  readonly #options: SqliteOptions;
  readonly #asked: PendingAsk[] = [];
  #waiting: PendingWrite[] = [];
  #committing = false;
  #problem: string | undefined;
  #closed = false;
  /** Monotonic ms at which a commit that the disk refuses is given up: only once it is being closed. */
  #giveUpAt = Infinity;
  #idle: (() => void)[] = [];

  constructor(options: SqliteOptions) {
    this.#options = options;
    this.#clock = options.clock;
    const workerData: StoreThread = { thread: "store", path: options.path };
    this.#worker = new Worker(options.worker, { workerData, name: "store" });
    this.#worker.on("message", (answer: StoreAnswer) => {
      const pending = this.#asked.shift();
      if (answer.ok) pending?.resolve(answer.value);
      else pending?.reject(new StoreError("unavailable", `store: ${answer.error}`));
    });
    this.#worker.on("error", (error) => this.#fail(error.message));
    this.#worker.on("exit", () => this.#fail("its thread ended"));
  }

  get healthy(): boolean {
    return this.#problem === undefined && !this.#closed;
  }

  write(changes: readonly Change[]): Promise<void> {
    if (this.#closed) return Promise.reject(new StoreError("unavailable", "store is closed"));
    return new Promise((resolve, reject) => {
      this.#waiting.push({ changes, resolve, reject });
      if (!this.#committing) {
        this.#committing = true;
        // What the rest of this turn of the event loop writes goes into the same transaction.
        setImmediate(() => void this.#commit());
      }
    });
  }

  async #commit(): Promise<void> {
    const batch = this.#waiting.splice(0, batchSize);
    const writes = batch.map(({ changes }) => changes);
    const started = this.#clock.monotonic();
    for (;;) {
      try {
        const errors = (await this.#ask({ ask: "commit", writes })) as (string | null)[];
        this.#tell(undefined);
        this.#options.onCommit?.(batch.length, this.#clock.monotonic() - started);
        batch.forEach(({ resolve, reject }, at) => {
          const error = errors[at];
          if (error === null || error === undefined) resolve();
          else reject(new StoreError("conflict", `store: ${error}`));
        });
        break;
      } catch (error) {
        const problem = error instanceof Error ? error.message : String(error);
        this.#tell(problem);
        if (this.#closed || this.#clock.monotonic() >= this.#giveUpAt) {
          for (const { reject } of [...batch, ...this.#waiting.splice(0)])
            reject(new StoreError("unavailable", problem));
          break;
        }
        await new Promise<void>((resolve) => void this.#clock.setTimer(resolve, retryMs));
      }
    }
    if (this.#waiting.length > 0) {
      void this.#commit();
      return;
    }
    this.#committing = false;
    for (const resolve of this.#idle.splice(0)) resolve();
  }

  #tell(problem: string | undefined): void {
    if ((problem === undefined) !== (this.#problem === undefined)) this.#options.onHealth?.(problem);
    this.#problem = problem;
  }

  #ask(request: StoreRequest): Promise<unknown> {
    if (this.#closed && request.ask !== "close")
      return Promise.reject(new StoreError("unavailable", "store is closed"));
    return new Promise((resolve, reject) => {
      this.#asked.push({ resolve, reject });
      // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread, not a window
      this.#worker.postMessage(request);
    });
  }

  #fail(reason: string): void {
    this.#closed = true;
    for (const { reject } of this.#asked.splice(0)) reject(new StoreError("unavailable", `store: ${reason}`));
  }

  load(): Promise<Kept> {
    return this.#ask({ ask: "load" }) as Promise<Kept>;
  }

  cancelUnfinished(now: number, error: string): Promise<number> {
    return this.#ask({ ask: "cancelUnfinished", now, error }) as Promise<number>;
  }

  jobs(filter: JobFilter): Promise<readonly JobRow[]> {
    return this.#ask({ ask: "jobs", filter }) as Promise<JobRow[]>;
  }

  job(id: JobId): Promise<KeptJob | undefined> {
    return this.#ask({ ask: "job", id }) as Promise<KeptJob | undefined>;
  }

  submitted(consumer: string, idempotency: string): Promise<KeptJob | undefined> {
    return this.#ask({ ask: "submitted", consumer, idempotency }) as Promise<KeptJob | undefined>;
  }

  body(job: JobId, purpose: BodyPurpose): Promise<Uint8Array | undefined> {
    return this.#ask({ ask: "body", job, purpose }) as Promise<Uint8Array | undefined>;
  }

  receipts(account: string, from: number, limit: number): Promise<readonly ReceiptRow[]> {
    return this.#ask({ ask: "receipts", account, from, limit }) as Promise<ReceiptRow[]>;
  }

  async prune(before: number): Promise<number> {
    let pruned = 0;
    for (;;) {
      const slice = (await this.#ask({ ask: "prune", before, limit: pruneSlice })) as number;
      pruned += slice;
      if (slice < pruneSlice) return pruned;
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#giveUpAt = Math.min(this.#giveUpAt, this.#clock.monotonic() + closeMs);
    // What the last commit's waiters write in their turn belongs to it.
    do {
      if (this.#committing) await new Promise<void>((resolve) => this.#idle.push(resolve));
      await new Promise<void>((resolve) => void setImmediate(resolve));
    } while (this.#committing);
    this.#closed = true;
    await this.#ask({ ask: "close" });
    await this.#worker.terminate();
  }
}
