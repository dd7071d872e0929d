/** Vectors of receipts and of an account's chain of countersignatures. */
import { signJws } from "../../src/protocol/jws.ts";
import {
  chainHash,
  chainStart,
  type Receipt,
  sealCountersign,
  sealReceipt,
} from "../../src/protocol/receipt.ts";
import { account, bytes32, type Case, digest, jobId, keys, network, nodeId, now } from "./fixed.ts";

const { node, service, stranger } = keys;

/** A receipt for the job with this id, and the node's signature over it. */
export function receiptFor(id: string, change: Partial<Receipt> = {}): { receipt: Receipt; jws: string } {
  const receipt: Receipt = {
    network,
    job: jobId(id),
    attempt: 1,
    node_id: nodeId,
    account,
    consumer: "client",
    model: "org/small",
    config_digest: digest,
    input_sha256: "0".repeat(64),
    output_sha256: "1".repeat(64),
    prompt_tokens: 3,
    completion_tokens: 5,
    duration_ms: 120,
    outcome: "completed",
    time: now + 2_000,
    ...change,
  };
  return { receipt, jws: sealReceipt(receipt, node) };
}

/** Countersigns a receipt as the link after `prev`. */
export function linkFor(receipt: string, index: number, prev: string, committedAt = now + 2_100): string {
  const metered = { prompt_tokens: 3, completion_tokens: 5 };
  return sealCountersign({ receipt, account, index, prev, metered, committed_at: committedAt }, service);
}

export function receiptVectors(): object {
  const { receipt, jws } = receiptFor("00000001");
  const changed = (change: object): string =>
    signJws("rn1.receipt", JSON.stringify({ ...receipt, ...change }), node);
  const cases: Case[] = [
    { name: "by the node", verdict: "valid", jws },
    { name: "by another key", verdict: "unknown_key", jws: sealReceipt(receipt, stranger) },
    { name: "as a status", verdict: "wrong_typ", jws: signJws("rn1.status", JSON.stringify(receipt), node) },
    { name: "negative tokens", verdict: "schema", jws: changed({ completion_tokens: -1 }) },
    { name: "an unknown outcome", verdict: "schema", jws: changed({ outcome: "maybe" }) },
    { name: "a hash in upper case", verdict: "schema", jws: changed({ output_sha256: "A".repeat(64) }) },
  ];
  const links: string[] = [];
  let prev = chainStart;
  for (let at = 1; at <= 3; at++) {
    const link = linkFor(receiptFor(`0000000${at}`).jws, at, prev, now + 2_100 + at);
    links.push(link);
    prev = chainHash(link);
  }
  const [first = "", second = "", third = ""] = links;
  const forged = signJws(
    "rn1.countersign",
    JSON.stringify({
      receipt: jws,
      account,
      index: 1,
      prev: chainStart,
      metered: { prompt_tokens: 3, completion_tokens: 5 },
      committed_at: now,
    }),
    stranger,
  );
  const chains: Case[] = [
    { name: "three links", verdict: "valid", chain: links },
    { name: "none", verdict: "valid", chain: [] },
    { name: "one taken out", verdict: "sequence", chain: [first, third] },
    { name: "the first taken out", verdict: "sequence", chain: [second, third] },
    { name: "two exchanged", verdict: "sequence", chain: [first, third, second] },
    { name: "one twice", verdict: "sequence", chain: [first, first] },
    { name: "a first link with a prev", verdict: "sequence", chain: [linkFor(jws, 1, bytes32("no link"))] },
    {
      name: "the right prev, another index",
      verdict: "sequence",
      chain: [first, linkFor(receiptFor("00000002").jws, 3, chainHash(first))],
    },
    { name: "by another key", verdict: "unknown_key", chain: [forged] },
    {
      name: "a link that was changed",
      verdict: "bad_signature",
      chain: [`${first.slice(0, -86)}${"A".repeat(86)}`],
    },
  ];
  return {
    about:
      "`cases`: receipts of the node with key `kid`. `chains`: countersignatures of one account from its first, by `service_kid`. `hashes`: hash of each link of the first chain, the `prev` of the next.",
    kid: node.kid,
    service_kid: service.kid,
    start: chainStart,
    cases,
    chains,
    hashes: links.map(chainHash),
  };
}
