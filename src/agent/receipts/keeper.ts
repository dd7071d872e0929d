import type { Statement } from "../../protocol/config/statement.ts";

/** Keeps what the node has earned. Never throws and never waits: jobs go on whatever becomes of the disk. */
export interface ReceiptKeeper {
  /** The service speaks under this delegation from now on: with it receipts can be verified when it is long over. */
  delegated(delegation: Statement): void;
  /** A countersigned receipt (compact JWS) has arrived. */
  keep(countersign: string): void;
}
