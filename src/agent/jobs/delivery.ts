import type { Clock, Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Logger } from "../../lib/logger.ts";
import type { SigningKey } from "../../protocol/keys.ts";
import { type AgentKind, type Body, maxInlineBytes } from "../../protocol/messages.ts";
import { type Ended, resultOf } from "./kept-result.ts";
import type { JobOutput } from "./output.ts";
import { type Lease, TransferError, type Transfers } from "./transfers.ts";

/** Silence of the engine after which the job is accepted without output. */
export const acceptAfterMs = 500;
/** After the first piece of output, the next ones are collected for this long. */
export const batchMs = 50;
/** How soon a peer that does not keep up is tried again. */
const retryMs = 20;
/** Uploads that may fail before the output goes as chunks, which take every way that a session takes. */
const maxUploadFailures = 3;
/** How soon an upload is tried again that failed, that the service had no room for, or whose lease it did not know. */
const uploadAgainMs = { unavailable: 1_000, mismatch: 1_000, busy: 2_000, stale: 10_000 } as const;

/** The way to the service. */
export interface Outbox {
  /** True when the peer keeps up. */
  readonly writable: boolean;
  /** False when there is no open session. */
  send<K extends AgentKind>(kind: K, body: Body<K>): boolean;
}

/** What a delivery works with. */
export interface DeliveryPorts {
  readonly clock: Clock;
  readonly log: Logger;
  readonly outbox: Outbox;
  readonly transfers: Transfers;
  /** The key that the node has now: it signs the receipt. */
  readonly key: () => SigningKey;
}

/** How an attempt's output leaves. */
export interface DeliveryWay {
  readonly lease: Lease;
  /** Nothing leaves before the result exists. */
  readonly holdBack: boolean;
  /** A large output is brought whole by HTTP. */
  readonly whole: boolean;
  /** The service of the current session knows of the attempt. */
  readonly wanted: boolean;
}

/**
 * What of one attempt goes to the service: acceptance, output, result; from wherever the service wants it and as fast as it
 * reads, again on each session until nothing of it is needed any more.
 */
export class Delivery {
  readonly #ports: DeliveryPorts;
  readonly #way: DeliveryWay;
  readonly #output: JobOutput;
  readonly #progress: () => void;
  #accept: Timer | undefined;
  #pumping: Timer | undefined;
  #ended: Ended | undefined;
  #wanted: boolean;
  #sent = 0;
  #relayed = false;
  #resultSent = false;
  #stopped = false;
  #upload: AbortController | undefined;
  #uploadFailures = 0;

  /** @param progress called when output has left. */
  constructor(ports: DeliveryPorts, way: DeliveryWay, output: JobOutput, progress: () => void) {
    this.#ports = ports;
    this.#way = way;
    this.#output = output;
    this.#progress = progress;
    this.#wanted = way.wanted;
  }

  /** Some of the output has been sent: a client may have seen it. */
  get relayed(): boolean {
    return this.#relayed;
  }

  /** Bytes of output that wait to be sent. */
  get unsent(): number {
    return this.#output.size - this.#sent;
  }

  /** The result is on its way on this session. */
  get resultSent(): boolean {
    return this.#resultSent;
  }

  /** Says that the job is accepted, unless output says so before. */
  begin(): void {
    this.#accept = this.#ports.clock.setTimer(() => {
      this.#accept = undefined;
      if (this.#wanted && !this.#ended) this.#ports.outbox.send("accept", this.#way.lease);
    }, acceptAfterMs);
  }

  /** New output: the first piece leaves at once, later ones after the batch time. */
  more(): void {
    if (this.#relayed) this.#pumpIn(batchMs);
    else this.#pump();
  }

  /** The output is whole. */
  finish(ended: Ended): void {
    this.#ended = ended;
    this.#pump();
  }

  /** The session is gone: nothing leaves until the next one's verdict. */
  sessionEnded(): void {
    this.#wanted = false;
    this.#resultSent = false;
    this.#stopUpload();
  }

  /** The service wants the output from `offset` on. */
  keep(offset: number): void {
    this.#wanted = true;
    this.#sent = Math.min(offset, this.#output.size);
    this.#pump();
  }

  /** Nothing leaves any more. */
  stop(): void {
    this.#stopped = true;
    this.#accept?.cancel();
    this.#pumping?.cancel();
    this.#stopUpload();
  }

  #stopUpload(): void {
    this.#upload?.abort();
    this.#upload = undefined;
  }

  #pumpIn(ms: number): void {
    this.#pumping ??= this.#ports.clock.setTimer(() => {
      this.#pumping = undefined;
      this.#pump();
    }, ms);
  }

  /** Sends what there is to send, as far as the peer keeps up. */
  #pump(): void {
    const held = this.#way.holdBack && !this.#ended;
    if (this.#stopped || !this.#wanted || held || this.#upload) return;
    if (this.#ended && this.#goesWhole) return void this.#beginUpload(this.#ended);
    const { outbox } = this.#ports;
    for (;;) {
      const piece = this.#output.piece(this.#sent);
      if (!piece) break;
      if (!outbox.writable) return this.#pumpIn(retryMs);
      const chunk = { ...this.#way.lease, offset: this.#sent, data: piece.data };
      if (!outbox.send("chunk", chunk)) return;
      this.#left(this.#sent + piece.bytes);
    }
    if (!this.#ended || this.#resultSent) return;
    this.#accept?.cancel();
    this.#pumping?.cancel();
    this.#pumping = undefined;
    this.#resultSent = outbox.send("result", resultOf(this.#ended, this.#output.size, this.#ports.key()));
  }

  #left(upTo: number): void {
    this.#sent = upTo;
    this.#relayed = true;
    this.#accept?.cancel();
    this.#accept = undefined;
    this.#progress();
  }

  get #goesWhole(): boolean {
    return this.#way.whole && this.unsent > maxInlineBytes && this.#uploadFailures < maxUploadFailures;
  }

  async #beginUpload(ended: Ended): Promise<void> {
    const upload = new AbortController();
    this.#upload = upload;
    const { bytes } = this.#output;
    let failure: unknown;
    try {
      await this.#ports.transfers.upload(this.#way.lease, bytes, ended.receipt.output_sha256, upload.signal);
    } catch (thrown) {
      failure = thrown;
    }
    // Else it was stopped, or is of a session before.
    if (this.#upload === upload) this.#uploadEnded(failure);
  }

  #uploadEnded(failure: unknown): void {
    this.#upload = undefined;
    if (failure === undefined) {
      this.#left(this.#output.size);
      return this.#pump();
    }
    const { code, retryMs: asked } =
      failure instanceof TransferError ? failure : { code: "unavailable" as const, retryMs: undefined };
    if (code === "unavailable" || code === "mismatch") this.#uploadFailures++;
    const { job } = this.#way.lease;
    this.#ports.log.warn({ job, why: messageOf(failure) }, "output not brought; trying again");
    this.#pumpIn(asked ?? uploadAgainMs[code]);
  }
}
