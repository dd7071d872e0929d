import type { NackCode } from "../../protocol/codes.ts";
import type { ConfigDigest, JobId } from "../../protocol/fields.ts";
import type { Payload } from "../../protocol/messages.ts";
import type { NodeIdentity } from "../identity.ts";
import type { Ports } from "../ports.ts";
import type { ReceiptKeeper } from "../receipts/keeper.ts";
import type { JobFrame } from "../session/terms.ts";
import { ByteBudget } from "./budget.ts";
import { Job, type JobEnd, type Offer, type Outbox } from "./job.ts";

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

/** Why an offer is not taken; undefined when it is. */
export function refusal(
  offer: Pick<Offer, "model">,
  capacity: Capacity,
  running: number,
): { readonly code: NackCode; readonly reason: string } | undefined {
  if (capacity.config === null || capacity.enginePort === undefined)
    return { code: "E_CONFIG", reason: capacity.reason ?? "the node has no verified config" };
  if (!capacity.accepting) return { code: "E_BUSY", reason: capacity.reason ?? "the node takes no jobs" };
  if (!capacity.activeModels.includes(offer.model))
    return { code: "E_MODEL", reason: "the model is not active on this node" };
  if (running >= capacity.slots) return { code: "E_BUSY", reason: `all ${capacity.slots} slots are in use` };
  return undefined;
}

/** Totals since start, by how jobs ended. */
export type JobTotals = Record<JobEnd, number>;

/** Most bytes of output that all jobs together hold until they are acknowledged. */
const maxHeldBytes = 64 * 1024 * 1024;

/** A job began or ended; one ended by a fault; nothing of one is kept any more. */
export type JobsChange = "load" | "fault" | "forgotten";

/** All jobs that the node holds: those that run, and those whose result has not been acknowledged. */
export class Jobs {
  readonly #ports: Ports;
  readonly #identity: NodeIdentity;
  readonly #outbox: Outbox;
  readonly #capacity: () => Capacity;
  readonly #changed: (what: JobsChange) => void;
  readonly #receipts: ReceiptKeeper | undefined;
  readonly #held = new Map<JobId, Job>();
  readonly #budget = new ByteBudget(maxHeldBytes);
  readonly totals: JobTotals = { completed: 0, failed: 0, nacked: 0, dropped: 0 };

  constructor(
    ports: Ports,
    identity: NodeIdentity,
    outbox: Outbox,
    capacity: () => Capacity,
    changed: (what: JobsChange) => void,
    receipts?: ReceiptKeeper,
  ) {
    this.#ports = ports;
    this.#identity = identity;
    this.#outbox = outbox;
    this.#capacity = capacity;
    this.#changed = changed;
    this.#receipts = receipts;
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
            this.#ports.log.warn({ job, attempt, status }, "result not taken; deleted");
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

  #find(ref: { readonly job: JobId; readonly attempt: number }): Job | undefined {
    const job = this.#held.get(ref.job);
    return job?.offer.attempt === ref.attempt ? job : undefined;
  }

  #offered(offer: Offer): void {
    const older = this.#held.get(offer.job);
    if (older && older.offer.attempt >= offer.attempt) return;
    // A newer attempt revokes the one that is held.
    older?.drop("offered again as a newer attempt");
    const capacity = this.#capacity();
    const refused = refusal(offer, capacity, this.running);
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
      { clock: this.#ports.clock, http: this.#ports.http, outbox: this.#outbox, budget: this.#budget },
      {
        ended: (how, why) => this.#ended(offer, how, why),
        forgotten: () => {
          if (this.#held.get(offer.job) === job) this.#held.delete(offer.job);
          this.#changed("forgotten");
        },
      },
    );
    this.#held.set(offer.job, job);
    this.#changed("load");
  }

  #ended(offer: Offer, how: JobEnd, why: string | undefined): void {
    this.totals[how]++;
    const { job, attempt } = offer;
    if (why !== undefined) this.#ports.log.info({ job, attempt, how, why }, "job ended here");
    this.#changed(how === "nacked" || how === "failed" ? "fault" : "load");
  }
}
