import { createHash } from "node:crypto";
import type { Clock, Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { NackCode } from "../../protocol/codes.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import type { AgentKind, Body, Payload } from "../../protocol/messages.ts";
import { sealReceipt } from "../../protocol/receipt.ts";
import { engineHost } from "../engine/argv.ts";
import type { NodeIdentity } from "../identity.ts";
import type { Http, HttpExchange, HttpHandlers } from "../ports.ts";
import type { ByteBudget } from "./budget.ts";
import { AnswerError, AnswerReader } from "./answer.ts";

/** Silence of the engine after which the job is accepted without output. */
export const acceptAfterMs = 500;
/** After the first piece of output, the next ones are collected for this long. */
export const batchMs = 50;
/** Longest that a timer of the platform can be set for, which is 24 days. */
const maxTimerMs = 2 ** 31 - 1;
/** How soon a peer that does not keep up is tried again. */
const retryMs = 20;

/** The way to the service. */
export interface Outbox {
  /** True when the peer keeps up. */
  readonly writable: boolean;
  /** False when there is no open session. */
  send<K extends AgentKind>(kind: K, body: Body<K>): boolean;
}

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

interface JobPorts {
  readonly clock: Clock;
  readonly http: Http;
  readonly outbox: Outbox;
  readonly budget: ByteBudget;
}

/**
 * One attempt at one job, from the offer to the moment when nothing of it is needed any more. The engine's answer becomes
 * chunks, then a result; both are kept so that a new session can go on from the offset that the service wants.
 *
 * A fault before the first chunk has left hands the job back (NACK), which the client never notices. After it the
 * attempt is pinned, and a fault is a `failed` result over what was relayed.
 */
export class Job {
  readonly offer: Offer;
  readonly #setting: JobSetting;
  readonly #ports: JobPorts;
  readonly #on: JobListener;
  readonly #begun: number;
  readonly #reader: AnswerReader;
  readonly #exchange: HttpExchange;
  readonly #deadline: Timer;
  #accept: Timer | undefined;
  #pumping: Timer | undefined;
  #result: Body<"result"> | undefined;
  #gone = false;
  /** The service of the current session knows of the job and wants its output. */
  #wanted = true;
  #sent = 0;
  #relayed = false;
  #resultSent = false;

  constructor(offer: Offer, setting: JobSetting, ports: JobPorts, on: JobListener) {
    this.offer = offer;
    this.#setting = setting;
    this.#ports = ports;
    this.#on = on;
    this.#begun = ports.clock.monotonic();
    this.#reader = new AnswerReader(offer.stream, setting.maxOutputBytes, ports.budget);
    this.#deadline = ports.clock.setTimer(
      () => this.#fault("E_ENGINE", "the deadline has passed"),
      Math.min(offer.deadline_ms, maxTimerMs),
    );
    this.#accept = ports.clock.setTimer(() => this.#sayAccept(), acceptAfterMs);
    this.#exchange = ports.http.request(
      {
        method: "POST",
        url: `http://${engineHost}:${setting.enginePort}${offer.endpoint}`,
        headers: {
          "content-type": "application/json",
          accept: offer.stream ? "text/event-stream" : "application/json",
          ...(setting.tellJobId && { "x-request-id": offer.job }),
        },
        body: offer.body ?? "",
      },
      this.#handlers(),
    );
  }

  /** True until the result exists. */
  get running(): boolean {
    return this.#result === undefined && !this.#gone;
  }

  get ref(): { job: Offer["job"]; attempt: number; token: string } {
    const { job, attempt, token } = this.offer;
    return { job, attempt, token };
  }

  /** False once the result is on its way on this session: what is to be renewed is a job that is not done. */
  get needsLease(): boolean {
    return !this.#resultSent;
  }

  /** The job's line in a `resume` frame. */
  get held(): Payload<"resume">["jobs"][number] {
    return { ...this.ref, next_offset: this.#reader.output.size, finished: this.#result !== undefined };
  }

  /** The session is gone: nothing leaves until the next one's verdict. */
  sessionEnded(): void {
    this.#wanted = false;
    this.#resultSent = false;
  }

  /** The service wants the job's output from `offset` on. */
  keep(offset: number): void {
    this.#wanted = true;
    this.#sent = Math.min(offset, this.#reader.output.size);
    this.#pump();
  }

  /** Stops and forgets: cancelled, lease lost, committed, refused. */
  drop(why?: string): void {
    const wasRunning = this.running;
    this.#forget();
    if (wasRunning) this.#on.ended("dropped", why);
  }

  /** Hands an unfinished job back, because the node stops. */
  handBack(reason: string): void {
    if (this.running) this.#fault("E_BUSY", reason);
  }

  #handlers(): HttpHandlers {
    const guarded = (act: () => void) => {
      try {
        act();
      } catch (thrown) {
        this.#exchange.abort();
        const kind = thrown instanceof AnswerError ? thrown.kind : "engine";
        const code = { engine: "E_ENGINE", busy: "E_BUSY", model: "E_MODEL" } as const;
        this.#fault(code[kind], messageOf(thrown));
      }
    };
    return {
      head: (head) => guarded(() => this.#reader.head(head)),
      data: (bytes) =>
        guarded(() => {
          if (this.running && this.#reader.data(bytes)) this.#collect();
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

  #fault(code: NackCode, reason: string): void {
    if (!this.running) return;
    this.#exchange.abort();
    if (this.#relayed) {
      this.#finish("failed", reason);
      return;
    }
    this.#ports.outbox.send("nack", { ...this.ref, code, reason: reason.slice(0, 500) });
    this.#forget();
    this.#on.ended("nacked", `${code}: ${reason}`);
  }

  #finish(outcome: "completed" | "failed", why?: string): void {
    const { output } = this.#reader;
    const { identity, config } = this.#setting;
    const usage = this.#reader.usage();
    const sha256 = output.sha256();
    const durationMs = Math.round(this.#ports.clock.monotonic() - this.#begun);
    const receipt = sealReceipt(
      {
        network: identity.network,
        job: this.offer.job,
        attempt: this.offer.attempt,
        node_id: identity.nodeId,
        account: identity.binding.account,
        consumer: this.offer.consumer,
        model: this.offer.model,
        config_digest: config,
        input_sha256: createHash("sha256")
          .update(this.offer.body ?? "")
          .digest("hex"),
        output_sha256: sha256,
        ...usage,
        duration_ms: durationMs,
        outcome,
        time: this.#ports.clock.now(),
      },
      identity.key,
    );
    this.#result = {
      ...this.ref,
      outcome,
      status: this.#reader.status,
      output_sha256: sha256,
      output_bytes: output.size,
      usage,
      duration_ms: durationMs,
      receipt,
    };
    this.#deadline.cancel();
    this.#pump();
    this.#on.ended(outcome, why);
  }

  #forget(): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#reader.release();
    this.#exchange.abort();
    this.#deadline.cancel();
    this.#accept?.cancel();
    this.#pumping?.cancel();
    this.#on.forgotten();
  }

  #sayAccept(): void {
    this.#accept = undefined;
    if (this.running && this.#wanted) this.#ports.outbox.send("accept", this.ref);
  }

  /** New output: the first piece leaves at once, later ones after the batch time. */
  #collect(): void {
    if (!this.#relayed) this.#pump();
    else this.#pumpIn(batchMs);
  }

  #pumpIn(ms: number): void {
    this.#pumping ??= this.#ports.clock.setTimer(() => {
      this.#pumping = undefined;
      this.#pump();
    }, ms);
  }

  /** Sends what there is to send, as far as the peer keeps up. */
  #pump(): void {
    if (this.#gone || !this.#wanted) return;
    const { outbox } = this.#ports;
    for (;;) {
      const piece = this.#reader.output.piece(this.#sent);
      if (!piece) break;
      if (!outbox.writable) return this.#pumpIn(retryMs);
      if (!outbox.send("chunk", { ...this.ref, offset: this.#sent, data: piece.data })) return;
      this.#sent += piece.bytes;
      this.#relayed = true;
      this.#accept?.cancel();
      this.#accept = undefined;
    }
    if (!this.#result || this.#resultSent) return;
    this.#accept?.cancel();
    this.#pumping?.cancel();
    this.#pumping = undefined;
    this.#resultSent = outbox.send("result", this.#result);
  }
}
