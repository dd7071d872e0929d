import { createHash } from "node:crypto";
import type { Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { NackCode } from "../../protocol/codes.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import type { Payload } from "../../protocol/messages.ts";
import { engineHost } from "../engine/argv.ts";
import type { NodeIdentity } from "../identity.ts";
import type { Http, HttpExchange, HttpHandlers } from "../ports.ts";
import { AnswerError, AnswerReader } from "./answer.ts";
import type { ByteBudget } from "../../lib/byte-budget.ts";
import { Delivery, type DeliveryPorts } from "./delivery.ts";
import type { HeldJob } from "./held-job.ts";
import type { Ended } from "./kept-result.ts";
import type { Results } from "./results.ts";
import { type Lease, TransferError } from "./transfers.ts";

/** Longest that a timer of the platform can be set for, which is 24 days. */
const maxTimerMs = 2 ** 31 - 1;
/** The engine is not read while this much of a stream waits for a service that is slow, bytes; read again below the second. */
export const pauseAboveBytes = 1024 * 1024;
export const resumeBelowBytes = 256 * 1024;

/** What a job runs with; fixed when it begins. */
export interface JobSetting {
  readonly identity: NodeIdentity;
  readonly config: ConfigDigest;
  readonly enginePort: number;
  /** The engine gets the job's id as `x-request-id`. */
  readonly tellJobId: boolean;
  readonly maxOutputBytes: number;
}

export type Offer = Omit<Payload<"offer">, "sid" | "seq">;

/** How a job ended here, for logs and metrics. */
export type JobEnd = "completed" | "failed" | "nacked" | "dropped";

/** What a job tells: that the engine is done with it, and that nothing is left to keep. */
export interface JobListener {
  ended(how: JobEnd, why?: string): void;
  forgotten(): void;
}

/** What a job works with. */
export interface JobPorts extends DeliveryPorts {
  readonly http: Http;
  readonly budget: ByteBudget;
  readonly results: Results;
}

/** How often an input is asked for, and how soon again where the service does not say, ms. */
const maxFetches = 4;
const fetchAgainMs = 1_000;

const codeOfAnswer = { engine: "E_ENGINE", busy: "E_BUSY", model: "E_MODEL" } as const;

/**
 * One attempt at one job, from the offer to the moment when nothing of it is needed any more: input, engine, output. The
 * output is kept so that a new session can go on from the offset that the service wants; that of a durable job, on disk.
 *
 * A fault before the first chunk has left hands the job back (NACK), which the client never notices. After it the
 * attempt is pinned, and a fault is a `failed` result over what was relayed.
 */
export class Job implements HeldJob {
  readonly offer: Offer;
  readonly #setting: JobSetting;
  readonly #ports: JobPorts;
  readonly #on: JobListener;
  readonly #begun: number;
  readonly #reader: AnswerReader;
  readonly #delivery: Delivery;
  readonly #stopping = new AbortController();
  #deadline: Timer | undefined;
  #exchange: HttpExchange | undefined;
  #paused = false;
  /** Bytes of the budget that the input has. */
  #inputBytes = 0;
  #ended = false;
  /** The result is being written to the disk. */
  #keeping = false;
  #gone = false;

  /** Nothing happens before {@link Job.begin}. */
  constructor(offer: Offer, setting: JobSetting, ports: JobPorts, on: JobListener) {
    const { stream, durable } = offer;
    this.offer = offer;
    this.#setting = setting;
    this.#ports = ports;
    this.#on = on;
    this.#begun = ports.clock.monotonic();
    this.#reader = new AnswerReader(stream, setting.maxOutputBytes, ports.budget);
    const way = { lease: this.ref, holdBack: durable, whole: !stream || durable, wanted: true };
    this.#delivery = new Delivery(ports, way, this.#reader.output, () => this.#flow());
  }

  begin(): void {
    const { body, input, deadline_ms: deadlineMs } = this.offer;
    this.#deadline = this.#ports.clock.setTimer(
      () => this.#fault("E_ENGINE", "the deadline has passed"),
      Math.min(deadlineMs, maxTimerMs),
    );
    this.#delivery.begin();
    if (input) void this.#fetch(input);
    else this.#ask(body ?? "");
  }

  get running(): boolean {
    return !this.#ended && !this.#gone;
  }

  get durable(): boolean {
    return this.offer.durable;
  }

  get ref(): Lease {
    const { job, attempt, token } = this.offer;
    return { job, attempt, token };
  }

  get needsLease(): boolean {
    return !this.#delivery.resultSent;
  }

  get held(): Payload<"resume">["jobs"][number] {
    return { ...this.ref, next_offset: this.#reader.output.size, finished: this.#ended };
  }

  sessionEnded(): void {
    this.#delivery.sessionEnded();
  }

  keep(offset: number): void {
    this.#delivery.keep(offset);
    this.#flow();
  }

  drop(why?: string): void {
    const wasRunning = this.running;
    this.#forget();
    if (wasRunning) this.#on.ended("dropped", why);
  }

  handBack(reason: string): void {
    if (this.running) this.#fault("E_BUSY", reason);
  }

  /** Fetches an input that was too large for the offer, then asks the engine. */
  async #fetch(input: NonNullable<Offer["input"]>): Promise<void> {
    if (!this.#ports.budget.take(input.size))
      return this.#fault("E_BUSY", "the node holds as much input and output as it has memory for");
    this.#inputBytes = input.size;
    try {
      const bytes = await this.#fetched(input);
      if (this.running) this.#ask(bytes);
    } catch (thrown) {
      const mismatch = thrown instanceof TransferError && thrown.code === "mismatch";
      this.#fault(mismatch ? "E_SCHEMA" : "E_BUSY", `input: ${messageOf(thrown)}`);
    }
  }

  /** Asks again while the service has no room or cannot be reached: the lease is renewed meanwhile. */
  async #fetched(input: NonNullable<Offer["input"]>): Promise<Uint8Array> {
    const { transfers, clock } = this.#ports;
    for (let tries = 1; ; tries++) {
      try {
        return await transfers.fetch(this.ref, input, this.#stopping.signal);
      } catch (thrown) {
        const passing =
          thrown instanceof TransferError && (thrown.code === "busy" || thrown.code === "unavailable");
        if (!passing || tries === maxFetches || !this.running) throw thrown;
        const waitMs = thrown.retryMs ?? fetchAgainMs;
        await new Promise<void>((resolve) => {
          const timer = clock.setTimer(resolve, waitMs);
          this.#stopping.signal.addEventListener("abort", () => {
            timer.cancel();
            resolve();
          });
        });
      }
    }
  }

  #ask(body: string | Uint8Array): void {
    const { enginePort, tellJobId } = this.#setting;
    const { endpoint, stream, job } = this.offer;
    this.#exchange = this.#ports.http.request(
      {
        method: "POST",
        url: `http://${engineHost}:${enginePort}${endpoint}`,
        headers: {
          "content-type": "application/json",
          accept: stream ? "text/event-stream" : "application/json",
          ...(tellJobId && { "x-request-id": job }),
        },
        body,
      },
      this.#handlers(),
    );
  }

  #handlers(): HttpHandlers {
    const guarded = (act: () => void) => {
      try {
        act();
      } catch (thrown) {
        const kind = thrown instanceof AnswerError ? thrown.kind : "engine";
        this.#fault(codeOfAnswer[kind], messageOf(thrown));
      }
    };
    return {
      head: (head) =>
        guarded(() => {
          // The engine has read what it was asked.
          this.#releaseInput();
          this.#reader.head(head);
        }),
      data: (bytes) =>
        guarded(() => {
          if (!this.running || !this.#reader.data(bytes)) return;
          this.#delivery.more();
          this.#flow();
        }),
      end: () =>
        guarded(() => {
          if (!this.running) return;
          this.#reader.end();
          this.#finish("completed");
        }),
      failed: (error) => this.#fault("E_ENGINE", `the engine broke off: ${messageOf(error)}`),
    };
  }

  /** Back-pressure: a service that reads slowly makes the engine wait, rather than the agent hold what it says. */
  #flow(): void {
    if (!this.running) return;
    // What a durable job says is held until its end: there is nobody to wait for.
    const waiting = this.durable ? 0 : this.#delivery.unsent;
    if (!this.#paused && waiting > pauseAboveBytes) {
      this.#paused = true;
      this.#exchange?.pause();
    } else if (this.#paused && waiting < resumeBelowBytes) {
      this.#paused = false;
      this.#exchange?.resume();
    }
  }

  #fault(code: NackCode, reason: string): void {
    if (!this.running) return;
    this.#exchange?.abort();
    if (this.#delivery.relayed) {
      this.#finish("failed", reason);
      return;
    }
    this.#ports.outbox.send("nack", { ...this.ref, code, reason: reason.slice(0, 500) });
    this.#forget();
    this.#on.ended("nacked", `${code}: ${reason}`);
  }

  #finish(outcome: "completed" | "failed", why?: string): void {
    this.#deadline?.cancel();
    const ended = this.#end(outcome);
    if (this.durable) void this.#keepOnDisk(ended);
    else this.#done(ended, why);
  }

  #end(outcome: "completed" | "failed"): Ended {
    const { identity, config } = this.#setting;
    const { body, input, job, attempt, consumer, model } = this.offer;
    const usage = this.#reader.usage();
    return {
      ...this.ref,
      status: this.#reader.status,
      usage,
      receipt: {
        network: identity.network,
        job,
        attempt,
        node_id: identity.nodeId,
        account: identity.binding.account,
        consumer,
        model,
        config_digest: config,
        input_sha256:
          input?.sha256 ??
          createHash("sha256")
            .update(body ?? "")
            .digest("hex"),
        output_sha256: this.#reader.output.sha256(),
        ...usage,
        duration_ms: Math.round(this.#ports.clock.monotonic() - this.#begun),
        outcome,
        time: this.#ports.clock.now(),
      },
    };
  }

  /** Nothing is said of a durable result before it is on the disk. */
  async #keepOnDisk(ended: Ended): Promise<void> {
    const { results } = this.#ports;
    this.#keeping = true;
    try {
      await results.keep({ ended, output: this.#reader.output.bytes });
    } catch (thrown) {
      this.#keeping = false;
      return this.#fault("E_BUSY", messageOf(thrown));
    }
    this.#keeping = false;
    if (this.#gone) results.forget(this.ref);
    else this.#done(ended);
  }

  #done(ended: Ended, why?: string): void {
    this.#ended = true;
    this.#delivery.finish(ended);
    this.#on.ended(ended.receipt.outcome, why);
  }

  #releaseInput(): void {
    this.#ports.budget.give(this.#inputBytes);
    this.#inputBytes = 0;
  }

  #forget(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#reader.release();
    this.#releaseInput();
    this.#stopping.abort();
    this.#exchange?.abort();
    this.#deadline?.cancel();
    this.#delivery.stop();
    // A write that is under way ends first, and then finds that it was for nothing.
    if (this.durable && !this.#keeping) this.#ports.results.forget(this.ref);
    this.#on.forgotten();
  }
}
