import { fullJitter } from "../../lib/backoff.ts";
import {
  CloseCode,
  closeReason,
  closeReasonCode,
  identityConflictReason,
  ProtocolError,
} from "../../protocol/codes.ts";
import type { Verified, VerifiedOf } from "../../protocol/frame.ts";
import { paths } from "../../protocol/http.ts";
import type { KeyId, VerifyKey } from "../../protocol/keys.ts";
import type { AgentKind, Body, ServiceKind } from "../../protocol/messages.ts";
import { agentChannel } from "../../protocol/session/channel.ts";
import {
  type AgentIdentity,
  sealHello,
  verifyChallenge,
  verifyReady,
} from "../../protocol/session/handshake.ts";
import type { TrustedRoot } from "../../protocol/config/root.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import type {
  GoodbyeReason,
  SessionAction,
  SessionEvent,
  SessionInputs,
  SessionState,
  TimerName,
} from "./terms.ts";

export interface SessionConfig {
  /** HTTP base URLs of the service, tried in turn. */
  readonly endpoints: readonly string[];
  readonly identity: AgentIdentity;
  readonly root: TrustedRoot;
}

/** Time from the dial to `ready`. */
export const handshakeTimeoutMs = 15_000;
/** Shortest time between two heartbeats that changes cause. */
export const changedGapMs = 100;
/** Wait before the next dial after a refusal that time alone will not mend soon. */
export const longWaitMs = 60_000;
/** Heartbeat interval assumed before a service has named one. */
const assumedHeartbeatMs = 10_000;
/** Shortest and longest interval that a service can make an agent keep. */
const minHeartbeatMs = 100;
const maxHeartbeatMs = 3_600_000;
const leaveTimeoutMs = 2_000;
/** Longest that a timer of the platform can be set for. */
const maxTimerMs = 2 ** 31 - 1;

/** URL of the session below an HTTP base URL. It is also the audience that the hello signs. */
export function sessionUrl(endpoint: string): string {
  return `${endpoint.replace(/^http/, "ws").replace(/\/+$/, "")}${paths.session}`;
}

/**
 * The agent's session as a state machine: events in, actions out, no I/O. It wants one thing, an open session, and
 * decides in one place what is missing.
 *
 * `waiting → dialing → challenged → open → leaving → closed`; `registering` between a refusal of an unknown key and
 * the next dial. What fails at any point leads back to `waiting`.
 */
export class SessionMachine {
  readonly #config: SessionConfig;
  readonly #inputs: SessionInputs;
  #state: SessionState = { at: "closed" };
  #attempt = 0;
  #endpoint = 0;
  #heartbeatMs = assumedHeartbeatMs;
  #lastHeartbeat = Number.NEGATIVE_INFINITY;
  #nonces: string[] = [];
  #changedPending = false;
  #registeredOnce = false;
  /** A registration was tried since the last wait: another refusal waits before the next one. */
  #registeredNow = false;
  /** Keys that were unknown to the service since the last wait. */
  readonly #refusedKeys = new Set<KeyId>();
  /** Key of the service that was last believed, for what is said by HTTP while the socket is down. */
  #serviceKey:
    | { readonly key: VerifyKey; readonly expires: number; readonly delegation: Statement }
    | undefined;
  #lastError: string | null = null;

  constructor(config: SessionConfig, inputs: SessionInputs) {
    this.#config = config;
    this.#inputs = inputs;
  }

  get state(): SessionState {
    return this.#state;
  }

  /** Delegation under which the service spoke last; undefined before the first believed challenge. */
  get delegation(): Statement | undefined {
    return this.#serviceKey?.delegation;
  }

  /** Where the open session leads, and who signs there; undefined without one. */
  get peer(): { readonly endpoint: string; readonly key: VerifyKey } | undefined {
    if (this.#state.at !== "open" || !this.#serviceKey) return undefined;
    return { endpoint: this.#url, key: this.#serviceKey.key };
  }

  /** Why the last session ended or could not begin. */
  get lastError(): string | null {
    return this.#lastError;
  }

  /** Signs a message of a job for the open session; undefined when there is none. It must be transmitted at once. */
  seal<K extends AgentKind>(kind: K, body: Body<K>): string | undefined {
    return this.#state.at === "open" ? this.#state.open.channel.seal(kind, body) : undefined;
  }

  step(event: SessionEvent): SessionAction[] {
    switch (event.type) {
      case "start":
        if (this.#state.at !== "closed") return [];
        return [...this.#dial(), { type: "set-timer", name: "http-heartbeat", ms: this.#heartbeatMs }];
      case "frame":
        return this.#frame(event.text);
      case "closed":
        return this.#closed(event.code, event.reason);
      case "timer":
        return this.#timer(event.name);
      case "registered":
        this.#registeredOnce = true;
        return this.#state.at === "registering" ? this.#dial() : [];
      case "registration-failed":
        if (this.#state.at !== "registering") return [];
        return this.#wait(`registration failed: ${event.reason}`);
      case "rekeyed":
        return this.#rekeyed();
      case "changed":
        return this.#changed();
      case "leave":
        return this.#leave(event.reason);
    }
  }

  get #url(): string {
    const { endpoints } = this.#config;
    return endpoints[this.#endpoint % endpoints.length] ?? "";
  }

  #dial(): SessionAction[] {
    this.#state = { at: "dialing" };
    return [
      { type: "clear-timer", name: "redial" },
      { type: "set-timer", name: "handshake", ms: handshakeTimeoutMs },
      { type: "dial", url: sessionUrl(this.#url) },
    ];
  }

  #frame(text: string | undefined): SessionAction[] {
    try {
      if (text === undefined) throw new ProtocolError("malformed", "binary message");
      switch (this.#state.at) {
        case "dialing":
          return this.#challenged(text);
        case "challenged":
          return this.#ready(text, this.#state);
        case "open":
          return this.#message(this.#state.open.channel.open(text));
        case "leaving":
        case "waiting":
        case "registering":
        case "closed":
          return [];
      }
    } catch (thrown) {
      if (!(thrown instanceof ProtocolError)) throw thrown;
      return this.#refuse(thrown);
    }
  }

  #challenged(frame: string): SessionAction[] {
    const { identity, root } = this.#config;
    const now = this.#inputs.now();
    const challenge = verifyChallenge(frame, root, identity.network, now);
    const { delegation } = challenge.payload;
    this.#serviceKey = { key: challenge.serviceKey, expires: challenge.delegationExpires, delegation };
    const nonce = this.#inputs.nonce();
    const hello = sealHello(challenge, identity, {
      audience: sessionUrl(this.#url),
      nonce,
      now,
      releaseSequence: this.#inputs.releaseSequence(),
    });
    this.#state = { at: "challenged", challenge, hello, nonce, key: identity.key };
    return [{ type: "transmit", text: hello }];
  }

  #ready(frame: string, said: Extract<SessionState, { at: "challenged" }>): SessionAction[] {
    const { payload } = verifyReady(frame, said);
    const { heartbeat_ms: heartbeatMs } = payload;
    this.#heartbeatMs = Math.min(Math.max(minHeartbeatMs, heartbeatMs), maxHeartbeatMs);
    this.#registeredOnce = true;
    this.#lastError = null;
    this.#refusedKeys.clear();
    this.#nonces = [];
    this.#state = {
      at: "open",
      open: {
        channel: agentChannel(payload.sid, said.key, said.challenge.serviceKey),
        epoch: payload.epoch,
        heartbeatMs: this.#heartbeatMs,
        leaseMs: payload.lease_ms,
        delegationExpires: said.challenge.delegationExpires,
      },
    };
    return [
      { type: "clear-timer", name: "handshake" },
      { type: "clear-timer", name: "http-heartbeat" },
      { type: "opened", epoch: payload.epoch, httpSeq: payload.http_seq },
      ...this.#resume(),
      { type: "latest", latest: payload.latest },
      ...this.#heartbeat(),
      this.#silenceTimer(),
      this.#delegationTimer(said.challenge.delegationExpires),
    ];
  }

  /** Every job that the node still holds, at least one frame, the last one marked. */
  #resume(): SessionAction[] {
    const held = this.#inputs.held();
    const actions: SessionAction[] = [];
    let at = 0;
    do {
      const jobs = held.slice(at, at + 256);
      at += 256;
      actions.push(...this.#say("resume", { jobs, last: at >= held.length }));
    } while (at < held.length);
    return actions;
  }

  #say<K extends AgentKind>(kind: K, body: Body<K>): SessionAction[] {
    const text = this.seal(kind, body);
    return text === undefined ? [] : [{ type: "transmit", text }];
  }

  #message(frame: VerifiedOf<ServiceKind>): SessionAction[] {
    const heard = [this.#silenceTimer()];
    if (frame.kind !== "heartbeat-ack") return [...heard, { type: "deliver", frame }];
    return [...heard, ...this.#acknowledged(frame)];
  }

  #acknowledged({ payload }: Verified<"heartbeat-ack">): SessionAction[] {
    // A session that lasts this long is a good one: the next failure starts the back-off anew.
    this.#attempt = 0;
    const actions: SessionAction[] = [];
    if (this.#nonces.includes(payload.latest.nonce)) {
      this.#nonces = this.#nonces.slice(this.#nonces.indexOf(payload.latest.nonce) + 1);
      actions.push({ type: "latest", latest: payload.latest });
    }
    if (payload.lost.length > 0) actions.push({ type: "lost", leases: payload.lost });
    return actions;
  }

  #heartbeat(): SessionAction[] {
    const now = this.#inputs.now();
    const nonce = this.#inputs.nonce();
    this.#nonces = [...this.#nonces, nonce].slice(-8);
    this.#lastHeartbeat = now;
    this.#changedPending = false;
    const body = { time: now, nonce, report: this.#inputs.report(), leases: this.#inputs.leases() };
    return [
      ...this.#say("heartbeat", body),
      { type: "clear-timer", name: "changed" },
      { type: "set-timer", name: "heartbeat", ms: this.#heartbeatMs },
    ];
  }

  /** A change is told at once; further ones within {@link changedGapMs} together after it. */
  #changed(): SessionAction[] {
    if (this.#state.at !== "open" || this.#changedPending) return [];
    const since = this.#inputs.now() - this.#lastHeartbeat;
    // Wall time may have jumped back: then it is as if no heartbeat had been sent.
    if (since >= changedGapMs || since < 0) return this.#heartbeat();
    this.#changedPending = true;
    return [{ type: "set-timer", name: "changed", ms: changedGapMs - since }];
  }

  #timer(name: TimerName): SessionAction[] {
    switch (name) {
      case "redial":
        return this.#state.at === "waiting" ? this.#dial() : [];
      case "handshake":
        if (this.#state.at !== "dialing" && this.#state.at !== "challenged") return [];
        return [
          { type: "close", code: CloseCode.Normal, reason: "handshake timed out" },
          ...this.#wait(`${sessionUrl(this.#url)}: no session within ${handshakeTimeoutMs} ms`),
        ];
      case "heartbeat":
      case "changed":
        return this.#state.at === "open" ? this.#heartbeat() : [];
      case "silence":
        if (this.#state.at !== "open") return [];
        return [
          { type: "close", code: CloseCode.Heartbeat, reason: "service is silent" },
          ...this.#wait("nothing heard from the service for three heartbeats"),
        ];
      case "delegation":
        return this.#delegationOver();
      case "http-heartbeat":
        return this.#httpHeartbeat();
      case "leave":
        if (this.#state.at !== "leaving") return [];
        return [{ type: "close", code: CloseCode.Normal, reason: "leaving" }, ...this.#left()];
    }
  }

  #delegationOver(): SessionAction[] {
    if (this.#state.at !== "open") return [];
    const { delegationExpires } = this.#state.open;
    if (this.#inputs.now() < delegationExpires) return [this.#delegationTimer(delegationExpires)];
    return this.#refuse(
      new ProtocolError("expired", "the network's delegation to the service's key has ended"),
    );
  }

  #delegationTimer(expires: number): SessionAction {
    const ms = Math.min(Math.max(0, expires - this.#inputs.now()), maxTimerMs);
    return { type: "set-timer", name: "delegation", ms };
  }

  #silenceTimer(): SessionAction {
    return { type: "set-timer", name: "silence", ms: 3 * this.#heartbeatMs };
  }

  /** While the socket is down longer than an interval, the node still tells how it is, by HTTP. */
  #httpHeartbeat(): SessionAction[] {
    if (this.#state.at === "open" || this.#state.at === "leaving" || this.#state.at === "closed") return [];
    const again: SessionAction = { type: "set-timer", name: "http-heartbeat", ms: this.#heartbeatMs };
    const service = this.#serviceKey;
    if (!service || service.expires <= this.#inputs.now() || !this.#registeredOnce) return [again];
    return [{ type: "http-heartbeat", endpoint: this.#url, serviceKey: service.key }, again];
  }

  /** The service said something that is not to be believed. */
  #refuse(error: ProtocolError): SessionAction[] {
    return [
      { type: "close", code: error.closeCode, reason: closeReason(error) },
      ...this.#wait(`refused the service: ${error.code}: ${error.message}`),
    ];
  }

  #closed(code: number, reason: string): SessionAction[] {
    if (this.#state.at === "leaving") return this.#left();
    if (this.#state.at === "waiting" || this.#state.at === "closed" || this.#state.at === "registering")
      return [];
    const refused = this.#state.at === "challenged" && code === CloseCode.Auth;
    if (this.#state.at === "challenged" && code === CloseCode.Auth)
      this.#refusedKeys.add(this.#state.key.kid);
    const named = closeReasonCode(reason);
    const unknownKey = named === "unknown_key" || (named === undefined && !this.#registeredOnce);
    // A rollover may have got through without the node's hearing of it.
    if (refused && unknownKey && this.#inputs.otherKey(this.#refusedKeys)) return this.#dial();
    if (refused && unknownKey && this.#serviceKey && !this.#registeredNow) {
      return this.#register(this.#serviceKey.key);
    }
    return this.#wait(
      code === CloseCode.Superseded && reason === identityConflictReason
        ? "identity conflict: another process with this node's identity holds its session; stop one of the two, or give it an identity of its own"
        : `session closed with ${code}${reason === "" ? "" : ` (${reason.slice(0, 200)})`}`,
      code,
    );
  }

  #register(serviceKey: VerifyKey): SessionAction[] {
    this.#state = { at: "registering" };
    this.#registeredNow = true;
    return [
      { type: "clear-timer", name: "handshake" },
      { type: "register", endpoint: this.#url, serviceKey },
    ];
  }

  /** The open session has the key before; the next one, at once and with all jobs, has the new one. */
  #rekeyed(): SessionAction[] {
    if (this.#state.at !== "open") return [];
    return [
      { type: "close", code: CloseCode.Normal, reason: "the node's key has changed" },
      ...this.#ended("the node's key has changed"),
      { type: "set-timer", name: "http-heartbeat", ms: this.#heartbeatMs },
      ...this.#dial(),
    ];
  }

  /** Back to `waiting`: tells that the session is over and when the next dial comes. */
  #wait(why: string, code: number = CloseCode.Normal): SessionAction[] {
    const wasOpen = this.#state.at === "open";
    this.#state = { at: "waiting" };
    const cap = this.#inputs.held().length > 0 ? 8_000 : 64_000;
    const jitter = fullJitter(this.#attempt, { base: 1_000, cap }, this.#inputs.random);
    this.#attempt++;
    this.#endpoint++;
    this.#registeredNow = false;
    this.#refusedKeys.clear();
    const long = code === CloseCode.Superseded || code === CloseCode.Banned || code === CloseCode.Version;
    const actions: SessionAction[] = [
      { type: "set-timer", name: "redial", ms: long ? longWaitMs + jitter : jitter },
      ...this.#ended(why),
    ];
    if (wasOpen) actions.push({ type: "set-timer", name: "http-heartbeat", ms: this.#heartbeatMs });
    return actions;
  }

  /** Nothing of a session goes on. */
  #ended(why: string): SessionAction[] {
    this.#lastError = why.slice(0, 500);
    this.#changedPending = false;
    const names: TimerName[] = ["handshake", "heartbeat", "changed", "silence", "delegation"];
    return [
      ...names.map((name): SessionAction => ({ type: "clear-timer", name })),
      { type: "ended", why: this.#lastError },
    ];
  }

  #leave(reason: GoodbyeReason): SessionAction[] {
    if (this.#state.at === "leaving" || this.#state.at === "closed") return [];
    if (this.#state.at !== "open") {
      const dialled = this.#state.at === "dialing" || this.#state.at === "challenged";
      const close: SessionAction[] = dialled
        ? [{ type: "close", code: CloseCode.Normal, reason: "leaving" }]
        : [];
      return [...close, ...this.#left()];
    }
    const goodbye = this.#say("goodbye", { reason });
    this.#state = { at: "leaving" };
    return [
      ...goodbye,
      { type: "close", code: CloseCode.Normal, reason: "" },
      { type: "set-timer", name: "leave", ms: leaveTimeoutMs },
    ];
  }

  #left(): SessionAction[] {
    this.#state = { at: "closed" };
    const names: TimerName[] = [
      "redial",
      "handshake",
      "heartbeat",
      "changed",
      "silence",
      "delegation",
      "http-heartbeat",
      "leave",
    ];
    return [...names.map((name): SessionAction => ({ type: "clear-timer", name })), { type: "left" }];
  }
}
