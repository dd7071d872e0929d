import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import type { ConfigDigest, JobId } from "../../protocol/fields.ts";
import { parseStatement } from "../../protocol/config/root.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import { messageOf } from "../../lib/errors.ts";
import { migrate } from "./migrations.ts";
import type {
  Attempt,
  BodyPurpose,
  Change,
  JobFilter,
  JobRow,
  Kept,
  KeptJob,
  NodeRow,
  ReceiptRow,
  UnfinishedJob,
} from "./port.ts";
import { StoreError } from "./port.ts";
import { attemptOf, jobOf, jwkOf, nodeOf, number, receiptOf, type Row, submissionOf, text } from "./rows.ts";

const unfinished = "('QUEUED','OFFERED','RUNNING','RESULT_RECEIVED')";

/** A log that large bodies have made longer than this is cut once it is in the database. */
const longLogBytes = 64 * 1024 * 1024;

/** The SQLite database of the store: synchronous, so it lives in a worker thread. Statements are prepared once. */
export class Database {
  readonly #db: DatabaseSync;
  readonly #prepared = new Map<string, StatementSync>();

  /**
   * Opens or creates the file. WAL with `synchronous=FULL`: a commit is on the disk when it returns.
   * @throws {StoreError} `unavailable` where the file system allows no WAL; `corrupt`
   */
  constructor(path: string) {
    this.#db = new DatabaseSync(path);
    this.#db.exec("PRAGMA busy_timeout=1000;");
    const mode = this.#db.prepare("PRAGMA journal_mode=WAL").get()?.["journal_mode"];
    // SQLite stays silently with a rollback journal, whose deletion `synchronous=FULL` does not sync: a commit could be
    // undone by a power loss.
    if (mode !== "wal") {
      this.#db.close();
      throw new StoreError(
        "unavailable",
        `store: the file system of ${path} allows no write-ahead log: put the data folder on a local disk`,
      );
    }
    this.#db.exec(`PRAGMA synchronous=FULL; PRAGMA journal_size_limit=${longLogBytes};`);
    migrate(this.#db);
  }

  /** Applies several writes in one transaction; a write that conflicts is left out whole. Returns each one's error. */
  commit(writes: readonly (readonly Change[])[]): (string | null)[] {
    this.#db.exec("BEGIN IMMEDIATE");
    try {
      const errors = writes.map((changes) => this.#tryAll(changes));
      this.#db.exec("COMMIT");
      return errors;
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec("ROLLBACK");
      throw error;
    }
  }

  #tryAll(changes: readonly Change[]): string | null {
    // A single statement undoes itself when it fails; more of them need a savepoint. A change of key is three.
    const several = changes.length > 1 || changes[0]?.put === "node-key";
    if (several) this.#db.exec("SAVEPOINT w");
    try {
      for (const change of changes) this.#apply(change);
      if (several) this.#db.exec("RELEASE w");
      return null;
    } catch (error) {
      if (!isConstraint(error)) throw error;
      if (several) this.#db.exec("ROLLBACK TO w; RELEASE w");
      return messageOf(error);
    }
  }

  #apply(change: Change): void {
    switch (change.put) {
      case "node": {
        const { row } = change;
        this.#run("INSERT INTO nodes VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (node_id) DO NOTHING", [
          row.nodeId,
          row.kid,
          row.jwk.x,
          row.account,
          row.registeredAt,
          row.httpSeq,
          row.epoch,
          row.releaseSequence,
          row.banned,
          row.jobsCommitted,
          row.generation,
          row.revoked ? 1 : 0,
        ]);
        return;
      }
      case "node-key": {
        const { nodeId, kid, jwk, generation } = change;
        this.#run(
          `INSERT OR IGNORE INTO former_keys (node_id, kid, x, generation)
           SELECT node_id, kid, x, generation FROM nodes WHERE node_id=? AND kid<>?`,
          [nodeId, kid],
        );
        this.#run("DELETE FROM former_keys WHERE node_id=? AND kid=?", [nodeId, kid]);
        this.#run(
          `UPDATE nodes SET kid=?1, x=?2, revoked=iif(?3 > generation, 0, revoked), generation=max(generation, ?3)
           WHERE node_id=?4`,
          [kid, jwk.x, generation, nodeId],
        );
        return;
      }
      case "revoke":
        this.#run("UPDATE nodes SET revoked=1 WHERE node_id=?", [change.nodeId]);
        return;
      case "epoch":
        this.#run(
          "UPDATE nodes SET epoch=max(epoch,?), release_sequence=max(release_sequence,?) WHERE node_id=?",
          [change.epoch, change.releaseSequence, change.nodeId],
        );
        return;
      case "http-seq":
        this.#run("UPDATE nodes SET http_seq=max(http_seq,?) WHERE node_id=?", [change.seq, change.nodeId]);
        return;
      case "ban":
        this.#run("UPDATE nodes SET banned=? WHERE node_id=?", [change.reason, change.nodeId]);
        return;
      case "account":
        this.#run("INSERT INTO accounts VALUES (?,?)", [change.id, change.key]);
        return;
      case "apikey":
        this.#run("INSERT INTO apikeys VALUES (?,?,?)", [change.sha256, change.consumer, change.createdAt]);
        return;
      case "job":
        this.#putJob(change.row);
        return;
      case "submission": {
        const { job, idempotency, inputSha256, inputBytes, deadline } = change.submission;
        this.#run("INSERT INTO submissions SELECT id, consumer, ?, ?, ?, ? FROM jobs WHERE id=?", [
          idempotency,
          inputSha256,
          inputBytes,
          deadline,
          job,
        ]);
        return;
      }
      case "attempt":
        this.#putAttempt(change.attempt);
        return;
      case "body":
        this.#run("INSERT OR REPLACE INTO bodies VALUES (?,?,?)", [change.job, change.purpose, change.bytes]);
        return;
      case "data-key":
        this.#putConfig("data-key", "current", change.check);
        return;
      case "confirmed":
        this.#run("UPDATE jobs SET state='CONFIRMED' WHERE id=? AND state='COMMITTED'", [change.job]);
        return;
      case "receipt": {
        const { row } = change;
        this.#run("INSERT INTO receipts VALUES (?,?,?,?,?,?)", [
          row.account,
          row.index,
          row.job,
          row.attempt,
          row.node,
          row.countersign,
        ]);
        this.#run("UPDATE nodes SET jobs_committed=jobs_committed+1 WHERE node_id=?", [row.node]);
        return;
      }
      case "root":
        this.#putConfig("root", String(change.version), JSON.stringify(change.statement));
        return;
      case "delegation":
        this.#putConfig("delegation", "current", JSON.stringify(change.statement));
        return;
      case "release":
        this.#putConfig("release", String(change.sequence), JSON.stringify(change.statement));
        return;
      case "snapshot":
        this.#putConfig("snapshot", change.digest, change.text);
        return;
      default:
        change satisfies never;
    }
  }

  #putJob(row: JobRow): void {
    this.#run(
      `INSERT INTO jobs VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)
       ON CONFLICT (id) DO UPDATE SET state=excluded.state, attempt=excluded.attempt, node=excluded.node,
         finished_at=excluded.finished_at, outcome=excluded.outcome, error=excluded.error,
         relayed_bytes=excluded.relayed_bytes, prompt_tokens=excluded.prompt_tokens,
         completion_tokens=excluded.completion_tokens, http_status=excluded.http_status,
         end_code=excluded.end_code
       WHERE jobs.state IN ${unfinished}`,
      [
        row.id,
        row.consumer,
        row.model,
        row.stream ? 1 : 0,
        row.state,
        row.attempt,
        row.node,
        row.createdAt,
        row.finishedAt,
        row.outcome,
        row.error,
        row.relayedBytes,
        row.promptTokens,
        row.completionTokens,
        row.durable ? 1 : 0,
        row.httpStatus,
        row.endCode,
      ],
    );
  }

  #putAttempt({ job, attempt, node, token, failures, reasons }: Attempt): void {
    const newest = this.#run(
      `UPDATE jobs SET state='OFFERED', attempt=?1, node=?2 WHERE id=?3 AND attempt<?1 AND state IN ${unfinished}`,
      [attempt, node, job],
    );
    if (newest === 0) return;
    this.#run("INSERT OR REPLACE INTO attempts VALUES (?,?,?,?,?,?)", [
      job,
      attempt,
      node,
      token,
      failures,
      JSON.stringify(reasons),
    ]);
  }

  #putConfig(kind: string, name: string, body: string): void {
    this.#run("INSERT INTO config VALUES (?,?,?) ON CONFLICT (kind, name) DO UPDATE SET body=excluded.body", [
      kind,
      name,
      body,
    ]);
  }

  load(): Kept {
    const config = (sql: string): string | null => {
      const row = this.#all(sql)[0];
      return row ? text(row, "body") : null;
    };
    return {
      nodes: this.#nodes(),
      accounts: this.#all("SELECT * FROM accounts").map((row) => ({
        id: text(row, "id"),
        key: text(row, "key"),
      })),
      apiKeys: this.#all("SELECT sha256, consumer FROM apikeys").map((row) => ({
        sha256: text(row, "sha256"),
        consumer: text(row, "consumer"),
      })),
      chains: this.#all(
        `SELECT r.account, r.idx, r.countersign FROM accounts a JOIN receipts r
         ON r.account = a.id AND r.idx = (SELECT max(idx) FROM receipts WHERE account = a.id)`,
      ).map((row) => ({
        account: text(row, "account"),
        index: number(row, "idx"),
        countersign: text(row, "countersign"),
      })),
      root: statementOf(
        config("SELECT body FROM config WHERE kind='root' ORDER BY CAST(name AS INTEGER) DESC LIMIT 1"),
      ),
      delegation: statementOf(config("SELECT body FROM config WHERE kind='delegation'")),
      release: statementOf(
        config("SELECT body FROM config WHERE kind='release' ORDER BY CAST(name AS INTEGER) DESC LIMIT 1"),
      ),
      snapshots: this.#all("SELECT name, body FROM config WHERE kind='snapshot'").map((row) => ({
        digest: text(row, "name") as ConfigDigest,
        text: text(row, "body"),
      })),
      unfinished: this.#unfinished(),
      dataKey: config("SELECT body FROM config WHERE kind='data-key'"),
    };
  }

  #nodes(): NodeRow[] {
    const former = new Map<string, NodeRow["former"][number][]>();
    for (const row of this.#all("SELECT * FROM former_keys ORDER BY number")) {
      const key = { jwk: jwkOf(row), generation: number(row, "generation") };
      const node = text(row, "node_id");
      const before = former.get(node);
      if (before) before.push(key);
      else former.set(node, [key]);
    }
    return this.#all("SELECT * FROM nodes").map((row) => nodeOf(row, former.get(text(row, "node_id")) ?? []));
  }

  #unfinished(): UnfinishedJob[] {
    const where = `FROM jobs j JOIN submissions s ON s.job = j.id LEFT JOIN attempts a ON a.job = j.id
      WHERE j.durable = 1 AND j.state IN ${unfinished} ORDER BY j.created_at, j.id`;
    const submissions = this.#all(`SELECT s.* ${where}`);
    const attempts = this.#all(`SELECT a.* ${where}`);
    return this.#all(`SELECT j.* ${where}`).map((row, at) => {
      const submission = submissions[at];
      if (!submission) throw new StoreError("corrupt", `store: job ${text(row, "id")} has no submission`);
      const attempt = attempts[at];
      return {
        row: jobOf(row),
        submission: submissionOf(submission),
        attempt: attempt && attempt["job"] !== null ? attemptOf(attempt) : null,
      };
    });
  }

  cancelUnfinished(now: number, error: string): number {
    return this.#run(
      `UPDATE jobs SET state='CANCELLED', finished_at=?, error=? WHERE durable=0 AND state IN ${unfinished}`,
      [now, error],
    );
  }

  jobs({ state, consumer, durable, after, limit = 100 }: JobFilter): JobRow[] {
    const where: string[] = [];
    const values: SQLInputValue[] = [];
    const only = (condition: string, ...of: readonly SQLInputValue[]) => {
      where.push(condition);
      values.push(...of);
    };
    if (state !== undefined) only("state=?", state);
    if (consumer !== undefined) only("consumer=?", consumer);
    // Literal, so that the index of asynchronous jobs is seen to fit.
    if (durable !== undefined) only(`durable=${durable ? 1 : 0}`);
    if (after !== undefined) {
      const before = this.#all("SELECT created_at FROM jobs WHERE id=?", [after])[0];
      if (!before) return [];
      const at = number(before, "created_at");
      only("created_at<=? AND (created_at<? OR id>?)", at, at, after);
    }
    const narrowed = where.length === 0 ? "" : `WHERE ${where.join(" AND ")}`;
    return this.#all(`SELECT * FROM jobs ${narrowed} ORDER BY created_at DESC, id LIMIT ?`, [
      ...values,
      Math.min(limit, 10_000),
    ]).map(jobOf);
  }

  job(id: JobId): KeptJob | undefined {
    const row = this.#all("SELECT * FROM jobs WHERE id=?", [id])[0];
    if (!row) return undefined;
    const receipt = this.#all("SELECT * FROM receipts WHERE job=?", [id])[0];
    const submission = this.#all("SELECT * FROM submissions WHERE job=?", [id])[0];
    return {
      row: jobOf(row),
      receipt: receipt ? receiptOf(receipt) : null,
      submission: submission ? submissionOf(submission) : null,
    };
  }

  submitted(consumer: string, idempotency: string): KeptJob | undefined {
    const sql = "SELECT job FROM submissions WHERE consumer=? AND idempotency=?";
    const row = this.#all(sql, [consumer, idempotency])[0];
    return row && this.job(text(row, "job") as JobId);
  }

  body(job: JobId, purpose: BodyPurpose): Uint8Array | undefined {
    const bytes = this.#all("SELECT bytes FROM bodies WHERE job=? AND purpose=?", [job, purpose])[0]?.[
      "bytes"
    ];
    return bytes instanceof Uint8Array ? bytes : undefined;
  }

  receipts(account: string, from: number, limit: number): ReceiptRow[] {
    return this.#all("SELECT * FROM receipts WHERE account=? AND idx>=? ORDER BY idx LIMIT ?", [
      account,
      from,
      limit,
    ]).map(receiptOf);
  }

  /** Forgets at most `limit` jobs that ended before `before`; fewer means that none is left. */
  prune(before: number, limit: number): number {
    // What ended before was made before: so the index of the creation leads to the oldest, and no table is read whole.
    const over = `SELECT id FROM jobs WHERE created_at < ?1 AND finished_at < ?1 AND state NOT IN ${unfinished}
      ORDER BY created_at, id LIMIT ?2`;
    this.#db.exec("BEGIN IMMEDIATE");
    try {
      for (const table of ["bodies", "attempts", "submissions"])
        this.#run(`DELETE FROM ${table} WHERE job IN (${over})`, [before, limit]);
      const pruned = this.#run(`DELETE FROM jobs WHERE id IN (${over})`, [before, limit]);
      this.#db.exec("COMMIT");
      return pruned;
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec("ROLLBACK");
      throw error;
    }
  }

  close(): void {
    this.#db.close();
  }

  #prepare(sql: string): StatementSync {
    let statement = this.#prepared.get(sql);
    if (!statement) this.#prepared.set(sql, (statement = this.#db.prepare(sql)));
    return statement;
  }

  #run(sql: string, values: readonly SQLInputValue[]): number {
    return Number(this.#prepare(sql).run(...values).changes);
  }

  #all(sql: string, values: readonly SQLInputValue[] = []): Row[] {
    return this.#prepare(sql).all(...values);
  }
}

/** SQLITE_CONSTRAINT, with any extension in the upper bits. */
function isConstraint(error: unknown): boolean {
  const code: unknown = error instanceof Error && "errcode" in error ? error.errcode : undefined;
  return typeof code === "number" && (code & 0xff) === 19;
}

function statementOf(json: string | null): Statement | null {
  return json === null ? null : parseStatement(json, "stored statement");
}
