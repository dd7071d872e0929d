import { type Call, syncAfter, writtenBy } from "./strace.ts";

/** Size of the header before each page in a write-ahead log (SQLite file format, section 4.1). */
const frameHeaderBytes = 24;

/** A transaction that was written whole into the write-ahead log. */
export interface Transaction {
  /** Its pages as they are after it. */
  readonly pages: Buffer;
  /** The write of its last page, that which makes it a commit. */
  readonly end: Call;
  /** The sync that makes it durable; undefined = there was none (yet). */
  readonly sync: Call | undefined;
}

/**
 * Transactions of the database `db`, in order. A frame is a header and a page, each a write of its own; the header of a
 * transaction's last frame tells the database's size, the others 0.
 */
export function transactionsOf(calls: readonly Call[], db: string): readonly Transaction[] {
  const log = `${db}-wal`;
  const transactions: Transaction[] = [];
  let pages: Buffer[] = [];
  let last = false;
  for (const write of calls) {
    if (write.name !== "pwrite64" || write.file !== log) continue;
    const data = writtenBy(write);
    if (data.length === frameHeaderBytes) {
      last = data.readUInt32BE(4) !== 0;
      continue;
    }
    pages.push(data);
    if (!last) continue;
    transactions.push({ pages: Buffer.concat(pages), end: write, sync: syncAfter(calls, log, write) });
    pages = [];
    last = false;
  }
  return transactions;
}
