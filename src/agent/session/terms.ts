import type { Random } from "../../lib/backoff.ts";
import type { VerifiedOf } from "../../protocol/frame.ts";
import type { KeyId, SigningKey, VerifyKey } from "../../protocol/keys.ts";
import type { Latest, Payload, Report, ServiceKind } from "../../protocol/messages.ts";
import type { AgentChannel } from "../../protocol/session/channel.ts";
import type { BelievedChallenge } from "../../protocol/session/handshake.ts";

/** The states, events and actions of the session's state machine (`machine.ts`). */

/** Where the session is. */
export type SessionState =
  | { readonly at: "waiting" }
  | { readonly at: "registering" }
  | { readonly at: "dialing" }
  | {
      readonly at: "challenged";
      readonly challenge: BelievedChallenge;
      readonly hello: string;
      readonly nonce: string;
      /** The key that has signed the hello: the session's, whatever becomes of the node's key. */
      readonly key: SigningKey;
    }
  | { readonly at: "open"; readonly open: OpenSession }
  | { readonly at: "leaving" }
  | { readonly at: "closed" };

/** What an open session has agreed on. */
export interface OpenSession {
  readonly channel: AgentChannel;
  readonly epoch: number;
  readonly heartbeatMs: number;
  readonly leaseMs: number;
  /** Wall time at which the service's key stops being delegated. */
  readonly delegationExpires: number;
}

export type TimerName =
  | "redial"
  | "handshake"
  | "heartbeat"
  | "changed"
  | "silence"
  | "delegation"
  | "http-heartbeat"
  | "leave";

export type GoodbyeReason = Payload<"goodbye">["reason"];

export type SessionEvent =
  | { readonly type: "start" }
  /** A message of the socket; a binary one is undefined. */
  | { readonly type: "frame"; readonly text: string | undefined }
  | { readonly type: "closed"; readonly code: number; readonly reason: string }
  | { readonly type: "timer"; readonly name: TimerName }
  | { readonly type: "registered" }
  | { readonly type: "registration-failed"; readonly reason: string }
  /** The node signs with another key from now on. */
  | { readonly type: "rekeyed" }
  /** Load, accepting, config or health changed. */
  | { readonly type: "changed" }
  | { readonly type: "leave"; readonly reason: GoodbyeReason };

/** What jobs see of the service. */
export type JobFrame = VerifiedOf<Exclude<ServiceKind, "heartbeat-ack">>;

export type SessionAction =
  | { readonly type: "dial"; readonly url: string }
  | { readonly type: "transmit"; readonly text: string }
  | { readonly type: "close"; readonly code: number; readonly reason: string }
  | { readonly type: "set-timer"; readonly name: TimerName; readonly ms: number }
  | { readonly type: "clear-timer"; readonly name: TimerName }
  | { readonly type: "register"; readonly endpoint: string; readonly serviceKey: VerifyKey }
  | { readonly type: "http-heartbeat"; readonly endpoint: string; readonly serviceKey: VerifyKey }
  | { readonly type: "opened"; readonly epoch: number; readonly httpSeq: number }
  | { readonly type: "ended"; readonly why: string }
  | { readonly type: "latest"; readonly latest: Latest }
  | { readonly type: "deliver"; readonly frame: JobFrame }
  | { readonly type: "lost"; readonly leases: Payload<"heartbeat-ack">["lost"] }
  | { readonly type: "left" };

/** What the machine asks of the agent when it composes a message. */
export interface SessionInputs {
  /** Wall time, ms. */
  now(): number;
  readonly random: Random;
  /** 32 random bytes, base64url. */
  nonce(): string;
  report(): Report;
  leases(): Payload<"heartbeat">["leases"];
  /** Jobs held: unfinished ones and results that no ack has come for. */
  held(): Payload<"resume">["jobs"];
  releaseSequence(): number;
  /** Takes up another key of the node, none of `refused`; false if there is none. */
  otherKey(refused: ReadonlySet<KeyId>): boolean;
}
