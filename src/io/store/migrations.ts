import type { DatabaseSync } from "node:sqlite";
import { StoreError } from "./port.ts";

/** Statements by schema version: entry n takes a database from version n to n + 1. Entries are never changed, only added. */
const migrations: readonly string[] = [
  `
  CREATE TABLE nodes (
    node_id TEXT PRIMARY KEY, kid TEXT NOT NULL UNIQUE, x TEXT NOT NULL, account TEXT NOT NULL,
    registered_at INTEGER NOT NULL, http_seq INTEGER NOT NULL, epoch INTEGER NOT NULL,
    release_sequence INTEGER NOT NULL, banned TEXT, jobs_committed INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE accounts (id TEXT PRIMARY KEY, key TEXT NOT NULL) STRICT, WITHOUT ROWID;
  CREATE TABLE apikeys (
    sha256 TEXT PRIMARY KEY, consumer TEXT NOT NULL, created_at INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE jobs (
    id TEXT PRIMARY KEY, consumer TEXT NOT NULL, model TEXT NOT NULL, stream INTEGER NOT NULL, state TEXT NOT NULL,
    attempt INTEGER NOT NULL, node TEXT, created_at INTEGER NOT NULL, finished_at INTEGER, outcome TEXT, error TEXT,
    relayed_bytes INTEGER NOT NULL, prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE INDEX jobs_created ON jobs (created_at);
  CREATE INDEX jobs_unfinished ON jobs (state) WHERE state IN ('QUEUED','OFFERED','RUNNING','RESULT_RECEIVED');
  CREATE TABLE receipts (
    account TEXT NOT NULL, idx INTEGER NOT NULL, job TEXT NOT NULL UNIQUE, attempt INTEGER NOT NULL,
    node TEXT NOT NULL, countersign TEXT NOT NULL, PRIMARY KEY (account, idx)
  ) STRICT;
  CREATE TABLE config (
    kind TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, PRIMARY KEY (kind, name)
  ) STRICT, WITHOUT ROWID;
  `,
  // Asynchronous jobs. Of their attempts only the newest is kept. Bodies are as the service has encrypted them.
  `
  ALTER TABLE jobs ADD COLUMN durable INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE jobs ADD COLUMN http_status INTEGER;
  ALTER TABLE jobs ADD COLUMN end_code TEXT;
  CREATE INDEX jobs_of_consumer ON jobs (consumer, created_at DESC, id) WHERE durable=1;
  CREATE TABLE submissions (
    job TEXT PRIMARY KEY, consumer TEXT NOT NULL, idempotency TEXT, input_sha256 TEXT NOT NULL,
    input_bytes INTEGER NOT NULL, deadline INTEGER NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE UNIQUE INDEX submissions_idempotency ON submissions (consumer, idempotency) WHERE idempotency IS NOT NULL;
  CREATE TABLE attempts (
    job TEXT PRIMARY KEY, attempt INTEGER NOT NULL, node TEXT NOT NULL, token TEXT NOT NULL,
    failures INTEGER NOT NULL, reasons TEXT NOT NULL
  ) STRICT, WITHOUT ROWID;
  CREATE TABLE bodies (
    job TEXT NOT NULL, purpose TEXT NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (job, purpose)
  ) STRICT;
  `,
  // Keys that are rolled over, revoked and granted. A key that a node has had is never another's.
  `
  ALTER TABLE nodes ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE nodes ADD COLUMN revoked INTEGER NOT NULL DEFAULT 0;
  CREATE TABLE former_keys (
    number INTEGER PRIMARY KEY, node_id TEXT NOT NULL, kid TEXT NOT NULL UNIQUE, x TEXT NOT NULL,
    generation INTEGER NOT NULL
  ) STRICT;
  `,
];

/** Version that this build reads and writes. */
export const schemaVersion = migrations.length;

/**
 * Brings a database to {@link schemaVersion}, each step in a transaction of its own.
 * @throws {StoreError} `corrupt` when a newer build has written it.
 */
export function migrate(db: DatabaseSync): void {
  const row = db.prepare("PRAGMA user_version").get();
  const version = Number(row?.["user_version"] ?? 0);
  if (version > schemaVersion) {
    throw new StoreError(
      "corrupt",
      `store has schema version ${version}, this build knows ${schemaVersion}: run the build that wrote it, or a newer one`,
    );
  }
  for (let at = version; at < schemaVersion; at++) {
    db.exec("BEGIN IMMEDIATE");
    db.exec(migrations[at] ?? "");
    db.exec(`PRAGMA user_version = ${at + 1}`);
    db.exec("COMMIT");
  }
}
