import type { Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { JobId } from "../../protocol/fields.ts";
import { maxInlineBytes, type Payload } from "../../protocol/messages.ts";
import type { DispatchAction, DispatchEvent, From, JobSpec, LeaseRef } from "../dispatch/types.ts";
import { nodeWorked, receiptKeys } from "../nodes.ts";
import { checkResult } from "../receipts/check-result.ts";
import type { UnfinishedJob } from "../store/port.ts";
import { VaultError } from "./body-vault.ts";
import { failureMessages, type JobClient, nobody } from "./client.ts";
import type { DeskParts, NodeLine } from "./desk-parts.ts";
import { fitsOffer, type JobInput } from "./input.ts";
import { LiveJob } from "./live-job.ts";
import { LiveJobs } from "./live-jobs.ts";
import { answerClient, commitChanges, committedState } from "./outcome.ts";
import { looksLikeEvents } from "./output.ts";
import { onceReadable } from "./readable.ts";

/** Longest sleep; timers of the platform do not reach much beyond three weeks. */
const maxTimerMs = 3_600_000;

/** What of an output is looked at to tell what it is. */
const beginningBytes = 4096;

/** What came with an event and is needed to carry out its actions. */
interface Payloads {
  /** Input of an asynchronous job that may fit into its offer. */
  readonly input?: string | undefined;
  readonly chunk?: Buffer;
  readonly result?: Payload<"result">;
}

/**
 * Where dispatch meets the world: events go in with the moment, actions are carried out on sessions, clients and the
 * store. One event at a time; what an action causes at once waits its turn.
 */
export class JobDesk {
  readonly #parts: DeskParts;
  readonly #live = new LiveJobs();
  readonly #inbox: { readonly event: DispatchEvent; readonly payloads: Payloads }[] = [];
  #working = false;
  #timer: Timer | undefined;
  #timerAt = Infinity;
  #closed = false;
  /** Leases that the heartbeat being handled has lost. */
  #lost: readonly { readonly job: JobId; readonly attempt: number }[] = [];

  constructor(parts: DeskParts) {
    this.#parts = parts;
  }

  /** Jobs that are not over, or whose end is not on the disk yet. */
  get live(): ReadonlyMap<JobId, LiveJob> {
    return this.#live.all;
  }

  /** Takes a client's job. The input goes to the node as it is. */
  submit(spec: JobSpec, input: JobInput, client: JobClient): void {
    const { clock, store, metrics } = this.#parts;
    const job = new LiveJob(spec, input, client, clock.now(), clock.monotonic());
    this.#live.add(job);
    metrics.submitted.inc();
    this.#keep(store.write([{ put: "job", row: job.row({ state: "QUEUED", attempt: 0, node: null }) }]));
    this.handle({ on: "submit", job: spec });
  }

  /** Takes an asynchronous job that is on the disk. @param createdAt wall time, ms. */
  submitDurable(spec: JobSpec, input: JobInput, createdAt: number): void {
    const { clock, metrics } = this.#parts;
    this.#live.add(new LiveJob(spec, input, nobody, createdAt, clock.monotonic()));
    metrics.submitted.inc();
    metrics.asyncSubmitted.inc();
    this.handle({ on: "submit", job: spec });
  }

  /** Takes up an asynchronous job that the store has from before a restart. */
  restore({ row, submission, attempt }: UnfinishedJob): void {
    const { clock, nodes, metrics } = this.#parts;
    const { id, consumer, model, stream } = row;
    const spec = { id, consumer, model, stream, durable: true };
    const input = { sha256: submission.inputSha256, size: submission.inputBytes, text: undefined };
    const live = new LiveJob(spec, input, nobody, row.createdAt, clock.monotonic());
    live.last = { attempt: row.attempt, node: row.node };
    this.#live.add(live);
    metrics.asyncRestored.inc();
    this.handle({
      on: "restore",
      job: spec,
      lifeMs: submission.deadline - clock.now(),
      attempt: attempt && { ...attempt, account: nodes.get(attempt.node)?.account ?? "" },
    });
  }

  /** Resolves when a job is over, and that is on the disk. */
  settled(job: JobId): Promise<void> {
    return this.#live.settled(job);
  }

  /**
   * The input of a job that is not over, byte for byte; undefined = there is no such job.
   * @throws {VaultError}
   */
  async input(job: JobId): Promise<Buffer | undefined> {
    const live = this.#live.get(job);
    if (!live) return undefined;
    if (live.input.bytes !== undefined) return live.input.bytes;
    if (live.input.text !== undefined) return Buffer.from(live.input.text);
    return this.#parts.vault.open(job, "input", await this.#parts.store.body(job, "input"));
  }

  /** The client is gone, or the service ends. */
  abandon(job: JobId, reason: string): void {
    this.handle({ on: "abandon", job, reason });
  }

  /** A piece of output from a node. */
  chunk(from: From, payload: Payload<"chunk">): void {
    const { job, attempt, token, offset, data } = payload;
    const lease = { job, attempt, token };
    this.piece(from, lease, offset, Buffer.from(data));
  }

  /** A piece of output as bytes: of a chunk, or a whole output that was brought by HTTP. */
  piece(from: From, lease: LeaseRef, offset: number, chunk: Buffer): void {
    const live = this.#live.get(lease.job);
    // Of the current attempt alone: another node that had the job may still speak of it.
    const current = this.#parts.dispatch.job(lease.job)?.admits(from, lease);
    if (live && current && offset === 0 && live.spec.stream && live.output.bytes === 0)
      live.output.kind = looksLikeEvents(chunk.toString("utf8", 0, beginningBytes)) ? "events" : "whole";
    const visible = live?.output.kind === "events";
    this.handle({ on: "chunk", from, lease, offset, bytes: chunk.length, visible }, { chunk });
  }

  /** The end of a node's output. */
  result(from: From, payload: Payload<"result">): void {
    const { job, attempt, token } = payload;
    this.handle({ on: "result", from, lease: { job, attempt, token } }, { result: payload });
  }

  /** A node hands a job back. */
  nack(from: From, { job, attempt, token, code, reason }: Payload<"nack">): void {
    const lease = { job, attempt, token };
    const node = this.#parts.nodes.get(from.node);
    if (code === "E_ENGINE" && node && this.#parts.dispatch.job(job)?.admits(from, lease)) {
      nodeWorked(node, undefined);
      this.#parts.nodes.changed(node);
    }
    this.handle({ on: "nack", from, lease, code, reason });
  }

  /** A heartbeat's leases; returns those that are no longer the node's. */
  renew(
    from: From,
    leases: Payload<"heartbeat">["leases"],
  ): readonly { readonly job: JobId; readonly attempt: number }[] {
    this.#lost = [];
    this.handle({ on: "renew", from, leases });
    return this.#lost;
  }

  /** Lets anything happen. */
  handle(event: DispatchEvent, payloads: Payloads = {}): void {
    // What is written from now on could miss the end of the store. Commits that are on their way come to theirs.
    if (this.#closed && event.on !== "durable") return;
    this.#inbox.push({ event, payloads });
    if (this.#working) return;
    this.#working = true;
    const { dispatch, clock } = this.#parts;
    try {
      for (let next = this.#inbox.shift(); next; next = this.#inbox.shift()) {
        const at = { mono: clock.monotonic(), wall: clock.now() };
        for (const action of dispatch.handle(next.event, at)) this.#carryOut(action, next.payloads);
      }
    } finally {
      this.#working = false;
    }
    this.#arm();
  }

  /** Resolves when no client waits any more. */
  idle(): Promise<void> {
    return this.#live.idle();
  }

  /** Gives up every job that a client waits for, and does nothing more; asynchronous ones are in the store. */
  close(reason: string): void {
    for (const [id, { spec }] of this.#live.all) if (!spec.durable) this.abandon(id, reason);
    this.#closed = true;
    this.#timer?.cancel();
    this.#timerAt = -Infinity;
  }

  #arm(): void {
    const { dispatch, clock } = this.#parts;
    const due = dispatch.nextDue;
    if (due === undefined || due >= this.#timerAt) return;
    this.#timer?.cancel();
    this.#timerAt = due;
    this.#timer = clock.setTimer(
      () => {
        this.#timerAt = Infinity;
        this.handle({ on: "tick" });
      },
      Math.min(maxTimerMs, Math.max(0, Math.ceil(due - clock.monotonic()))),
    );
  }

  #carryOut(action: DispatchAction, payloads: Payloads): void {
    switch (action.do) {
      case "keep-attempt":
        return this.#keepAttempt(action);
      case "offer":
        return this.#offer(action, payloads);
      case "cancel": {
        const { job, attempt, reason } = action;
        this.#line(action.to)?.cancel({ job, attempt, reason });
        return;
      }
      case "relay":
        return this.#relay(action, payloads);
      case "restart":
        this.#live.get(action.job)?.output.restart();
        return;
      case "verify":
        return this.#verify(action, payloads);
      case "commit":
        return this.#commit(action, payloads);
      case "ack":
        return this.#ack(action);
      case "look-up":
        void this.#lookUp(action);
        return;
      case "verdict":
        this.#line(action.to)?.verdict({ jobs: action.jobs, last: action.last });
        return;
      case "lost":
        this.#lost = action.leases;
        return;
      case "end":
        return this.#end(action);
      case "node-changed": {
        const node = this.#parts.nodes.get(action.node);
        if (node) this.#parts.nodes.changed(node);
        return;
      }
      default:
        action satisfies never;
    }
  }

  #line(to: From): NodeLine | undefined {
    const line = this.#parts.lineTo(to.node);
    return line?.epoch === to.epoch ? line : undefined;
  }

  /** The input comes from the disk while the attempt goes there. */
  #keepAttempt({ do: _, ...attempt }: Extract<DispatchAction, { do: "keep-attempt" }>): void {
    const { job } = attempt;
    const live = this.#live.get(job);
    if (!live) return;
    live.last = { attempt: attempt.attempt, node: attempt.node };
    // What is surely too large for a frame, the node will fetch.
    const inline = live.input.size <= maxInlineBytes;
    const read = inline
      ? onceReadable(
          () => this.input(job),
          this.#parts,
          () => this.#closed,
        )
      : Promise.resolve(undefined);
    const written = this.#parts.store.write([{ put: "attempt", attempt }]);
    Promise.all([read, written]).then(
      ([input]) =>
        this.handle({ on: "attempt-kept", job, attempt: attempt.attempt }, { input: input?.toString() }),
      (error: unknown) => {
        if (error instanceof VaultError) this.handle({ on: "spoiled", job, reason: error.message });
        else if (!this.#closed) this.#parts.fatal(error);
      },
    );
  }

  #offer(
    { to, job, attempt, token, deadlineMs }: Extract<DispatchAction, { do: "offer" }>,
    payloads: Payloads,
  ): void {
    const live = this.#live.get(job);
    if (!live) return;
    const { model, stream, consumer, durable } = live.spec;
    const { sha256, size, text = payloads.input } = live.input;
    live.last = { attempt, node: to.node };
    this.#parts.metrics.offers.inc();
    this.#line(to)?.offer({
      job,
      attempt,
      token,
      model,
      endpoint: "/v1/chat/completions",
      stream,
      durable,
      ...(text !== undefined && fitsOffer(text, size) ? { body: text } : { input: { sha256, size } }),
      consumer,
      deadline_ms: deadlineMs,
    });
  }

  #relay({ job, skip }: Extract<DispatchAction, { do: "relay" }>, { chunk }: Payloads): void {
    const live = this.#live.get(job);
    if (!live || !chunk) return;
    const visible = live.output.append(skip === 0 ? chunk : chunk.subarray(skip));
    if (!visible) return;
    if (live.relayedBytes === 0)
      this.#parts.metrics.firstByte.observe((this.#parts.clock.monotonic() - live.startedAt) / 1000);
    live.relayedBytes += visible.length;
    if (!live.client.events(visible)) this.#inbox.push(giveUp(job, "the client does not read"));
  }

  #verify({ job, attempt }: Extract<DispatchAction, { do: "verify" }>, { result }: Payloads): void {
    const live = this.#live.get(job);
    const held = this.#parts.dispatch.job(job);
    const node = held?.node === undefined ? undefined : this.#parts.nodes.get(held.node);
    if (!live || !held || !node || !result) return;
    const checked = checkResult(result, {
      network: this.#parts.network,
      nodeId: node.nodeId,
      nodeKeys: receiptKeys(node),
      account: node.account,
      consumer: live.spec.consumer,
      model: live.spec.model,
      inputSha256: live.input.sha256,
      inputBytes: live.input.size,
      outputBytes: live.output.bytes,
      outputSha256: live.output.sha256(),
      pinned: held.pinned,
    });
    live.metered = checked.metered;
    if (checked.verdict.is !== "sound") {
      const { log, metrics } = this.#parts;
      metrics.refused.inc({ why: checked.verdict.is });
      log.warn({ job, attempt, node: node.nodeId, reason: checked.verdict.reason }, "result not committed");
      nodeWorked(node, undefined);
      this.#parts.nodes.changed(node);
    }
    const event = { on: "verified", job, attempt, verdict: checked.verdict } as const;
    this.#inbox.unshift({ event, payloads: { result } });
  }

  /** The client has its answer at once; the node's acknowledgement waits until receipt and commit are on the disk. */
  #commit(
    { job, attempt, node: nodeId }: Extract<DispatchAction, { do: "commit" }>,
    { result }: Payloads,
  ): void {
    const { clock, ledger, nodes, store, vault, metrics } = this.#parts;
    const live = this.#live.get(job);
    const node = nodes.get(nodeId);
    if (!live || !node || !result) return;
    const now = clock.now();
    const { account } = node;
    const checked = { account, job, attempt, node: nodeId, receipt: result.receipt, metered: live.metered };
    const receipt = ledger.countersign(checked, now);
    live.countersign = receipt.countersign;
    answerClient(live, result);
    node.jobsCommitted++;
    nodeWorked(node, committedState(result) === "COMMITTED" ? result.duration_ms : undefined);
    metrics.ended.inc({ state: committedState(result) });
    if (!live.spec.durable) metrics.duration.observe((clock.monotonic() - live.startedAt) / 1000);
    const changes = commitChanges(live, { attempt, node: nodeId, result, receipt, now }, vault);
    this.#keep(store.write(changes).then(() => this.#durable(job)));
    nodes.changed(node);
  }

  #durable(job: JobId): void {
    this.handle({ on: "durable", job });
    this.#live.remove(job);
    this.#keep(this.#parts.store.write([{ put: "confirmed", job }]));
  }

  #ack({ to, job, attempt, status }: Extract<DispatchAction, { do: "ack" }>): void {
    const receipt = this.#live.get(job)?.countersign;
    this.#line(to)?.ack({
      job,
      attempt,
      status,
      ...(status === "committed" && receipt !== undefined ? { receipt } : {}),
    });
  }

  /** A result that came again after its job was forgotten: the store knows what became of it. */
  async #lookUp({ to, job, attempt }: Extract<DispatchAction, { do: "look-up" }>): Promise<void> {
    try {
      const kept = await this.#parts.store.job(job);
      const receipt = kept?.receipt;
      const committed = receipt?.node === to.node && receipt.attempt === attempt;
      this.#line(to)?.ack(
        committed
          ? { job, attempt, status: "committed", receipt: receipt.countersign }
          : { job, attempt, status: "stale" },
      );
    } catch (error) {
      // Without an answer the node keeps the result and offers it again on its next session.
      this.#parts.log.warn({ job, why: messageOf(error) }, "cannot look up a job");
    }
  }

  #end({ job, state, code, reason }: Extract<DispatchAction, { do: "end" }>): void {
    const live = this.#live.get(job);
    if (!live) return;
    const { clock, store, metrics, log } = this.#parts;
    const { attempt, node } = live.last;
    log.info({ job, state, attempt, node, reason }, "job ended without a commit");
    metrics.ended.inc({ state });
    const row = live.row({ state, attempt, node, finishedAt: clock.now(), endCode: code, error: reason });
    const written = store.write([{ put: "job", row }]);
    if (live.spec.durable) {
      this.#keep(written.then(() => this.#live.remove(job)));
      return;
    }
    this.#keep(written);
    const told = code === "cancelled" ? "unavailable" : code;
    live.client.fail({ code: told, message: failureMessages[told] });
    this.#live.remove(job);
  }

  /** A write that conflicts means that memory and store disagree: nothing after it could be trusted. */
  #keep(write: Promise<void>): void {
    write.catch((error: unknown) => this.#parts.fatal(error));
  }
}

function giveUp(job: JobId, reason: string): { readonly event: DispatchEvent; readonly payloads: Payloads } {
  return { event: { on: "abandon", job, reason }, payloads: {} };
}
