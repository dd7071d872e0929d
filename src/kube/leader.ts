import { fullJitter, type Random } from "../lib/backoff.ts";
import { type Clock, type Timer, sleep, systemClock } from "../lib/clock.ts";
import { messageOf } from "../lib/errors.ts";
import { type Logger, silentLogger } from "../lib/logger.ts";
import { type Gauge, Metrics } from "../lib/metrics.ts";
import type { Client } from "./client.ts";
import { KubeError, isKubeError } from "./errors.ts";
import { type Lease, leases } from "./resources.ts";

/** What the elector needs of a client. It must not be guarded by the elector itself. */
export type LeaseClient = Pick<Client, "find" | "create" | "update">;

/** Parts of a {@link LeaderElector}. Durations in milliseconds. */
export interface LeaderElectorOptions {
  readonly client: LeaseClient;
  readonly namespace: string;
  /** Of the Lease: one for all replicas. */
  readonly name: string;
  /** Of this replica, unlike any other's: the pod's name and UID. */
  readonly identity: string;
  /** How long others wait after the last renewal that they saw. Default 15 s. */
  readonly leaseDuration?: number;
  /** How long after its last renewal the leader may write. Default 10 s. Less than `leaseDuration`. */
  readonly renewDeadline?: number;
  /** Between renewals, and between looks of those who wait. Default 2 s. */
  readonly retryPeriod?: number;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly logger?: Logger;
  readonly metrics?: Metrics;
}

/**
 * Election of one leader by a Lease (`coordination.k8s.io/v1`), interoperable with client-go's. Every judgement of time is
 * made on this machine's monotonic clock: whoever waits counts from when it saw the Lease change, and the leader counts
 * from before it sent its last successful renewal. So the leader has stopped writing `leaseDuration − renewDeadline`
 * before anyone else may begin, whatever the wall clocks say.
 */
export class LeaderElector {
  readonly #options: LeaderElectorOptions;
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #logger: Logger;
  readonly #leaseDuration: number;
  readonly #renewDeadline: number;
  readonly #retryPeriod: number;
  readonly #leading: Gauge;
  /** The Lease as last seen, and when (monotonic) it was first seen in that version. */
  #seen: { readonly lease: Lease; readonly at: number } | undefined;
  /** Monotonic time until which this replica may write. */
  #until = Number.NEGATIVE_INFINITY;

  constructor(options: LeaderElectorOptions) {
    this.#options = options;
    this.#clock = options.clock ?? systemClock;
    this.#random = options.random ?? Math.random;
    this.#logger = (options.logger ?? silentLogger).child({
      lease: options.name,
      identity: options.identity,
    });
    this.#leaseDuration = options.leaseDuration ?? 15_000;
    this.#renewDeadline = options.renewDeadline ?? 10_000;
    this.#retryPeriod = options.retryPeriod ?? 2_000;
    if (this.#retryPeriod >= this.#renewDeadline || this.#renewDeadline >= this.#leaseDuration) {
      throw new Error("leader election: retryPeriod < renewDeadline < leaseDuration must hold");
    }
    this.#leading = (options.metrics ?? new Metrics()).gauge(
      "leader_election_master_status",
      "1 while this replica leads.",
      ["name"],
    );
    this.#leading.set(0, { name: options.name });
  }

  /** Whether this replica may write at this instant. */
  get isLeader(): boolean {
    return this.#clock.monotonic() < this.#until;
  }

  /** Name of the leader as last seen; empty when nobody leads. */
  get leader(): string {
    return this.#seen?.lease.spec?.holderIdentity ?? "";
  }

  /**
   * Throws a KubeError `NotLeader` unless this replica may write at this instant. Asked before each write
   * ({@link Client.guarded}), it also holds back a process that was stopped for a while and does not know it yet.
   */
  assertLeading(): void {
    if (this.isLeader) return;
    const { identity, name } = this.#options;
    throw new KubeError("NotLeader", `${identity} does not hold lease ${name}: the write is withheld`);
  }

  /**
   * Waits for the lead, calls `work` with a signal that aborts when it is lost or `stop` aborts, and waits for it to end.
   * A lost lead is waited for again. Once `stop` aborts or `work` ends by itself the Lease is released, so that another takes
   * over at its next look, and the promise settles as `work` did.
   */
  async run(work: (leading: AbortSignal) => Promise<void>, stop: AbortSignal): Promise<void> {
    while (await this.#acquire(stop)) {
      this.#logger.info("leading");
      this.#leading.set(1, { name: this.#options.name });
      const leading = new AbortController();
      const renewing = this.#renew(leading, stop);
      let lost = true;
      try {
        await work(leading.signal);
      } finally {
        lost = leading.signal.aborted && !stop.aborted;
        leading.abort();
        await renewing;
        this.#leading.set(0, { name: this.#options.name });
        this.#until = Number.NEGATIVE_INFINITY;
        if (!lost) await this.#release();
      }
      if (!lost) return;
      this.#logger.warn("the lead was lost; waiting to lead again");
    }
  }

  async #acquire(stop: AbortSignal): Promise<boolean> {
    let told: string | undefined;
    while (!stop.aborted) {
      try {
        if (await this.#tryAcquire(stop)) return true;
      } catch (error) {
        if (stop.aborted) break;
        // Someone else was faster: that is what an election is.
        if (!isKubeError(error, "Conflict", "AlreadyExists")) {
          this.#logger.warn({ error: messageOf(error) }, "cannot read or take the lease; trying again");
        }
      }
      if (this.leader !== told) {
        told = this.leader;
        this.#logger.info({ leader: told }, "waiting to lead");
      }
      await sleep(this.#clock, this.#retryPeriod + fullJitter(0, this.#jitter, this.#random), stop);
    }
    return false;
  }

  async #tryAcquire(stop: AbortSignal): Promise<boolean> {
    const { client, namespace, name, identity } = this.#options;
    const call = { signal: stop, timeout: this.#renewDeadline / 2, urgent: true };
    const found = await client.find(leases, { namespace, name }, call);
    const started = this.#clock.monotonic();
    if (!found) {
      const spec = this.#spec(undefined);
      this.#hold(await client.create(leases, { metadata: { namespace, name }, spec }, call), started);
      return true;
    }
    if (this.#seen?.lease.metadata.resourceVersion !== found.metadata.resourceVersion) {
      this.#seen = { lease: found, at: started };
    }
    const holder = found.spec?.holderIdentity ?? "";
    const duration = Math.max(this.#leaseDuration, (found.spec?.leaseDurationSeconds ?? 0) * 1000);
    const free = holder === "" || holder === identity || started >= this.#seen.at + duration;
    if (!free) return false;
    this.#hold(await client.update(leases, { ...found, spec: this.#spec(found) }, call), started);
    return true;
  }

  /** Renews until the lead is lost or given up; then aborts `leading`. */
  async #renew(leading: AbortController, stop: AbortSignal): Promise<void> {
    const lost = () => leading.abort(new KubeError("NotLeader", "the lead was lost or given up"));
    stop.addEventListener("abort", lost, { once: true });
    if (stop.aborted) lost();
    let deadline: Timer | undefined;
    let wait = this.#retryPeriod;
    try {
      while (!leading.signal.aborted) {
        deadline?.cancel();
        const left = Math.max(0, this.#until - this.#clock.monotonic());
        deadline = this.#clock.setTimer(() => {
          this.#logger.error(`the lease was not renewed for ${this.#renewDeadline / 1000} s: writing stops`);
          lost();
        }, left);
        await sleep(this.#clock, wait, leading.signal);
        if (leading.signal.aborted) break;
        const until = this.#until;
        if (!(await this.#renewOnce(leading.signal))) lost();
        // An attempt that failed has taken up to half of the time that there is: the next one gets the rest of it.
        wait = this.#until > until ? this.#retryPeriod : this.#retryPeriod / 4;
      }
    } finally {
      deadline?.cancel();
      stop.removeEventListener("abort", lost);
    }
  }

  /** False when another holds the Lease. Failures that say nothing about that count as true: the deadline decides. */
  async #renewOnce(signal: AbortSignal): Promise<boolean> {
    const { client, namespace, name, identity } = this.#options;
    const call = { signal, timeout: this.#renewDeadline / 2, urgent: true };
    const held = this.#seen?.lease;
    if (!held) return false;
    try {
      const started = this.#clock.monotonic();
      this.#hold(await client.update(leases, { ...held, spec: this.#spec(held) }, call), started);
      return true;
    } catch (error) {
      if (signal.aborted) return true;
      this.#logger.warn({ error: messageOf(error) }, "cannot renew the lease");
      if (!isKubeError(error, "Conflict", "NotFound")) return true;
    }
    try {
      const found = await client.find(leases, { namespace, name }, call);
      if (found?.spec?.holderIdentity !== identity) return false;
      // Our own renewal whose answer was lost, or someone edited the Lease: go on from there.
      this.#seen = { lease: found, at: this.#clock.monotonic() };
      return true;
    } catch {
      return true;
    }
  }

  /** Gives the Lease up, so that nobody has to wait for it to run out. Best effort: it runs out anyway. */
  async #release(): Promise<void> {
    const held = this.#seen?.lease;
    const { client, identity } = this.#options;
    if (!held || held.spec?.holderIdentity !== identity) return;
    try {
      const spec = { ...this.#spec(held), holderIdentity: "", leaseDurationSeconds: 1 };
      const lease = await client.update(
        leases,
        { ...held, spec },
        { timeout: this.#retryPeriod, urgent: true },
      );
      this.#seen = { lease, at: this.#clock.monotonic() };
      this.#logger.info("released the lease");
    } catch (error) {
      this.#logger.warn({ error: messageOf(error) }, "could not release the lease; it runs out by itself");
    }
  }

  #hold(lease: Lease, sent: number): void {
    this.#seen = { lease, at: sent };
    this.#until = sent + this.#renewDeadline;
  }

  /** The Lease's spec with this replica as its holder. `before`: what it replaces. */
  #spec(before: Lease | undefined): NonNullable<Lease["spec"]> {
    const { identity } = this.#options;
    const now = microTime(this.#clock.now());
    const mine = before?.spec?.holderIdentity === identity;
    const transitions = before?.spec?.leaseTransitions ?? 0;
    return {
      holderIdentity: identity,
      leaseDurationSeconds: this.#leaseDuration / 1000,
      renewTime: now,
      acquireTime: mine ? (before?.spec?.acquireTime ?? now) : now,
      leaseTransitions: mine || !before ? transitions : transitions + 1,
    };
  }

  /** Those who wait look at times of their own. */
  get #jitter() {
    const spread = this.#retryPeriod / 5;
    return { base: spread, cap: spread };
  }
}

/** RFC 3339 with microseconds, as Kubernetes' MicroTime is on the wire. */
export function microTime(ms: number): string {
  return `${new Date(ms).toISOString().slice(0, -1)}000Z`;
}
