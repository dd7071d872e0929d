import {
  type BodyPurpose,
  bodyPurposes,
  type Change,
  type NodeRow,
  type Store,
  type Submission,
} from "../../../src/io/store/port.ts";
import { accountKey, job, jobId, receipt } from "./rows.ts";

/**
 * A load whose every write is one link of one chain and touches several tables, so that what a crash has left tells
 * whether a write was lost, halved or overtaken.
 */

/** What is there before the first link. */
export function beforeLinks(node: NodeRow): readonly Change[] {
  return [
    { put: "account", id: node.account, key: accountKey },
    { put: "node", row: node },
  ];
}

/** A body of link `at`; each sixteenth is larger than a page of the database. */
function bodyOf(at: number, purpose: BodyPurpose): Buffer {
  return Buffer.alloc(at % 16 === 0 ? 20_000 : 50, `${purpose} ${at} `);
}

/** Link `at` (from 1): all that an asynchronous job writes in its life, its receipt, the node's epoch and `seq`. */
export function linkOf(at: number, { nodeId }: NodeRow): readonly Change[] {
  const id = jobId(at);
  const over = {
    state: "COMMITTED",
    attempt: 1,
    node: nodeId,
    outcome: "completed",
    finishedAt: at,
  } as const;
  const attempt = { job: id, attempt: 1, node: nodeId, token: `t${at}`, failures: 0, reasons: [] };
  return [
    { put: "job", row: job(at, { durable: true }) },
    { put: "submission", submission: submissionOf(at) },
    { put: "body", job: id, purpose: "input", bytes: bodyOf(at, "input") },
    { put: "attempt", attempt },
    { put: "job", row: job(at, { durable: true, ...over }) },
    { put: "body", job: id, purpose: "output", bytes: bodyOf(at, "output") },
    { put: "receipt", row: receipt(at, nodeId) },
    { put: "epoch", nodeId, epoch: at, releaseSequence: at },
    { put: "http-seq", nodeId, seq: at },
  ];
}

function submissionOf(at: number): Submission {
  const { length } = bodyOf(at, "input");
  return {
    job: jobId(at),
    idempotency: `key ${at}`,
    inputSha256: "0".repeat(64),
    inputBytes: length,
    deadline: at,
  };
}

/** What a store that was opened again shows of the load. */
export interface LinksFound {
  /** Links that are there, from the first on. */
  readonly links: number;
  /** What contradicts the port's promises; empty = nothing. */
  readonly problems: readonly string[];
}

/** Newest links whose bodies are read. */
const bodiesRead = 100;

/** Looks for a link that is missing or half there. @param acknowledged links whose write had resolved */
export async function findLinks(store: Store, acknowledged: number): Promise<LinksFound> {
  const problems: string[] = [];
  const expectSame = (what: string, seen: unknown, wanted: unknown) => {
    if (seen !== wanted) problems.push(`${what}: ${String(seen)} instead of ${String(wanted)}`);
  };
  const receipts = await store.receipts("acme", 1, 1_000_000);
  const links = receipts.length;
  if (links < acknowledged) problems.push(`${acknowledged} links were acknowledged, ${links} are there`);
  for (const [before, { index, job: id, countersign }] of receipts.entries()) {
    const at = before + 1;
    expectSame(`index of receipt ${at}`, index, at);
    expectSame(`job of receipt ${at}`, id, jobId(at));
    expectSame(`countersign of receipt ${at}`, countersign, `c${at}`);
    const kept = await store.job(jobId(at));
    expectSame(`job of link ${at}`, kept?.row.state, "COMMITTED");
    expectSame(`submission of link ${at}`, kept?.submission?.idempotency, `key ${at}`);
    // A crash hurts the end.
    for (const purpose of at > links - bodiesRead ? bodyPurposes : []) {
      const bytes = await store.body(jobId(at), purpose);
      if (!bytes || !bodyOf(at, purpose).equals(bytes))
        problems.push(`${purpose} of link ${at} is not what was written`);
    }
  }
  const next = links + 1;
  if (await store.job(jobId(next))) problems.push(`link ${next} is there by half: its job`);
  if (await store.body(jobId(next), "input")) problems.push(`link ${next} is there by half: its input`);
  const { nodes, chains } = await store.load();
  const node = nodes[0];
  expectSame("epoch", node?.epoch ?? 0, links);
  expectSame("known release", node?.releaseSequence ?? 0, links);
  expectSame("seq", node?.httpSeq ?? 0, links);
  expectSame("commits of the node", node?.jobsCommitted ?? 0, links);
  expectSame("end of the chain", chains[0]?.index ?? 0, links);
  return { links, problems };
}
