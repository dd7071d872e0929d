import type { Payload } from "../../protocol/messages.ts";
import type { Lease } from "./transfers.ts";

/** An attempt that the node holds: it runs, or its result has not been acknowledged. */
export interface HeldJob {
  readonly ref: Lease;
  /** True until the result exists. */
  readonly running: boolean;
  readonly durable: boolean;
  /** False once the result is on its way on this session: what is to be renewed is a job that is not done. */
  readonly needsLease: boolean;
  /** Its line in a `resume` frame. */
  readonly held: Payload<"resume">["jobs"][number];
  /** The session is gone: nothing leaves until the next one's verdict. */
  sessionEnded(): void;
  /** The service wants the output from `offset` on. */
  keep(offset: number): void;
  /** Stops and forgets: cancelled, lease lost, committed, refused. */
  drop(why?: string): void;
  /** Hands an unfinished job back, because the node stops. */
  handBack(reason: string): void;
}
