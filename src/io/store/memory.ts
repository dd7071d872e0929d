import type { ConfigDigest, JobId } from "../../protocol/fields.ts";
import type { NodeId } from "../../protocol/keys.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import {
  type Attempt,
  type BodyPurpose,
  bodyPurposes,
  type Change,
  type JobFilter,
  type JobRow,
  type Kept,
  type KeptJob,
  type NodeRow,
  type ReceiptRow,
  type Store,
  StoreError,
  type Submission,
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
  readonly #submissions = new Map<JobId, Submission>();
  /** Job by consumer and idempotency key. */
  readonly #idempotency = new Map<string, JobId>();
  readonly #attempts = new Map<JobId, Attempt>();
  readonly #bodies = new Map<string, Uint8Array>();
  #dataKey: string | null = null;
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
      unfinished: [...this.#submissions.values()]
        .flatMap((submission) => {
          const row = this.#jobs.get(submission.job);
          if (!row || terminalStates.has(row.state)) return [];
          return [{ row, submission, attempt: this.#attempts.get(row.id) ?? null }];
        })
        .sort((a, b) => a.row.createdAt - b.row.createdAt || (a.row.id < b.row.id ? -1 : 1)),
      dataKey: this.#dataKey,
    };
  }

  async write(changes: readonly Change[]): Promise<void> {
    await Promise.resolve();
    const taken = new Set<string>();
    const consumers = new Map<JobId, string>();
    for (const change of changes) {
      if (change.put === "job") consumers.set(change.row.id, change.row.consumer);
      this.#check(change, taken, consumers);
    }
    for (const change of changes) this.#apply(change);
  }

  /**
   * Refuses before anything of a write is kept. `taken`, `consumers`: what earlier changes of the same write take, and
   * the consumers of its jobs.
   */
  #check(change: Change, taken: Set<string>, consumers: ReadonlyMap<JobId, string>): void {
    const take = (name: string, isKept: boolean) => {
      if (isKept || taken.has(name)) throw new StoreError("conflict", `store: there is ${name} already`);
      taken.add(name);
    };
    switch (change.put) {
      case "node":
      case "node-key": {
        const { kid, nodeId } = change.put === "node" ? change.row : change;
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
      case "submission": {
        const { job, idempotency } = change.submission;
        take(`a submission of ${job}`, this.#submissions.has(job));
        if (idempotency === null) return;
        const consumer = this.#jobs.get(job)?.consumer ?? consumers.get(job);
        const key = `${consumer ?? ""} ${idempotency}`;
        take(`a job for an idempotency key: ${key}`, this.#idempotency.has(key));
        return;
      }
      default:
    }
  }

  #apply(change: Change): void {
    switch (change.put) {
      case "node": {
        const { row } = change;
        if (!this.#nodes.has(row.nodeId)) this.#nodes.set(row.nodeId, row);
        return;
      }
      case "node-key":
        this.#node(change.nodeId, (node) => rekeyed(node, change));
        return;
      case "revoke":
        this.#node(change.nodeId, (node) => ({ ...node, revoked: true }));
        return;
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
      case "submission": {
        const { job, idempotency } = change.submission;
        const kept = this.#jobs.get(job);
        if (!kept) return;
        this.#submissions.set(job, change.submission);
        if (idempotency !== null) this.#idempotency.set(`${kept.consumer} ${idempotency}`, job);
        return;
      }
      case "attempt": {
        const { job, attempt, node } = change.attempt;
        const kept = this.#jobs.get(job);
        if (!kept || terminalStates.has(kept.state) || kept.attempt >= attempt) return;
        this.#jobs.set(job, { ...kept, state: "OFFERED", attempt, node });
        this.#attempts.set(job, change.attempt);
        return;
      }
      case "body":
        this.#bodies.set(`${change.job} ${change.purpose}`, change.bytes);
        return;
      case "data-key":
        this.#dataKey = change.check;
        return;
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
      if (row.durable || terminalStates.has(row.state)) continue;
      this.#jobs.set(id, { ...row, state: "CANCELLED", finishedAt: now, error });
      count++;
    }
    return count;
  }

  async jobs({ state, consumer, durable, after, limit = 100 }: JobFilter): Promise<readonly JobRow[]> {
    await Promise.resolve();
    const inOrder = (a: JobRow, b: JobRow) => b.createdAt - a.createdAt || (a.id < b.id ? -1 : 1);
    const before = after === undefined ? undefined : this.#jobs.get(after);
    if (after !== undefined && !before) return [];
    return [...this.#jobs.values()]
      .filter((row) => state === undefined || row.state === state)
      .filter((row) => consumer === undefined || row.consumer === consumer)
      .filter((row) => durable === undefined || row.durable === durable)
      .filter((row) => before === undefined || (row.id !== before.id && inOrder(before, row) < 0))
      .sort(inOrder)
      .slice(0, Math.min(limit, 10_000));
  }

  async job(id: JobId): Promise<KeptJob | undefined> {
    await Promise.resolve();
    const row = this.#jobs.get(id);
    return (
      row && {
        row,
        receipt: this.#receiptOfJob.get(id) ?? null,
        submission: this.#submissions.get(id) ?? null,
      }
    );
  }

  async submitted(consumer: string, idempotency: string): Promise<KeptJob | undefined> {
    const job = this.#idempotency.get(`${consumer} ${idempotency}`);
    return job === undefined ? undefined : this.job(job);
  }

  async body(job: JobId, purpose: BodyPurpose): Promise<Uint8Array | undefined> {
    await Promise.resolve();
    return this.#bodies.get(`${job} ${purpose}`);
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
      this.#attempts.delete(id);
      const idempotency = this.#submissions.get(id)?.idempotency;
      if (idempotency !== undefined) this.#idempotency.delete(`${row.consumer} ${idempotency}`);
      this.#submissions.delete(id);
      for (const purpose of bodyPurposes) this.#bodies.delete(`${id} ${purpose}`);
      count++;
    }
    return count;
  }

  async close(): Promise<void> {
    await Promise.resolve();
  }
}

function rekeyed(node: NodeRow, { kid, jwk, generation }: Extract<Change, { put: "node-key" }>): NodeRow {
  const before = node.former.filter(({ jwk: { x } }) => x !== jwk.x);
  const replaced = node.kid === kid ? [] : [{ jwk: node.jwk, generation: node.generation }];
  return {
    ...node,
    kid,
    jwk,
    former: [...before, ...replaced],
    revoked: node.revoked && generation <= node.generation,
    generation: Math.max(node.generation, generation),
  };
}
