import type { Clock, Timer } from "../../lib/clock.ts";
import type { Logger } from "../../lib/logger.ts";
import { CloseCode, closeReason, ProtocolError } from "../../protocol/codes.ts";
import { conflictMs } from "../../protocol/feed.ts";
import type { JobId } from "../../protocol/fields.ts";
import type { NodeId } from "../../protocol/keys.ts";
import type { Payload } from "../../protocol/messages.ts";
import type { NetworkConfig } from "../config/network-config.ts";
import type { From } from "../dispatch/types.ts";
import type { JobDesk } from "../jobs/desk.ts";
import type { IoMetrics } from "../metrics.ts";
import { type KnownNode, nodeReported, type Nodes } from "../nodes.ts";
import type { FrameRate } from "../options.ts";
import type { RateLimit } from "../rate.ts";
import type { ServiceKey } from "../service-key.ts";
import type { Store } from "../store/port.ts";
import type { JobFrame, RandomBytes, SessionHost } from "./host.ts";
import { Session } from "./session.ts";
import type { Wire } from "./wire.ts";

/** What sessions need of the service. */
export interface SessionsParts
  extends Pick<
    SessionHost,
    | "clock"
    | "log"
    | "random"
    | "config"
    | "nodes"
    | "serviceKey"
    | "audiences"
    | "frameRate"
    | "heartbeatMs"
    | "leaseMs"
  > {
  readonly store: Store;
  readonly metrics: IoMetrics;
  readonly rates: { readonly ip: RateLimit; readonly node: RateLimit };
  /** Most connections that have not got as far as `ready`. */
  readonly maxOpening: number;
}

/** How often timeouts are looked for, ms. */
const sweepMs = 250;

/** All connections of nodes: open sessions by node, timeouts. */
export class Sessions implements SessionHost {
  readonly clock: Clock;
  readonly log: Logger;
  readonly random: RandomBytes;
  readonly config: NetworkConfig;
  readonly nodes: Nodes;
  readonly serviceKey: ServiceKey;
  readonly audiences: readonly string[];
  readonly rates: { readonly node: RateLimit };
  readonly frameRate: FrameRate;
  readonly heartbeatMs: number;
  readonly leaseMs: number;
  readonly #parts: SessionsParts;
  readonly #desk: () => JobDesk;
  readonly #all = new Set<Session>();
  readonly #open = new Map<NodeId, Session>();
  readonly #conflicts = new Set<KnownNode>();
  #opening = 0;
  #closing = false;
  #sweep: Timer | undefined;

  constructor(parts: SessionsParts, desk: () => JobDesk) {
    this.#parts = parts;
    this.#desk = desk;
    this.clock = parts.clock;
    this.log = parts.log;
    this.random = parts.random;
    this.config = parts.config;
    this.nodes = parts.nodes;
    this.serviceKey = parts.serviceKey;
    this.audiences = parts.audiences;
    this.rates = parts.rates;
    this.frameRate = parts.frameRate;
    this.heartbeatMs = parts.heartbeatMs;
    this.leaseMs = parts.leaseMs;
    this.#armSweep();
  }

  /** Open sessions. */
  get open(): number {
    return this.#open.size;
  }

  of(node: NodeId): Session | undefined {
    return this.#open.get(node);
  }

  /** Why another connection of an address is not taken now: too many of it, or too many half-open; undefined = it is. */
  refusal(ip: string): "rate" | "opening" | undefined {
    if (!this.#parts.rates.ip.take(ip)) return "rate";
    return this.#opening >= this.#parts.maxOpening ? "opening" : undefined;
  }

  /** Takes a new connection. */
  begin(wire: Wire, ip: string): void {
    const delegation = this.serviceKey.delegationAt(this.clock.now());
    if (!this.#parts.store.healthy || !delegation || this.#closing) {
      const why = this.#parts.store.healthy ? "the service's key is not delegated" : "the store is away";
      wire.close(CloseCode.TryLater, this.#closing ? "the service ends" : why);
      this.clock.setTimer(() => wire.terminate(), 2_000);
      this.#parts.metrics.sessionsClosed.inc({ code: CloseCode.TryLater });
      return;
    }
    this.#opening++;
    this.#all.add(new Session(wire, ip, this, delegation));
  }

  conflicts(node: KnownNode, instance: string): boolean {
    if (!this.#open.has(node.nodeId) || !node.instances.superseded(instance)) return false;
    const { nodeId, account } = node;
    if (node.conflictAt === null)
      this.log.warn(
        { node: nodeId, account, instance },
        "two processes hold this node's identity: the one that was there before is turned away",
      );
    this.#parts.metrics.identityConflicts.inc();
    node.conflictAt = this.clock.now();
    this.#conflicts.add(node);
    this.nodes.changed(node);
    return true;
  }

  async keepEpoch(node: KnownNode, epoch: number): Promise<void> {
    const { nodeId, releaseSequence } = node;
    await this.#parts.store.write([{ put: "epoch", nodeId, epoch, releaseSequence }]);
  }

  opened(session: Session, node: KnownNode, hello: Payload<"hello">): void {
    this.#opening--;
    const older = this.#open.get(node.nodeId);
    this.#open.set(node.nodeId, session);
    older?.close(CloseCode.Superseded, "a newer session of this node has begun");
    node.connected = true;
    node.since = this.clock.now();
    node.heardAt = node.since;
    node.agentVersion = hello.agent_version;
    node.instances.took(hello.instance);
    this.#parts.metrics.sessionsOpened.inc();
    this.log.info(
      { node: node.nodeId, account: node.account, epoch: session.epoch, version: hello.agent_version },
      "session open",
    );
    const known = this.config.release?.release.sequence ?? 0;
    if (hello.release_sequence > known)
      this.log.error(
        { node: node.nodeId, itsRelease: hello.release_sequence, ours: known },
        "a node knows a newer release than this service: the store was rolled back; publish again",
      );
    const from = { node: node.nodeId, epoch: session.epoch };
    this.#desk().handle({ on: "open", from, account: node.account, instance: hello.instance });
  }

  ended(
    session: Session,
    from: From | undefined,
    { code, orderly }: { readonly code: number; readonly orderly: boolean },
  ): void {
    this.#all.delete(session);
    this.#parts.metrics.sessionsClosed.inc({ code });
    if (!from) {
      this.#opening--;
      return;
    }
    if (this.#open.get(from.node) !== session) return;
    this.#open.delete(from.node);
    const node = this.nodes.get(from.node);
    if (node) {
      node.connected = false;
      node.since = this.clock.now();
    }
    this.log.info({ node: from.node, epoch: from.epoch, code, orderly }, "session ended");
    this.#desk().handle({ on: "close", from, orderly });
  }

  async resume(from: From, payload: Payload<"resume">): Promise<void> {
    const desk = this.#desk();
    const committed = new Map<JobId, string>();
    for (const { job, attempt } of payload.jobs) {
      if (desk.live.has(job)) continue;
      const kept = await this.#parts.store.job(job);
      if (kept?.receipt?.node === from.node && kept.receipt.attempt === attempt)
        committed.set(job, kept.receipt.countersign);
    }
    desk.handle({ on: "resume", from, jobs: payload.jobs, last: payload.last, committed });
  }

  heartbeat(
    node: KnownNode,
    from: From,
    { report, leases }: Payload<"heartbeat">,
  ): readonly { readonly job: JobId; readonly attempt: number }[] {
    node.heardAt = this.clock.now();
    if (nodeReported(node, report)) this.nodes.changed(node);
    const desk = this.#desk();
    // A node that claims more slots than the config gives would look the least loaded, and get every job.
    const slots = Math.min(report.load.slots, this.config.maxJobs(report.config.applied));
    desk.handle({ on: "report", from, report: { ...report, load: { ...report.load, slots } } });
    return desk.renew(from, leases);
  }

  jobFrame(from: From, frame: JobFrame): void {
    this.#parts.metrics.frames.inc();
    const desk = this.#desk();
    const { payload } = frame;
    const { job, attempt, token } = payload;
    const lease = { job, attempt, token };
    switch (frame.kind) {
      case "chunk":
        return desk.chunk(from, frame.payload);
      case "result":
        return desk.result(from, frame.payload);
      case "accept":
        return desk.handle({ on: "accept", from, lease });
      case "nack":
        return desk.nack(from, frame.payload);
      default:
        frame satisfies never;
    }
  }

  /** Closes the session of a node that was just banned. */
  endBanned(node: NodeId, reason: string): void {
    this.#open.get(node)?.close(CloseCode.Banned, `banned: ${reason}`);
  }

  /** Closes the session of a node whose key is no longer good, with `why` for people. */
  endVoid(node: NodeId, why: string): void {
    this.#open.get(node)?.close(CloseCode.Auth, closeReason(new ProtocolError("unknown_key", why)));
  }

  #forgetConflicts(): void {
    for (const node of this.#conflicts) {
      const since = this.clock.now() - (node.conflictAt ?? 0);
      if (since >= 0 && since < conflictMs) continue;
      this.#conflicts.delete(node);
      node.conflictAt = null;
      this.nodes.changed(node);
    }
  }

  #armSweep(): void {
    this.#sweep = this.clock.setTimer(() => {
      this.#forgetConflicts();
      const now = this.clock.monotonic();
      for (const session of this.#all) if (session.deadline <= now) session.timedOut();
      this.#armSweep();
    }, sweepMs);
  }

  /** Ends all sessions with 1012 and takes no more. */
  close(): void {
    this.#closing = true;
    this.#sweep?.cancel();
    for (const session of this.#all) session.close(CloseCode.Restart, "the service restarts");
  }
}
