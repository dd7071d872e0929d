import { type Call, syncAfter, writtenBy } from "./strace.ts";

/** Size of the header before each page in a write-ahead log (SQLite file format, section 4.1). */
const frameHeaderBytes = 24;

/** A transaction that went into the write-ahead log. */
export interface WalCommit {
  /** The write of its last page, that which makes it a commit. */
  readonly end: Call;
  /** The sync that makes it durable; undefined = there was none (yet). */
  readonly sync: Call | undefined;
}

/**
 * The first transaction of the database `db` one of whose pages holds `bytes`. Undefined = none has been written whole.
 * A frame is a header and a page, each a write of its own; the header of a transaction's last frame tells the
 * database's size, the others 0.
 */
export function walCommitOf(
  calls: readonly Call[],
  db: string,
  bytes: string | Buffer,
): WalCommit | undefined {
  const log = `${db}-wal`;
  const writes = calls.filter(({ name, file }) => name === "pwrite64" && file === log);
  let found = false;
  let last = false;
  for (const write of writes) {
    const data = writtenBy(write);
    if (data.length === frameHeaderBytes) {
      last = data.readUInt32BE(4) !== 0;
      continue;
    }
    found ||= data.includes(bytes);
    if (last && found) return { end: write, sync: syncAfter(calls, log, write) };
  }
  return undefined;
}
