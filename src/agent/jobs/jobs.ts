import type { Logger } from "../../lib/logger.ts";
import type { NackCode } from "../../protocol/codes.ts";
import type { ConfigDigest, JobId } from "../../protocol/fields.ts";
import type { Payload } from "../../protocol/messages.ts";
import type { NodeIdentity } from "../identity.ts";
import type { Ports } from "../ports.ts";
import type { ReceiptKeeper } from "../receipts/keeper.ts";
import type { JobFrame } from "../session/terms.ts";
import { ByteBudget } from "../../lib/byte-budget.ts";
import type { Outbox } from "./delivery.ts";
import type { HeldJob } from "./held-job.ts";
import { Job, type JobEnd, type JobPorts, type Offer } from "./job.ts";
import { KeptJob } from "./kept-job.ts";
import type { Results } from "./results.ts";
import type { Transfers } from "./transfers.ts";

/** What the node can take at this moment. */
export interface Capacity {
  readonly accepting: boolean;
  /** Why not, when it does not accept. */
  readonly reason?: string | undefined;
  readonly slots: number;
  readonly config: ConfigDigest | null;
  readonly activeModels: readonly string[];
  readonly enginePort: number | undefined;
  /** The engine takes a job's id as `x-request-id`. */
  readonly tellJobId: boolean;
  readonly maxOutputBytes: number;
}

/**
 * Why an offer is not taken; undefined when it is.
 * @param cannotKeep why no further result can be kept on disk.
 */
export function refusal(
  offer: Pick<Offer, "model" | "durable">,
  capacity: Capacity,
  running: number,
  cannotKeep?: string,
): { readonly code: NackCode; readonly reason: string } | undefined {
  if (capacity.config === null || capacity.enginePort === undefined)
    return { code: "E_CONFIG", reason: capacity.reason ?? "the node has no verified config" };
  if (!capacity.accepting) return { code: "E_BUSY", reason: capacity.reason ?? "the node takes no jobs" };
  if (!capacity.activeModels.includes(offer.model))
    return { code: "E_MODEL", reason: "the model is not active on this node" };
  if (running >= capacity.slots) return { code: "E_BUSY", reason: `all ${capacity.slots} slots are in use` };
  if (offer.durable && cannotKeep !== undefined) return { code: "E_BUSY", reason: cannotKeep };
  return undefined;
}

/** Totals since start, by how jobs ended. */
export type JobTotals = Record<JobEnd, number>;

/** Most bytes that all jobs together hold: output until it is acknowledged, large input until the engine has it. */
const maxHeldBytes = 64 * 1024 * 1024;

/** A job began or ended; one ended by a fault; nothing of one is kept any more. */
export type JobsChange = "load" | "fault" | "forgotten";

/** What jobs need of the rest of the agent. */
export interface JobsParts {
  readonly identity: NodeIdentity;
  readonly outbox: Outbox;
  readonly transfers: Transfers;
  readonly results: Results;
  readonly capacity: () => Capacity;
  readonly changed: (what: JobsChange) => void;
  /** Keeps countersigned receipts; undefined = nobody does. */
  readonly receipts?: ReceiptKeeper | undefined;
}

/** All jobs that the node holds: those that run, and those whose result has not been acknowledged. */
export class Jobs {
  readonly #log: Logger;
  readonly #identity: NodeIdentity;
  readonly #outbox: Outbox;
  readonly #capacity: () => Capacity;
  readonly #changed: (what: JobsChange) => void;
  readonly #receipts: ReceiptKeeper | undefined;
  readonly #results: Results;
  readonly #jobPorts: JobPorts;
  readonly #held = new Map<JobId, HeldJob>();
  readonly totals: JobTotals = { completed: 0, failed: 0, nacked: 0, dropped: 0 };

  constructor(ports: Pick<Ports, "clock" | "http" | "log">, parts: JobsParts) {
    const { clock, http, log } = ports;
    const { identity, outbox, transfers, results } = parts;
    this.#log = log;
    this.#identity = identity;
    this.#outbox = outbox;
    this.#capacity = parts.capacity;
    this.#changed = parts.changed;
    this.#receipts = parts.receipts;
    this.#results = results;
    const budget = new ByteBudget(maxHeldBytes);
    this.#jobPorts = { clock, http, log, outbox, transfers, results, budget, key: () => identity.key };
  }

  /** Takes up results that an earlier process has kept: the next session hears of them. */
  async takeUp(): Promise<void> {
    for (const kept of await this.#results.open(this.#identity.keys.held)) {
      const { job: id } = kept.ended;
      const held = this.#held.get(id);
      if (held && held.ref.attempt >= kept.ended.attempt) {
        this.#results.forget(kept.ended);
        continue;
      }
      const job: KeptJob = new KeptJob(kept, this.#jobPorts, () => this.#forgotten(id, job));
      this.#held.set(id, job);
      held?.drop();
    }
    this.#changed("load");
  }

  /** Jobs that the engine works on. */
  get running(): number {
    let running = 0;
    for (const job of this.#held.values()) if (job.running) running++;
    return running;
  }

  /** Jobs that run or wait for an acknowledgement. */
  get size(): number {
    return this.#held.size;
  }

  held(): Payload<"resume">["jobs"] {
    return [...this.#held.values()].map((job) => job.held);
  }

  leases(): Payload<"heartbeat">["leases"] {
    const jobs = [...this.#held.values()].filter((job) => job.needsLease);
    return jobs.map((job) => job.ref).slice(0, 1024);
  }

  sessionEnded(): void {
    for (const job of this.#held.values()) job.sessionEnded();
  }

  /** Everything that the service says about jobs. */
  frame(frame: JobFrame): void {
    switch (frame.kind) {
      case "offer":
        return this.#offered(frame.payload);
      case "cancel":
        return this.#find(frame.payload)?.drop("cancelled by the service");
      case "verdict":
        for (const verdict of frame.payload.jobs) {
          const job = this.#find(verdict);
          // The acknowledgement may have been lost with the session before.
          if (verdict.receipt !== undefined) this.#receipts?.keep(verdict.receipt);
          if (verdict.action === "keep") job?.keep(verdict.offset);
          else job?.drop(verdict.action === "cancel" ? "the service does not want it any more" : undefined);
        }
        return;
      case "ack":
        for (const result of frame.payload.results) {
          if (result.status !== "committed") {
            const { job, attempt, status } = result;
            this.#log.warn({ job, attempt, status }, "result not taken; deleted");
          }
          // Also of a job that an earlier process has done: it was earned all the same.
          if (result.receipt !== undefined) this.#receipts?.keep(result.receipt);
          this.#find(result)?.drop();
        }
        return;
    }
  }

  /** Leases that are no longer the node's. */
  lost(leases: Payload<"heartbeat-ack">["lost"]): void {
    for (const lease of leases) this.#find(lease)?.drop("its lease is lost");
  }

  /** Gives every unfinished job back. */
  handBack(reason: string): void {
    for (const job of this.#held.values()) job.handBack(reason);
  }

  #find(ref: { readonly job: JobId; readonly attempt: number }): HeldJob | undefined {
    const job = this.#held.get(ref.job);
    return job?.ref.attempt === ref.attempt ? job : undefined;
  }

  #forgotten(id: JobId, job: HeldJob): void {
    if (this.#held.get(id) === job) this.#held.delete(id);
    this.#changed("forgotten");
  }

  get #durableRunning(): number {
    let running = 0;
    for (const job of this.#held.values()) if (job.durable && job.running) running++;
    return running;
  }

  #offered(offer: Offer): void {
    const older = this.#held.get(offer.job);
    if (older && older.ref.attempt >= offer.attempt) return;
    // A newer attempt revokes the one that is held.
    older?.drop("offered again as a newer attempt");
    const capacity = this.#capacity();
    const cannotKeep = offer.durable ? this.#results.refusal(this.#durableRunning) : undefined;
    const refused = refusal(offer, capacity, this.running, cannotKeep);
    if (refused || capacity.config === null || capacity.enginePort === undefined) {
      const { job, attempt, token } = offer;
      const { code, reason } = refused ?? { code: "E_CONFIG" as const, reason: "no config" };
      this.#outbox.send("nack", { job, attempt, token, code, reason: reason.slice(0, 500) });
      this.totals.nacked++;
      return;
    }
    const job: Job = new Job(
      offer,
      {
        identity: this.#identity,
        config: capacity.config,
        enginePort: capacity.enginePort,
        tellJobId: capacity.tellJobId,
        maxOutputBytes: capacity.maxOutputBytes,
      },
      this.#jobPorts,
      {
        ended: (how, why) => this.#ended(offer, how, why),
        forgotten: () => this.#forgotten(offer.job, job),
      },
    );
    this.#held.set(offer.job, job);
    job.begin();
    this.#changed("load");
  }

  #ended(offer: Offer, how: JobEnd, why: string | undefined): void {
    this.totals[how]++;
    const { job, attempt } = offer;
    if (why !== undefined) this.#log.info({ job, attempt, how, why }, "job ended here");
    this.#changed(how === "nacked" || how === "failed" ? "fault" : "load");
  }
}
