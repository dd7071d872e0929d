import { chainHash, chainStart, sealCountersign } from "../../protocol/receipt.ts";
import type { JobId } from "../../protocol/fields.ts";
import type { NodeId, SigningKey } from "../../protocol/keys.ts";
import type { Usage } from "../../protocol/messages.ts";
import type { Kept, ReceiptRow } from "../store/port.ts";

/** A node's receipt that has been checked against what was relayed. */
export interface CheckedReceipt {
  readonly account: string;
  readonly job: JobId;
  readonly attempt: number;
  readonly node: NodeId;
  /** Compact JWS by the node. */
  readonly receipt: string;
  /** Tokens that count. */
  readonly metered: Usage;
}

/**
 * Countersigns receipts, one hash chain an account. The ends of the chains are in memory; a link must be written in the
 * order in which it was made, before anything else is told of it.
 */
export class Ledger {
  readonly #key: SigningKey;
  readonly #ends = new Map<string, { readonly index: number; readonly hash: string }>();

  constructor(key: SigningKey, chains: Kept["chains"]) {
    this.#key = key;
    for (const { account, index, countersign } of chains)
      this.#ends.set(account, { index, hash: chainHash(countersign) });
  }

  /** Makes the account's next link. @param now wall time, ms. */
  countersign(checked: CheckedReceipt, now: number): ReceiptRow {
    const { account, job, attempt, node, receipt, metered } = checked;
    const end = this.#ends.get(account) ?? { index: 0, hash: chainStart };
    const index = end.index + 1;
    const countersign = sealCountersign(
      { receipt, account, index, prev: end.hash, metered, committed_at: now },
      this.#key,
    );
    this.#ends.set(account, { index, hash: chainHash(countersign) });
    return { account, index, job, attempt, node, countersign };
  }
}
