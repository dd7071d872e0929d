import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { bookDefaults, bookFiles, type BookLimits, ReceiptBook } from "../../../src/agent/receipts/book.ts";
import { parseLine } from "../../../src/agent/receipts/line.ts";
import { silentLogger } from "../../../src/lib/logger.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { MadeReceipts } from "./made.ts";

let dir: string;
let clock: FakeClock;
let made: MadeReceipts;
beforeEach(() => {
  dir = join(mkdtempSync(join(tmpdir(), "receipts-")), "kept");
  clock = new FakeClock();
  made = new MadeReceipts();
});
afterEach(() => rmSync(join(dir, ".."), { recursive: true }));

const book = (limits: Partial<BookLimits> = {}) =>
  new ReceiptBook(dir, clock, silentLogger, { ...bookDefaults, ...limits });
const lines = async () => (await bookFiles(dir)).map((path) => readFileSync(path, "utf8").trim().split("\n"));
const kinds = async () => (await lines()).map((file) => file.map((line) => parseLine(line).is));

describe("receipts on disk", () => {
  it("are there after the batch time, under the delegation of their time, for their owner alone", async () => {
    const kept = book();
    kept.delegated(made.network.delegation(clock.now()));
    kept.delegated(made.network.delegation(clock.now()));
    kept.keep(made.next());
    kept.keep(made.next());
    expect(readdirSync(join(dir, ".."))).toEqual([]);
    clock.advance(bookDefaults.batchMs);
    await kept.close();
    expect(await kinds()).toEqual([["delegation", "receipt", "receipt"]]);
    const [path = ""] = await bookFiles(dir);
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  it("are appended to by the next process, which cuts a torn line off", async () => {
    const first = book();
    first.keep(made.next());
    await first.close();
    const [path = ""] = await bookFiles(dir);
    const whole = readFileSync(path, "utf8");
    appendFileSync(path, whole.slice(0, 100));
    const second = book();
    second.keep(made.next());
    await second.close();
    expect(await kinds()).toEqual([["receipt", "receipt"]]);
    expect(readFileSync(path, "utf8").startsWith(whole)).toBe(true);
  });

  it("a file that is nothing but a torn line begins anew", async () => {
    await book().close();
    const kept = book();
    kept.keep(made.next());
    await kept.close();
    const [path = ""] = await bookFiles(dir);
    writeFileSync(path, "x".repeat(200_000));
    const again = book();
    again.keep(made.next());
    await again.close();
    expect(await kinds()).toEqual([["receipt"]]);
  });

  it("are bounded: a full file is followed by another that begins with the delegation, and the oldest goes", async () => {
    const kept = book({ fileBytes: 6_000, files: 3 });
    kept.delegated(made.network.delegation(clock.now()));
    for (let count = 0; count < 20; count++) {
      kept.keep(made.next());
      await clock.advanceAsync(bookDefaults.batchMs);
      // Each in a batch of its own.
      await kept.settled();
    }
    await kept.close();
    const files = await kinds();
    expect(files).toHaveLength(3);
    for (const [first, ...rest] of files) {
      expect(first).toBe("delegation");
      expect(new Set(rest)).toEqual(new Set(["receipt"]));
    }
    for (const path of await bookFiles(dir)) expect(statSync(path).size).toBeLessThan(8_000);
  });

  it("wait in memory while the disk refuses, and are written when it takes them again", async () => {
    // A file stands where the folder should be.
    writeFileSync(dir, "");
    const kept = book();
    kept.keep(made.next());
    await clock.advanceAsync(bookDefaults.batchMs);
    await kept.settled();
    rmSync(dir);
    kept.keep(made.next());
    await clock.advanceAsync(10_000);
    await kept.settled();
    expect(await kinds()).toEqual([["receipt", "receipt"]]);
    await kept.close();
  });
});
