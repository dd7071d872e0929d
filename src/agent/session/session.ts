import type { Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import type { VerifyKey } from "../../protocol/keys.ts";
import type { AgentKind, Body, Latest, Payload } from "../../protocol/messages.ts";
import type { Ports, Socket } from "../ports.ts";
import type { NodeHttp } from "./http-node.ts";
import { type SessionConfig, SessionMachine } from "./machine.ts";
import type {
  GoodbyeReason,
  JobFrame,
  SessionAction,
  SessionEvent,
  SessionInputs,
  TimerName,
} from "./terms.ts";

/** A socket with this much unsent is terminated: its peer has stopped reading. */
export const maxBufferedBytes = 4 * 1024 * 1024;

/** What the session tells the rest of the agent. */
export interface SessionListener {
  opened(epoch: number): void;
  ended(why: string): void;
  latest(latest: Latest): void;
  frame(frame: JobFrame): void;
  lost(leases: Payload<"heartbeat-ack">["lost"]): void;
}

/** Carries out what the session's state machine decides: sockets, timers, HTTP. */
export class Session {
  readonly #ports: Ports;
  readonly #machine: SessionMachine;
  readonly #http: NodeHttp;
  readonly #inputs: SessionInputs;
  readonly #listener: SessionListener;
  readonly #timers = new Map<TimerName, Timer>();
  #socket: Socket | undefined;
  #epoch = 0;
  #since: number | null = null;
  #connected = false;
  #left: (() => void) | undefined;
  readonly #events: SessionEvent[] = [];
  #stepping = false;
  /** Frames sent and received since start. */
  readonly frames = { sent: 0, received: 0, dials: 0 };

  constructor(
    ports: Ports,
    config: SessionConfig,
    http: NodeHttp,
    inputs: SessionInputs,
    listener: SessionListener,
  ) {
    this.#ports = ports;
    this.#machine = new SessionMachine(config, inputs);
    this.#http = http;
    this.#inputs = inputs;
    this.#listener = listener;
  }

  /** Begins to want a session. */
  start(): void {
    this.#step({ type: "start" });
  }

  /** Something that heartbeats tell has changed. */
  changed(): void {
    this.#step({ type: "changed" });
  }

  /** The node signs with another key from now on: so does its next session, which begins at once. */
  rekeyed(): void {
    this.#step({ type: "rekeyed" });
  }

  /** Says goodbye and ends; resolves when the socket is closed, 2 s at most. */
  leave(reason: GoodbyeReason): Promise<void> {
    return new Promise((resolve) => {
      this.#left = resolve;
      if (this.#machine.state.at === "closed") resolve();
      else this.#step({ type: "leave", reason });
    });
  }

  get open(): boolean {
    return this.#machine.state.at === "open";
  }

  /** Delegation under which the service spoke last. */
  get delegation(): Statement | undefined {
    return this.#machine.delegation;
  }

  /** Where the open session leads, and who signs there. */
  get peer(): { readonly endpoint: string; readonly key: VerifyKey } | undefined {
    return this.#machine.peer;
  }

  /** True when the peer keeps up: a message of a job may be sent now. */
  get writable(): boolean {
    return this.open && this.buffered < maxBufferedBytes / 4;
  }

  get buffered(): number {
    return this.#socket?.buffered ?? 0;
  }

  /** What the signed status tells of the session. */
  get status(): { connected: boolean; since: number | null; epoch: number; last_error: string | null } {
    return {
      connected: this.open,
      since: this.#since,
      epoch: this.#epoch,
      last_error: this.#machine.lastError,
    };
  }

  /** Sends a message of a job; false when there is no open session. */
  send<K extends AgentKind>(kind: K, body: Body<K>): boolean {
    const text = this.#machine.seal(kind, body);
    if (text === undefined) return false;
    this.#transmit(text);
    return true;
  }

  /**
   * Events are taken one after another, also those that arise while one is carried out. What an event sends goes out
   * before anyone is told of it: a listener may send too, and frames must leave in the order in which they were sealed.
   */
  #step(event: SessionEvent): void {
    this.#events.push(event);
    if (this.#stepping) return;
    this.#stepping = true;
    try {
      for (let next = this.#events.shift(); next; next = this.#events.shift()) {
        const actions = this.#machine.step(next);
        const told = actions.filter((action) => !this.#carryOut(action));
        for (const action of told) this.#tell(action);
      }
    } finally {
      this.#stepping = false;
    }
  }

  /** Does what touches the outside; false for what the listener is to be told. */
  #carryOut(action: SessionAction): boolean {
    switch (action.type) {
      case "dial":
        this.#dial(action.url);
        return true;
      case "transmit":
        this.#transmit(action.text);
        return true;
      case "close":
        this.#close(action.code, action.reason);
        return true;
      case "set-timer":
        this.#setTimer(action.name, action.ms);
        return true;
      case "clear-timer":
        this.#clearTimer(action.name);
        return true;
      case "register":
        void this.#register(action);
        return true;
      case "http-heartbeat":
        void this.#httpHeartbeat(action);
        return true;
      default:
        return false;
    }
  }

  #tell(action: SessionAction): void {
    switch (action.type) {
      case "opened":
        this.#epoch = action.epoch;
        this.#connected = true;
        this.#since = this.#ports.clock.now();
        this.#http.learnSeq(action.httpSeq);
        this.#ports.log.info({ epoch: action.epoch }, "session open");
        this.#listener.opened(action.epoch);
        break;
      case "ended":
        if (this.#connected || this.#since === null) this.#since = this.#ports.clock.now();
        this.#connected = false;
        this.#ports.log.warn({ why: action.why }, "no session; dialling again after the back-off");
        this.#listener.ended(action.why);
        break;
      case "latest":
        this.#listener.latest(action.latest);
        break;
      case "deliver":
        this.#listener.frame(action.frame);
        break;
      case "lost":
        this.#listener.lost(action.leases);
        break;
      case "left":
        this.#socket = undefined;
        this.#left?.();
        break;
      default:
    }
  }

  #dial(url: string): void {
    this.frames.dials++;
    const socket: Socket = this.#ports.transport.dial(url, {
      opened: () => {},
      message: (text) => {
        if (this.#socket !== socket) return;
        this.frames.received++;
        this.#step({ type: "frame", text });
      },
      closed: (code, reason) => {
        if (this.#socket !== socket) return;
        this.#socket = undefined;
        this.#step({ type: "closed", code, reason });
      },
    });
    this.#socket = socket;
  }

  #transmit(text: string): void {
    const socket = this.#socket;
    if (!socket) return;
    this.frames.sent++;
    socket.send(text);
    if (socket.buffered > maxBufferedBytes) {
      this.#ports.log.warn({ buffered: socket.buffered }, "the service does not read; session terminated");
      this.#socket = undefined;
      socket.terminate();
      this.#step({ type: "closed", code: 1006, reason: `${maxBufferedBytes} bytes unsent` });
    }
  }

  #close(code: number, reason: string): void {
    const socket = this.#socket;
    // While leaving, the peer's answer to the close is the end; in every other case the session is over now.
    if (this.#machine.state.at !== "leaving") this.#socket = undefined;
    socket?.close(code, reason);
  }

  #setTimer(name: TimerName, ms: number): void {
    this.#clearTimer(name);
    const timer = this.#ports.clock.setTimer(() => {
      this.#timers.delete(name);
      this.#step({ type: "timer", name });
    }, ms);
    this.#timers.set(name, timer);
  }

  #clearTimer(name: TimerName): void {
    this.#timers.get(name)?.cancel();
    this.#timers.delete(name);
  }

  async #register({ endpoint, serviceKey }: Extract<SessionAction, { type: "register" }>): Promise<void> {
    try {
      await this.#http.register(endpoint, serviceKey);
      this.#ports.log.info({ endpoint }, "registered");
      this.#step({ type: "registered" });
    } catch (thrown) {
      this.#step({ type: "registration-failed", reason: messageOf(thrown).slice(0, 300) });
    }
  }

  async #httpHeartbeat({
    endpoint,
    serviceKey,
  }: Extract<SessionAction, { type: "http-heartbeat" }>): Promise<void> {
    try {
      const latest = await this.#http.heartbeat(endpoint, serviceKey, this.#inputs.report());
      if (latest) this.#listener.latest(latest);
    } catch (thrown) {
      this.#ports.log.debug({ why: messageOf(thrown) }, "heartbeat by HTTP failed");
    }
  }
}
