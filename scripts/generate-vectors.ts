/**
 * `test/vectors/*.json`: what a client in another language checks itself against (docs/protocol.md, "Vectors"). Keys come
 * from seeds, times are fixed and Ed25519 is deterministic, so the files are the same each time. The verdicts are written
 * down in `scripts/vectors`, not computed: test/protocol/vectors.test.ts holds src/protocol to them.
 */
import { answerVectors, bindingVectors, feedVectors, httpVectors } from "./vectors/accounts.ts";
import { fieldVectors, jsonVectors, jwsVectors, keyVectors } from "./vectors/encodings.ts";
import { codeVectors, messageVectors } from "./vectors/messages.ts";
import { receiptVectors } from "./vectors/receipts.ts";
import { rolloverVectors } from "./vectors/rollover.ts";
import { sessionVectors } from "./vectors/session.ts";
import { selectVectors, snapshotVectors } from "./vectors/snapshots.ts";
import { delegationVectors, releaseVectors, rootVectors } from "./vectors/statements.ts";

const vectors: Readonly<Record<string, () => object>> = {
  answers: answerVectors,
  bindings: bindingVectors,
  codes: codeVectors,
  delegations: delegationVectors,
  feed: feedVectors,
  fields: fieldVectors,
  http: httpVectors,
  json: jsonVectors,
  jws: jwsVectors,
  keys: keyVectors,
  messages: messageVectors,
  receipts: receiptVectors,
  releases: releaseVectors,
  rollover: rolloverVectors,
  roots: rootVectors,
  select: selectVectors,
  session: sessionVectors,
  snapshots: snapshotVectors,
};

/** Path relative to the repository → contents. */
export function generateVectorFiles(): Map<string, string> {
  return new Map(
    Object.entries(vectors).map(([name, make]) => [
      `test/vectors/${name}.json`,
      `${JSON.stringify(make(), null, 1)}\n`,
    ]),
  );
}
