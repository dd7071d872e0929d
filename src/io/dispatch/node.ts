import type { JobId } from "../../protocol/fields.ts";
import type { NodeId } from "../../protocol/keys.ts";
import type { Report } from "../../protocol/messages.ts";
import { Standing } from "./standing.ts";

/** What dispatch knows of a node that has had a session since the service started. */
export class DispatchNode {
  readonly id: NodeId;
  readonly account: string;
  readonly standing = new Standing();
  epoch = 0;
  instance = "";
  connected = false;
  /** Its last `resume` frame of this session has come. */
  resumed = false;
  /** Jobs named in the `resume` frames so far. */
  readonly resuming = new Set<JobId>();
  banned = false;
  report: Report | undefined;
  /** Monotonic ms of the report. */
  reportAt = 0;
  /** Set by E_BUSY: no offers before (monotonic ms). */
  busyUntil = 0;
  /** Jobs whose current attempt is leased to it. */
  readonly leases = new Set<JobId>();
  /** Models under which it is listed in the pools. */
  listed: readonly string[] = [];
  #latency = 0;
  #latencyAt = 0;

  constructor(id: NodeId, account: string) {
    this.id = id;
    this.account = account;
  }

  get slots(): number {
    return this.report?.load.slots ?? 0;
  }

  /** Whether it could be offered a job of a model that it serves, but for time (freshness, busy, config expiry). */
  get open(): boolean {
    const { report } = this;
    return (
      this.connected &&
      this.resumed &&
      !this.banned &&
      report !== undefined &&
      report.load.accepting &&
      report.engine.health === "healthy" &&
      this.leases.size < report.load.slots
    );
  }

  /** Notes how long a job took, ms. */
  observeLatency(ms: number, now: number): void {
    this.#latency = this.#latency === 0 ? ms : this.#latency * 0.8 + ms * 0.2;
    this.#latencyAt = now;
  }

  /**
   * Mean time of a job (EWMA), ms, drawn to `fleet` (the fleet's mean) as it ages: a node that was slow is tried again
   * after a while, else it could never show that it is fast again. 0 = unknown.
   */
  latency(fleet: number, now: number): number {
    if (this.#latency === 0) return fleet;
    const weight = 2 ** (-(now - this.#latencyAt) / 30_000);
    return this.#latency * weight + fleet * (1 - weight);
  }
}
