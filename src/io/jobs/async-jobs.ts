import { createHash } from "node:crypto";
import type { Clock } from "../../lib/clock.ts";
import type { JobId } from "../../protocol/fields.ts";
import type { Usage } from "../../protocol/messages.ts";
import type { Dispatch } from "../dispatch/dispatch.ts";
import { type JobRow, type Store, StoreError, type UnfinishedJob } from "../store/port.ts";
import type { BodyVault } from "./body-vault.ts";
import type { JobDesk } from "./desk.ts";
import type { LiveJob } from "./live-job.ts";

/** What asynchronous jobs need of the service. */
export interface AsyncJobsParts {
  readonly clock: Clock;
  readonly store: Store;
  readonly vault: BodyVault;
  readonly dispatch: Dispatch;
  readonly desk: JobDesk;
  /** Longest life of a job, ms. */
  readonly jobMs: number;
  /** Most jobs that are not over, and most bytes of their inputs; of one consumer, half of each. */
  readonly maxJobs: number;
  readonly maxBytes: number;
  readonly newJobId: () => JobId;
}

/** Where a job is, in the client API's words. */
export type AsyncStatus =
  | "queued"
  | "in_progress"
  | "completed"
  | "failed"
  | "cancelled"
  | "expired"
  | "interrupted";

/** A job as its consumer sees it. Times are wall times in ms. */
export interface AsyncJob {
  readonly id: JobId;
  readonly status: AsyncStatus;
  readonly model: string;
  readonly createdAt: number;
  /** Null while it is not over. */
  readonly finishedAt: number | null;
  /** HTTP status of the engine's answer; null where there is none. */
  readonly httpStatus: number | null;
  /** Size of that answer; 0 where there is none. */
  readonly answerBytes: number;
  readonly usage: Usage | null;
  /** Why there is no answer, as a code of the client API; null where there is one, or may yet be. */
  readonly endCode: string | null;
}

/** A client's job, as it came. */
export interface AsyncRequest {
  readonly consumer: string;
  readonly model: string;
  /** The body byte for byte. */
  readonly body: Buffer;
  /** `Idempotency-Key`; undefined = none. */
  readonly idempotencyKey: string | undefined;
}

/**
 * What became of a submission. `accepted`: on the disk. `known`: the key was used for this same request before.
 * `differs`: it was used for another. `full`: too many jobs are not over.
 */
export type Submitted =
  | { readonly is: "accepted" | "known"; readonly job: AsyncJob }
  | { readonly is: "differs" }
  | { readonly is: "full" };

/** An engine's answer as it is kept. */
export interface KeptAnswer {
  readonly status: number;
  readonly body: Buffer;
}

/** How much is not over: jobs, bytes of their inputs. */
interface Unfinished {
  readonly jobs: number;
  readonly bytes: number;
}

const none: Unfinished = { jobs: 0, bytes: 0 };

/** Jobs for which no client waits on a connection: taken durably, looked at, cancelled. A consumer sees its own alone. */
export class AsyncJobs {
  readonly #parts: AsyncJobsParts;
  /** Jobs that are not over by consumer, with those that are being written. */
  readonly #unfinished = new Map<string, Unfinished>();
  #all: Unfinished = none;

  constructor(parts: AsyncJobsParts) {
    this.#parts = parts;
  }

  /** Jobs that are not over. */
  get unfinished(): number {
    return this.#all.jobs;
  }

  /** Takes up what a start of the service has found, oldest first. */
  restore(jobs: readonly UnfinishedJob[]): void {
    for (const job of jobs) {
      const { id, consumer } = job.row;
      const bytes = job.submission.inputBytes;
      this.#count(consumer, 1, bytes);
      this.#parts.desk.restore(job);
      this.#endsWith(id, consumer, bytes);
    }
  }

  /** Resolves when the job is on the disk, or it is known that it will not be. */
  async submit(request: AsyncRequest): Promise<Submitted> {
    const { consumer, body, idempotencyKey } = request;
    const inputSha256 = sha256(body);
    const idempotency = idempotencyKey === undefined ? null : sha256(idempotencyKey);
    const before =
      idempotency === null ? undefined : await this.#usedBefore(consumer, idempotency, inputSha256);
    if (before) return before;
    if (!this.#hasRoom(consumer, body.length)) return { is: "full" };
    this.#count(consumer, 1, body.length);
    try {
      return await this.#keep(request, inputSha256, idempotency);
    } catch (error) {
      this.#count(consumer, -1, -body.length);
      // Another request with this key was faster, by the time of a commit.
      const first =
        idempotency !== null && error instanceof StoreError && error.code === "conflict"
          ? await this.#usedBefore(consumer, idempotency, inputSha256)
          : undefined;
      if (first) return first;
      throw error;
    }
  }

  async #usedBefore(
    consumer: string,
    idempotency: string,
    inputSha256: string,
  ): Promise<Submitted | undefined> {
    const kept = await this.#parts.store.submitted(consumer, idempotency);
    if (!kept) return undefined;
    return kept.submission?.inputSha256 === inputSha256
      ? { is: "known", job: this.#show(kept.row) }
      : { is: "differs" };
  }

  async #keep(
    { consumer, model, body }: AsyncRequest,
    inputSha256: string,
    idempotency: string | null,
  ): Promise<Submitted> {
    const { clock, store, vault, desk, jobMs, newJobId } = this.#parts;
    const id = newJobId();
    const createdAt = clock.now();
    const row: JobRow = {
      id,
      consumer,
      model,
      stream: false,
      durable: true,
      state: "QUEUED",
      attempt: 0,
      node: null,
      createdAt,
      finishedAt: null,
      outcome: null,
      httpStatus: null,
      endCode: null,
      error: null,
      relayedBytes: 0,
      promptTokens: 0,
      completionTokens: 0,
    };
    const size = body.length;
    await store.write([
      { put: "job", row },
      {
        put: "submission",
        submission: { job: id, idempotency, inputSha256, inputBytes: size, deadline: createdAt + jobMs },
      },
      { put: "body", job: id, purpose: "input", bytes: vault.seal(id, "input", body) },
    ]);
    const input = { sha256: inputSha256, size, text: undefined };
    desk.submitDurable({ id, consumer, model, stream: false, durable: true }, input, createdAt);
    this.#endsWith(id, consumer, size);
    return { is: "accepted", job: this.#show(row) };
  }

  /** A consumer's job; undefined = it has none of this id. */
  async find(consumer: string, id: JobId): Promise<AsyncJob | undefined> {
    const live = this.#parts.desk.live.get(id);
    if (live) return live.spec.durable && live.spec.consumer === consumer ? this.#live(live) : undefined;
    const kept = await this.#parts.store.job(id);
    return kept?.row.durable && kept.row.consumer === consumer ? this.#show(kept.row) : undefined;
  }

  /** A consumer's jobs, newest first: up to `limit` that come after the job `after`. */
  async list(consumer: string, limit: number, after: JobId | undefined): Promise<readonly AsyncJob[]> {
    const rows = await this.#parts.store.jobs({ consumer, durable: true, limit, after });
    return rows.map((row) => this.#show(row));
  }

  /**
   * The engine's answer to a job that has one.
   * @throws {VaultError}
   */
  async answer({ id, httpStatus }: AsyncJob): Promise<KeptAnswer | undefined> {
    if (httpStatus === null) return undefined;
    const { store, vault } = this.#parts;
    const body = vault.open(id, "output", await store.body(id, "output"));
    return { status: httpStatus < 300 ? 200 : httpStatus, body };
  }

  /** Cancels a job that is not over; resolves when its end, whichever it is, is on the disk. */
  async cancel(consumer: string, id: JobId): Promise<AsyncJob | undefined> {
    const { desk } = this.#parts;
    const job = await this.find(consumer, id);
    if (!job || job.finishedAt !== null) return job;
    desk.abandon(id, "cancelled by its consumer");
    await desk.settled(id);
    return this.find(consumer, id);
  }

  #hasRoom(consumer: string, bytes: number): boolean {
    const { maxJobs, maxBytes } = this.#parts;
    const theirs = this.#unfinished.get(consumer) ?? none;
    return (
      this.#all.jobs < maxJobs &&
      theirs.jobs < Math.max(1, maxJobs / 2) &&
      this.#all.bytes + bytes <= maxBytes &&
      theirs.bytes + bytes <= maxBytes / 2
    );
  }

  #count(consumer: string, jobs: number, bytes: number): void {
    const more = (to: Unfinished): Unfinished => ({ jobs: to.jobs + jobs, bytes: to.bytes + bytes });
    this.#all = more(this.#all);
    const theirs = more(this.#unfinished.get(consumer) ?? none);
    if (theirs.jobs > 0) this.#unfinished.set(consumer, theirs);
    else this.#unfinished.delete(consumer);
  }

  #endsWith(id: JobId, consumer: string, bytes: number): void {
    void this.#parts.desk.settled(id).then(() => this.#count(consumer, -1, -bytes));
  }

  #live({ spec, createdAt }: LiveJob): AsyncJob {
    return {
      id: spec.id,
      // Until the end is on the disk, nobody is told of it.
      status: this.#parts.dispatch.job(spec.id)?.state === "QUEUED" ? "queued" : "in_progress",
      model: spec.model,
      createdAt,
      finishedAt: null,
      httpStatus: null,
      answerBytes: 0,
      usage: null,
      endCode: null,
    };
  }

  #show(row: JobRow): AsyncJob {
    const live = this.#parts.desk.live.get(row.id);
    if (live) return this.#live(live);
    const answered = row.state === "COMMITTED" || row.state === "CONFIRMED";
    const usage = { prompt_tokens: row.promptTokens, completion_tokens: row.completionTokens };
    return {
      id: row.id,
      status: statusOf(row),
      model: row.model,
      createdAt: row.createdAt,
      finishedAt: row.finishedAt,
      httpStatus: answered ? row.httpStatus : null,
      answerBytes: answered ? row.relayedBytes : 0,
      usage: answered ? usage : null,
      endCode: row.endCode,
    };
  }
}

function statusOf({ state, httpStatus }: JobRow): AsyncStatus {
  switch (state) {
    case "QUEUED":
      return "queued";
    case "OFFERED":
    case "RUNNING":
    case "RESULT_RECEIVED":
      return "in_progress";
    case "COMMITTED":
    case "CONFIRMED":
      return httpStatus !== null && httpStatus < 300 ? "completed" : "failed";
    case "CANCELLED":
      return "cancelled";
    case "EXPIRED":
      return "expired";
    case "INTERRUPTED":
      return "interrupted";
    case "DEAD":
      return "failed";
    default:
      return state satisfies never;
  }
}

function sha256(data: Buffer | string): string {
  return createHash("sha256").update(data).digest("hex");
}
