import type { Clock } from "../../lib/clock.ts";
import type { Logger } from "../../lib/logger.ts";
import type { NodeId } from "../../protocol/keys.ts";
import type { Payload } from "../../protocol/messages.ts";
import type { Dispatch } from "../dispatch/dispatch.ts";
import type { IoMetrics } from "../metrics.ts";
import type { Nodes } from "../nodes.ts";
import type { Ledger } from "../receipts/ledger.ts";
import type { Store } from "../store/port.ts";
import type { BodyVault } from "./body-vault.ts";

/** A session as the desk needs it. */
export interface NodeLine {
  readonly epoch: number;
  offer(body: Omit<Payload<"offer">, "sid" | "seq">): void;
  cancel(body: Omit<Payload<"cancel">, "sid" | "seq">): void;
  verdict(body: Omit<Payload<"verdict">, "sid" | "seq">): void;
  /** Acknowledges a result, together with others of the same moment. */
  ack(result: Payload<"ack">["results"][number]): void;
}

/** What the desk works with. */
export interface DeskParts {
  readonly network: string;
  readonly clock: Clock;
  readonly log: Logger;
  readonly metrics: IoMetrics;
  readonly dispatch: Dispatch;
  readonly nodes: Nodes;
  readonly store: Store;
  readonly ledger: Ledger;
  readonly vault: BodyVault;
  /** The open session of a node. */
  readonly lineTo: (node: NodeId) => NodeLine | undefined;
  /** The store contradicts what is in memory: the service must stop. */
  readonly fatal: (error: unknown) => void;
}
