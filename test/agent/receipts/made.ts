import { jobIdField } from "../../../src/protocol/fields.ts";
import type { SigningKey } from "../../../src/protocol/keys.ts";
import {
  chainHash,
  chainStart,
  type Receipt,
  sealCountersign,
  sealReceipt,
} from "../../../src/protocol/receipt.ts";
import { type TestIdentity, testIdentity, TestNetwork } from "../fixture/network.ts";

/** An account's chain of receipts, as a service would make it. */
export class MadeReceipts {
  readonly network = new TestNetwork();
  readonly identity: TestIdentity = testIdentity(this.network);
  /** What the node's key was rolled over to. */
  key: SigningKey | undefined;
  readonly #digest = this.network.config().digest;
  #index = 0;
  #prev = chainStart;

  /** The next countersigned receipt. */
  next(
    over: {
      readonly receipt?: Partial<Receipt>;
      readonly at?: number;
      readonly by?: SigningKey;
      readonly metered?: number;
    } = {},
  ): string {
    const index = ++this.#index;
    const at = over.at ?? Date.UTC(2026, 0, 1, 12);
    const receipt = sealReceipt(
      {
        network: this.network.name,
        job: jobIdField.parse(`job-${String(index).padStart(8, "0")}`),
        attempt: 1,
        node_id: this.identity.nodeId,
        account: "acme",
        consumer: "someone",
        model: "org/m1",
        config_digest: this.#digest,
        input_sha256: "a".repeat(64),
        output_sha256: "b".repeat(64),
        prompt_tokens: 10,
        completion_tokens: 20,
        duration_ms: 5,
        outcome: "completed",
        time: at,
        ...over.receipt,
      },
      this.key ?? this.identity.key,
    );
    const text = sealCountersign(
      {
        receipt,
        account: "acme",
        index,
        prev: this.#prev,
        metered: { prompt_tokens: 10, completion_tokens: over.metered ?? 20 },
        committed_at: at,
      },
      over.by ?? this.network.service,
    );
    this.#prev = chainHash(text);
    return text;
  }
}
