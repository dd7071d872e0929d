import type { ConfigDigest, JobId } from "../../protocol/fields.ts";
import type { NodeId } from "../../protocol/keys.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import {
  type Change,
  type JobFilter,
  type JobRow,
  type Kept,
  type NodeRow,
  type ReceiptRow,
  type Store,
  StoreError,
  terminalStates,
} from "./port.ts";

/** A store that forgets everything with the process. For tests and for measuring what durability costs. */
export class MemoryStore implements Store {
  readonly healthy = true;
  readonly #nodes = new Map<NodeId, NodeRow>();
  readonly #accounts = new Map<string, string>();
  readonly #apiKeys = new Map<string, string>();
  readonly #jobs = new Map<JobId, JobRow>();
  readonly #receipts = new Map<string, ReceiptRow[]>();
  readonly #receiptOfJob = new Map<JobId, ReceiptRow>();
  readonly #snapshots = new Map<ConfigDigest, string>();
  #root: { version: number; statement: Statement } | undefined;
  #release: { sequence: number; statement: Statement } | undefined;
  #delegation: Statement | undefined;

  async load(): Promise<Kept> {
    await Promise.resolve();
    return {
      nodes: [...this.#nodes.values()],
      accounts: [...this.#accounts].map(([id, key]) => ({ id, key })),
      apiKeys: [...this.#apiKeys].map(([sha256, consumer]) => ({ sha256, consumer })),
      chains: [...this.#receipts.values()].flatMap((rows) => {
        const last = rows.at(-1);
        return last ? [{ account: last.account, index: last.index, countersign: last.countersign }] : [];
      }),
      root: this.#root?.statement ?? null,
      delegation: this.#delegation ?? null,
      release: this.#release?.statement ?? null,
      snapshots: [...this.#snapshots].map(([digest, text]) => ({ digest, text })),
    };
  }

  async write(changes: readonly Change[]): Promise<void> {
    await Promise.resolve();
    const taken = new Set<string>();
    for (const change of changes) this.#check(change, taken);
    for (const change of changes) this.#apply(change);
  }

  /** Refuses before anything of a write is kept. `taken`: what earlier changes of the same write take. */
  #check(change: Change, taken: Set<string>): void {
    const take = (name: string, isKept: boolean) => {
      if (isKept || taken.has(name)) throw new StoreError("conflict", `store: there is ${name} already`);
      taken.add(name);
    };
    switch (change.put) {
      case "node": {
        const { kid, nodeId } = change.row;
        const others = [...this.#nodes.values()].some((node) => node.kid === kid && node.nodeId !== nodeId);
        if (others) throw new StoreError("conflict", "store: the key is another node's");
        return;
      }
      case "account":
        take(`account ${change.id}`, this.#accounts.has(change.id));
        return;
      case "apikey":
        take(`API key ${change.sha256}`, this.#apiKeys.has(change.sha256));
        return;
      case "receipt": {
        const { job, account, index } = change.row;
        take(`a receipt of ${job}`, this.#receiptOfJob.has(job));
        const chain = this.#receipts.get(account) ?? [];
        // Written in order, so that only the end is looked at.
        take(`receipt ${index} of ${account}`, index <= (chain.at(-1)?.index ?? 0));
        return;
      }
      default:
    }
  }

  #apply(change: Change): void {
    switch (change.put) {
      case "node": {
        const kept = this.#nodes.get(change.row.nodeId);
        const { kid, jwk, account } = change.row;
        this.#nodes.set(change.row.nodeId, kept ? { ...kept, kid, jwk, account } : change.row);
        return;
      }
      case "epoch":
        this.#node(change.nodeId, (node) => ({
          ...node,
          epoch: Math.max(node.epoch, change.epoch),
          releaseSequence: Math.max(node.releaseSequence, change.releaseSequence),
        }));
        return;
      case "http-seq":
        this.#node(change.nodeId, (node) => ({ ...node, httpSeq: Math.max(node.httpSeq, change.seq) }));
        return;
      case "ban":
        this.#node(change.nodeId, (node) => ({ ...node, banned: change.reason }));
        return;
      case "account":
        this.#accounts.set(change.id, change.key);
        return;
      case "apikey":
        this.#apiKeys.set(change.sha256, change.consumer);
        return;
      case "job": {
        const kept = this.#jobs.get(change.row.id);
        if (!kept || !terminalStates.has(kept.state)) this.#jobs.set(change.row.id, change.row);
        return;
      }
      case "confirmed": {
        const kept = this.#jobs.get(change.job);
        if (kept?.state === "COMMITTED") this.#jobs.set(change.job, { ...kept, state: "CONFIRMED" });
        return;
      }
      case "receipt": {
        const { row } = change;
        const chain = this.#receipts.get(row.account) ?? [];
        this.#receipts.set(row.account, chain);
        chain.push(row);
        this.#receiptOfJob.set(row.job, row);
        this.#node(row.node, (node) => ({ ...node, jobsCommitted: node.jobsCommitted + 1 }));
        return;
      }
      case "root":
        if (!this.#root || change.version >= this.#root.version) this.#root = change;
        return;
      case "delegation":
        this.#delegation = change.statement;
        return;
      case "release":
        if (!this.#release || change.sequence >= this.#release.sequence) this.#release = change;
        return;
      case "snapshot":
        this.#snapshots.set(change.digest, change.text);
        return;
      default:
        change satisfies never;
    }
  }

  #node(id: NodeId, update: (node: NodeRow) => NodeRow): void {
    const node = this.#nodes.get(id);
    if (node) this.#nodes.set(id, update(node));
  }

  async cancelUnfinished(now: number, error: string): Promise<number> {
    await Promise.resolve();
    let count = 0;
    for (const [id, row] of this.#jobs) {
      if (terminalStates.has(row.state)) continue;
      this.#jobs.set(id, { ...row, state: "CANCELLED", finishedAt: now, error });
      count++;
    }
    return count;
  }

  async jobs({ state, consumer, limit = 100 }: JobFilter): Promise<readonly JobRow[]> {
    await Promise.resolve();
    return [...this.#jobs.values()]
      .filter((row) => state === undefined || row.state === state)
      .filter((row) => consumer === undefined || row.consumer === consumer)
      .sort((a, b) => b.createdAt - a.createdAt || (a.id < b.id ? -1 : 1))
      .slice(0, Math.min(limit, 10_000));
  }

  async job(id: JobId): Promise<{ row: JobRow; receipt: ReceiptRow | null } | undefined> {
    await Promise.resolve();
    const row = this.#jobs.get(id);
    return row && { row, receipt: this.#receiptOfJob.get(id) ?? null };
  }

  async receipts(account: string, from: number, limit: number): Promise<readonly ReceiptRow[]> {
    await Promise.resolve();
    return (this.#receipts.get(account) ?? []).filter(({ index }) => index >= from).slice(0, limit);
  }

  async prune(before: number): Promise<number> {
    await Promise.resolve();
    let count = 0;
    for (const [id, row] of this.#jobs) {
      if (!terminalStates.has(row.state) || row.finishedAt === null || row.finishedAt >= before) continue;
      this.#jobs.delete(id);
      count++;
    }
    return count;
  }

  async close(): Promise<void> {
    await Promise.resolve();
  }
}
