import { type FileHandle, open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Clock, Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import { makeFolder, syncFolder } from "../../lib/folders.ts";
import type { Logger } from "../../lib/logger.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import type { ReceiptKeeper } from "./keeper.ts";
import { delegationLine, receiptLine } from "./line.ts";

/** How much is kept, and how long a receipt may wait for the disk. */
export interface BookLimits {
  /** Bytes after which the next file begins. */
  readonly fileBytes: number;
  /** Files that are kept; the oldest goes when one more begins. */
  readonly files: number;
  /** Time over which receipts are collected for one fsync, ms. */
  readonly batchMs: number;
}

/** About half a million receipts; a quarter of a second of them is lost with a power cut, which IO still has. */
export const bookDefaults: BookLimits = { fileBytes: 32 * 1024 * 1024, files: 32, batchMs: 250 };

/** Lines that wait while the disk cannot be written; older ones are given up. */
const maxWaiting = 10_000;
const retryMs = 5_000;

const filePattern = /^receipts-(\d{8})\.jsonl$/;
const nameOf = (number: number): string => `receipts-${String(number).padStart(8, "0")}.jsonl`;

/** Paths of the files of a folder, oldest first. */
export async function bookFiles(dir: string): Promise<readonly string[]> {
  return (await numbersIn(dir)).map((number) => join(dir, nameOf(number)));
}

async function numbersIn(dir: string): Promise<readonly number[]> {
  const names = await readdir(dir);
  const numbers = names.map((name) => Number(filePattern.exec(name)?.[1] ?? 0));
  return numbers.filter((number) => number > 0).toSorted((a, b) => a - b);
}

interface OpenFile {
  readonly handle: FileHandle;
  readonly number: number;
  size: number;
}

/**
 * Receipts on disk: files of lines to which is only appended, one fsync a batch. Each file begins with the delegation of
 * that time, so it can be verified by itself.
 */
export class ReceiptBook implements ReceiptKeeper {
  readonly #dir: string;
  readonly #clock: Clock;
  readonly #log: Logger;
  readonly #limits: BookLimits;
  #waiting: string[] = [];
  #given: Statement | undefined;
  /** Delegation under which what is written was signed. */
  #head: string | undefined;
  #file: OpenFile | undefined;
  #timer: Timer | undefined;
  #work: Promise<void> = Promise.resolve();
  #failed = false;
  #lost = 0;

  constructor(dir: string, clock: Clock, log: Logger, limits: BookLimits = bookDefaults) {
    this.#dir = dir;
    this.#clock = clock;
    this.#log = log;
    this.#limits = limits;
  }

  delegated(delegation: Statement): void {
    if (JSON.stringify(delegation) === JSON.stringify(this.#given)) return;
    this.#given = delegation;
    this.#add(delegationLine(delegation, this.#clock.now()));
  }

  keep(countersign: string): void {
    this.#add(receiptLine(countersign, this.#clock.now()));
  }

  /** Resolves when what is being written is written, or could not be. */
  settled(): Promise<void> {
    return this.#work;
  }

  /** Writes what waits and closes the file. What cannot be written now is given up. */
  async close(): Promise<void> {
    this.#timer?.cancel();
    await this.#flushNow();
    this.#timer?.cancel();
    await this.#shut();
  }

  #add(line: string): void {
    this.#waiting.push(line);
    if (this.#waiting.length > maxWaiting) {
      this.#waiting.shift();
      this.#lost++;
    }
    this.#timer ??= this.#clock.setTimer(() => void this.#flushNow(), this.#limits.batchMs);
  }

  #flushNow(): Promise<void> {
    this.#timer = undefined;
    this.#work = this.#work.then(() => this.#flush());
    return this.#work;
  }

  async #flush(): Promise<void> {
    const lines = this.#waiting;
    if (lines.length === 0) return;
    this.#waiting = [];
    try {
      await this.#write(lines);
      if (this.#failed) this.#log.info({ lost: this.#lost }, "receipts can be kept again");
      this.#failed = false;
      this.#lost = 0;
    } catch (thrown) {
      await this.#shut().catch(() => undefined);
      this.#waiting = [...lines, ...this.#waiting];
      if (!this.#failed)
        this.#log.error(
          { dir: this.#dir, why: messageOf(thrown) },
          "receipts cannot be written; they wait in memory, and IO has them too (io receipts export)",
        );
      this.#failed = true;
      this.#timer ??= this.#clock.setTimer(() => void this.#flushNow(), retryMs);
    }
  }

  async #write(lines: readonly string[]): Promise<void> {
    let file = this.#file ?? (await this.#begin(undefined));
    const text = lines.join("");
    if (file.size > 0 && file.size + text.length > this.#limits.fileBytes) {
      await this.#shut();
      file = await this.#begin(file.number + 1);
    }
    const head = file.size === 0 && this.#head !== undefined ? this.#head : "";
    const bytes = Buffer.from(head + text);
    await file.handle.appendFile(bytes);
    await file.handle.datasync();
    file.size += bytes.length;
    this.#head = lines.findLast((line) => line.includes('"delegation":')) ?? this.#head;
  }

  /** Opens the newest file, or makes `number`. A line that a crash has torn is cut off: nobody was told that it is kept. */
  async #begin(number: number | undefined): Promise<OpenFile> {
    await makeFolder(this.#dir, 0o700);
    const known = await numbersIn(this.#dir);
    const taken = number ?? known.at(-1) ?? 1;
    const path = join(this.#dir, nameOf(taken));
    const handle = await open(path, "a+", 0o600);
    try {
      const size = await cutTornLine(handle);
      if (!known.includes(taken)) await syncFolder(this.#dir);
      this.#file = { handle, number: taken, size };
    } catch (thrown) {
      await handle.close();
      throw thrown;
    }
    for (const old of known.filter((each) => each <= taken - this.#limits.files))
      await rm(join(this.#dir, nameOf(old)), { force: true });
    return this.#file;
  }

  async #shut(): Promise<void> {
    const file = this.#file;
    this.#file = undefined;
    await file?.handle.close();
  }
}

/** Cuts what follows the last newline; gives the size that is left. */
async function cutTornLine(handle: FileHandle): Promise<number> {
  const { size } = await handle.stat();
  const step = 64 * 1024;
  for (let end = size; end > 0; end -= step) {
    const from = Math.max(0, end - step);
    const { buffer } = await handle.read(Buffer.alloc(end - from), 0, end - from, from);
    const newline = buffer.lastIndexOf(0x0a);
    if (newline < 0) continue;
    const whole = from + newline + 1;
    if (whole < size) await handle.truncate(whole);
    return whole;
  }
  if (size > 0) await handle.truncate(0);
  return 0;
}
