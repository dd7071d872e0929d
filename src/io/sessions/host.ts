import type { Clock } from "../../lib/clock.ts";
import type { Logger } from "../../lib/logger.ts";
import type { VerifiedOf } from "../../protocol/frame.ts";
import type { JobId } from "../../protocol/fields.ts";
import type { AgentKind, Payload } from "../../protocol/messages.ts";
import type { NetworkConfig } from "../config/network-config.ts";
import type { From } from "../dispatch/types.ts";
import type { KnownNode, Nodes } from "../nodes.ts";
import type { FrameRate } from "../options.ts";
import type { RateLimit } from "../rate.ts";
import type { ServiceKey } from "../service-key.ts";
import type { Session } from "./session.ts";

/** Messages of a session that are about jobs. */
export type JobFrame = VerifiedOf<Exclude<AgentKind, "resume" | "heartbeat" | "goodbye">>;

/** Source of random bytes, base64url. */
export interface RandomBytes {
  readonly bytes: (count: 16 | 32) => string;
}

/** What a session knows of the service around it, and what it tells it. */
export interface SessionHost {
  readonly clock: Clock;
  readonly log: Logger;
  readonly random: RandomBytes;
  readonly config: NetworkConfig;
  readonly nodes: Nodes;
  readonly serviceKey: ServiceKey;
  /** URLs that a hello may name as its audience. */
  readonly audiences: readonly string[];
  readonly rates: { readonly node: RateLimit };
  readonly frameRate: FrameRate;
  readonly heartbeatMs: number;
  readonly leaseMs: number;
  /** True if another process has taken this one's place and holds it: then two have one identity. */
  conflicts(node: KnownNode, instance: string): boolean;
  /** Resolves when the epoch is on the disk. */
  keepEpoch(node: KnownNode, epoch: number): Promise<void>;
  /** `ready` was sent. */
  opened(session: Session, node: KnownNode, hello: Payload<"hello">): void;
  /** It is over; `from` is set if it had been open. */
  ended(
    session: Session,
    from: From | undefined,
    how: { readonly code: number; readonly orderly: boolean },
  ): void;
  resume(from: From, payload: Payload<"resume">): Promise<void>;
  /** Returns the leases that are no longer the node's. */
  heartbeat(
    node: KnownNode,
    from: From,
    payload: Payload<"heartbeat">,
  ): readonly { readonly job: JobId; readonly attempt: number }[];
  jobFrame(from: From, frame: JobFrame): void;
}
