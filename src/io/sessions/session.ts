import type { Clock } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import {
  CloseCode,
  closeReason,
  cutReason,
  identityConflictReason,
  ProtocolError,
} from "../../protocol/codes.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import type { VerifiedOf } from "../../protocol/frame.ts";
import type { AgentKind, Body, Payload, ServiceKind } from "../../protocol/messages.ts";
import { serviceChannel, type ServiceChannel } from "../../protocol/session/channel.ts";
import { helloTimeoutMs, sealReady, verifyHello } from "../../protocol/session/handshake.ts";
import { sealFrame } from "../../protocol/frame.ts";
import { splitJws } from "../../protocol/jws.ts";
import { typOf } from "../../protocol/messages.ts";
import type { From } from "../dispatch/types.ts";
import type { NodeLine } from "../jobs/desk-parts.ts";
import type { KnownNode } from "../nodes.ts";
import { Bucket } from "../rate.ts";
import type { SessionHost } from "./host.ts";
import type { Wire } from "./wire.ts";

/** A peer with this many bytes unread is terminated. */
const maxBufferedBytes = 4 * 1024 * 1024;
/** Time in which the last `resume` frame must follow `ready`, ms. */
const resumeTimeoutMs = 10_000;
/** Frames that may wait while the store is asked about a `resume`. */
const maxBacklog = 256;
/** Most jobs that a node may say it still holds, all `resume` frames of a session together. */
const maxResumed = 16_384;

type SessionState =
  | { readonly at: "challenged"; readonly challenge: string; readonly frame: string }
  | { readonly at: "opening" }
  | { readonly at: "open"; readonly channel: ServiceChannel; readonly node: KnownNode }
  | { readonly at: "closed" };

/** One connection of a node: challenge, hello, ready, then frames in both directions until it closes. */
export class Session implements NodeLine {
  /** Monotonic ms at which it is closed unless something is heard before. */
  deadline: number;
  /** Set with `ready`. */
  epoch = 0;
  readonly #wire: Wire;
  readonly #host: SessionHost;
  readonly #clock: Clock;
  readonly #ip: string;
  #state: SessionState;
  #resumed = false;
  /** Jobs that its `resume` frames have named. */
  #resuming = 0;
  #goodbye: string | undefined;
  readonly #frames: Bucket;
  readonly #bytes: Bucket;
  #backlog: VerifiedOf<AgentKind>[] | undefined;
  #acks: Payload<"ack">["results"] = [];
  /** Results that have not been acknowledged: their sequence numbers. */
  readonly #unacked = new Map<string, number>();

  /** @param delegation of the service's key, as it holds now. */
  constructor(wire: Wire, ip: string, host: SessionHost, delegation: Statement) {
    this.#wire = wire;
    this.#host = host;
    this.#clock = host.clock;
    this.#ip = ip;
    this.deadline = this.#clock.monotonic() + helloTimeoutMs;
    this.#frames = new Bucket(host.frameRate.frames, this.#clock.monotonic());
    this.#bytes = new Bucket(host.frameRate.bytes, this.#clock.monotonic());
    const challenge = host.random.bytes(32);
    const { config, serviceKey } = host;
    const said = { challenge, time: this.#clock.now(), network: config.network, delegation };
    const frame = sealFrame("challenge", said, serviceKey.key);
    this.#state = { at: "challenged", challenge, frame };
    wire.hear({ message: (text) => this.#message(text), closed: (code) => this.#closed(code) });
    this.#transmit(frame);
  }

  /** Before `ready`. */
  get opening(): boolean {
    return this.#state.at === "challenged" || this.#state.at === "opening";
  }

  get from(): From | undefined {
    return this.#state.at === "open" ? { node: this.#state.node.nodeId, epoch: this.epoch } : undefined;
  }

  offer(body: Body<"offer">): void {
    this.#send("offer", body);
  }

  cancel(body: Body<"cancel">): void {
    this.#send("cancel", body);
  }

  verdict(body: Body<"verdict">): void {
    this.#send("verdict", body);
    if (!body.last) return;
    this.#resumed = true;
    this.deadline = this.#clock.monotonic() + 3 * this.#host.heartbeatMs;
  }

  /** Acknowledgements of one moment (one commit of the store) go out as one frame. */
  ack(result: Payload<"ack">["results"][number]): void {
    this.#acks.push(result);
    if (this.#acks.length === 1) queueMicrotask(() => this.#sendAcks());
  }

  #sendAcks(): void {
    if (this.#state.at !== "open") return;
    const { channel } = this.#state;
    const results = this.#acks;
    this.#acks = [];
    for (const { job, attempt } of results) this.#unacked.delete(`${job} ${attempt}`);
    let upto = channel.received;
    for (const seq of this.#unacked.values()) upto = Math.min(upto, seq - 1);
    for (let at = 0; at < results.length; at += 16)
      this.#send("ack", { upto, results: results.slice(at, at + 16) });
  }

  #send<K extends ServiceKind>(kind: K, body: Body<K>): void {
    if (this.#state.at === "open") this.#transmit(this.#state.channel.seal(kind, body));
  }

  #transmit(text: string): void {
    this.#wire.send(text);
    if (this.#wire.buffered <= maxBufferedBytes) return;
    this.#host.log.warn({ ip: this.#ip, ...this.#who }, "peer does not read; session terminated");
    this.#wire.terminate();
  }

  get #who(): { node?: string } {
    return this.#state.at === "open" ? { node: this.#state.node.nodeId } : {};
  }

  /** Ends the session with a close code. Nothing that still comes is heard. */
  close(code: CloseCode, reason: string): void {
    if (this.#state.at === "closed") return;
    const from = this.from;
    this.#state = { at: "closed" };
    this.#wire.close(code, cutReason(reason));
    this.#clock.setTimer(() => this.#wire.terminate(), 2_000);
    this.#host.ended(this, from, { code, orderly: this.#goodbye !== undefined });
  }

  #closed(code: number): void {
    if (this.#state.at === "closed") return;
    const from = this.from;
    this.#state = { at: "closed" };
    this.#host.ended(this, from, { code, orderly: this.#goodbye !== undefined });
  }

  /** Called now and then: nothing was heard for too long. */
  timedOut(): void {
    const what = this.opening ? "no hello within 5 s" : "nothing heard for three heartbeats";
    this.close(
      CloseCode.Heartbeat,
      this.#resumed || this.opening ? what : "no last resume frame within 10 s",
    );
  }

  #message(text: string | undefined): void {
    try {
      if (text === undefined) throw new ProtocolError("malformed", "binary message");
      switch (this.#state.at) {
        case "challenged":
          void this.#hello(text, this.#state);
          return;
        case "opening":
          throw new ProtocolError("sequence", "a frame before ready");
        case "open":
          if (this.#tooFast(text.length)) return;
          this.#frame(this.#state.channel.open(text));
          return;
        case "closed":
          return;
        default:
          this.#state satisfies never;
      }
    } catch (error) {
      this.#refuse(error);
    }
  }

  /** Closes the session of a node that says more than any honest one; true if it did. Before the signature is checked. */
  #tooFast(bytes: number): boolean {
    const now = this.#clock.monotonic();
    const what = !this.#frames.take(1, now) ? "frames" : !this.#bytes.take(bytes, now) ? "bytes" : undefined;
    if (what === undefined) return false;
    this.#host.log.warn({ ip: this.#ip, ...this.#who, what }, "a node sends too much; session closed");
    this.close(CloseCode.Rate, `too many ${what} a second`);
    return true;
  }

  #refuse(error: unknown): void {
    if (error instanceof ProtocolError) {
      this.#host.log.info(
        { ip: this.#ip, ...this.#who, code: error.code, why: error.message },
        "session refused",
      );
      this.close(error.closeCode, closeReason(error));
      return;
    }
    this.#host.log.error({ ip: this.#ip, ...this.#who, why: messageOf(error) }, "session failed");
    this.close(CloseCode.TryLater, "internal error");
  }

  async #hello(text: string, said: Extract<SessionState, { at: "challenged" }>): Promise<void> {
    try {
      const { config, nodes, serviceKey, audiences } = this.#host;
      // Known key and rate before the signature: both are cheap, it is not.
      const claimed = text.length > 8192 ? undefined : nodes.byKey(splitJws(text, typOf("hello")).header.kid);
      if (claimed && !this.#host.rates.node.take(`${this.#ip} ${claimed.nodeId}`)) {
        this.close(CloseCode.Rate, "too many sessions of this node; back off");
        return;
      }
      const hello = verifyHello(text, {
        challenge: said.challenge,
        audiences,
        network: config.network,
        now: this.#clock.now(),
        nodeByKey: (kid) => nodes.byKey(kid),
      });
      const node = nodes.get(hello.payload.node_id);
      if (!node) throw new ProtocolError("unknown_key", "no node is registered with this key");
      const { key } = node;
      if (this.#banned(node)) return;
      if (this.#host.conflicts(node, hello.payload.instance)) {
        this.close(CloseCode.Superseded, identityConflictReason);
        return;
      }
      this.#state = { at: "opening" };
      const { payload } = hello;
      const epoch = ++node.epoch;
      node.releaseSequence = Math.max(node.releaseSequence, payload.release_sequence);
      await this.#host.keepEpoch(node, epoch);
      // While the disk was written the peer may have gone, the node been banned, or another session of it begun.
      if (this.#at !== "opening" || this.#banned(node)) return;
      if (node.epoch !== epoch) {
        this.close(CloseCode.Superseded, "a newer session of this node has begun");
        return;
      }
      if (nodes.byKey(key.kid) !== node)
        throw new ProtocolError("unknown_key", "the node's key has changed meanwhile");
      const sid = this.#host.random.bytes(16);
      const { heartbeatMs, leaseMs } = this.#host;
      const ready = sealReady(
        { challenge: said.frame, hello: text },
        {
          sid,
          epoch,
          time: this.#clock.now(),
          http_seq: node.httpSeq,
          latest: config.latest(payload.nonce),
          heartbeat_ms: heartbeatMs,
          lease_ms: leaseMs,
        },
        serviceKey.key,
      );
      this.epoch = epoch;
      this.#state = { at: "open", channel: serviceChannel(sid, serviceKey.key, key), node };
      this.deadline = this.#clock.monotonic() + resumeTimeoutMs;
      this.#transmit(ready);
      this.#host.opened(this, node, payload);
    } catch (error) {
      this.#refuse(error);
    }
  }

  /** Closes the session of a node that may have none; true if it did. */
  #banned({ banned }: KnownNode): boolean {
    if (banned !== null) this.close(CloseCode.Banned, `banned: ${banned}`);
    return banned !== null;
  }

  /** The state as it is now, after an await. */
  get #at(): SessionState["at"] {
    return this.#state.at;
  }

  #frame(frame: VerifiedOf<AgentKind>): void {
    if (this.#resumed) this.deadline = this.#clock.monotonic() + 3 * this.#host.heartbeatMs;
    if (frame.kind === "result") {
      const { job, attempt, seq } = frame.payload;
      this.#unacked.set(`${job} ${attempt}`, seq);
    }
    if (this.#backlog) {
      if (this.#backlog.length >= maxBacklog)
        throw new ProtocolError("sequence", "too many frames before a verdict");
      this.#backlog.push(frame);
      return;
    }
    this.#take(frame);
  }

  #take(frame: VerifiedOf<AgentKind>): void {
    const { from } = this;
    if (!from || this.#state.at !== "open") return;
    if (frame.kind === "goodbye") {
      this.#goodbye = frame.payload.reason;
      this.close(CloseCode.Normal, "goodbye");
      return;
    }
    if (frame.kind === "resume") {
      if (this.#resumed) throw new ProtocolError("schema", "a resume after the last one");
      this.#resuming += frame.payload.jobs.length;
      if (this.#resuming > maxResumed)
        throw new ProtocolError("schema", `resume frames name more than ${maxResumed} jobs`);
      // Frames that follow wait until the store has told what became of forgotten jobs.
      this.#backlog = [];
      void this.#host.resume(from, frame.payload).then(
        () => this.#goOn(),
        (error: unknown) => this.#refuse(error),
      );
      return;
    }
    if (frame.kind === "heartbeat") {
      const { nonce } = frame.payload;
      const lost = this.#host.heartbeat(this.#state.node, from, frame.payload);
      this.#send("heartbeat-ack", {
        time: this.#clock.now(),
        latest: this.#host.config.latest(nonce),
        lost: [...lost],
      });
      return;
    }
    this.#host.jobFrame(from, frame);
  }

  #goOn(): void {
    const waiting = this.#backlog ?? [];
    this.#backlog = undefined;
    for (let frame = waiting.shift(); frame; frame = waiting.shift()) {
      try {
        this.#take(frame);
      } catch (error) {
        this.#refuse(error);
      }
      // Another resume: the rest waits again.
      if (this.#backlog) {
        this.#backlog = waiting;
        return;
      }
    }
  }
}
