import type { Change, NodeRow, Store } from "../../../src/io/store/port.ts";
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

/** Link `at` (from 1): a job, its receipt, the node's epoch and `seq`. */
export function linkOf(at: number, { nodeId }: NodeRow): readonly Change[] {
  const over = {
    state: "COMMITTED",
    attempt: 1,
    node: nodeId,
    outcome: "completed",
    finishedAt: at,
  } as const;
  return [
    { put: "job", row: job(at, over) },
    { put: "receipt", row: receipt(at, nodeId) },
    { put: "epoch", nodeId, epoch: at, releaseSequence: at },
    { put: "http-seq", nodeId, seq: at },
  ];
}

/** What a store that was opened again shows of the load. */
export interface LinksFound {
  /** Links that are there, from the first on. */
  readonly links: number;
  /** What contradicts the port's promises; empty = nothing. */
  readonly problems: readonly string[];
}

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
    const state = (await store.job(jobId(at)))?.row.state;
    expectSame(`job of link ${at}`, state, "COMMITTED");
  }
  if (await store.job(jobId(links + 1))) problems.push(`link ${links + 1} is there by half: its job`);
  const { nodes, chains } = await store.load();
  const node = nodes[0];
  expectSame("epoch", node?.epoch ?? 0, links);
  expectSame("known release", node?.releaseSequence ?? 0, links);
  expectSame("seq", node?.httpSeq ?? 0, links);
  expectSame("commits of the node", node?.jobsCommitted ?? 0, links);
  expectSame("end of the chain", chains[0]?.index ?? 0, links);
  return { links, problems };
}
