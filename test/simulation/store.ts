import { MemoryStore } from "../../src/io/store/memory.ts";
import { type Change, type Store, StoreError } from "../../src/io/store/port.ts";
import type { Dice } from "./random.ts";
import type { SimProcess } from "./process.ts";

/** Told of what happens to the store's disk. */
export interface StoreWatcher {
  /** Asked for, not durable yet. */
  asked(changes: readonly Change[]): void;
  durable(changes: readonly Change[]): void;
}

interface Write {
  readonly changes: readonly Change[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

/**
 * The disk under the service's store, with sync points: what was asked for is durable when a commit has got through, and
 * only then is it told. A crash drops what waits; of the one commit under way it keeps all or nothing, as chance has it.
 */
export class StoreDisk {
  readonly kept = new MemoryStore();
  readonly #receipts = new Set<string>();
  readonly dice: Dice;
  readonly watcher: StoreWatcher;
  /** Commits do not get through. */
  away = false;
  /** Added to each commit, ms. */
  slowMs = 0;

  constructor(dice: Dice, watcher: StoreWatcher) {
    this.dice = dice;
    this.watcher = watcher;
  }

  /** A write is on the disk. */
  noteDurable(changes: readonly Change[]): void {
    for (const change of changes) if (change.put === "receipt") this.#receipts.add(change.row.countersign);
    this.watcher.durable(changes);
  }

  hasReceipt(countersign: string): boolean {
    return this.#receipts.has(countersign);
  }

  open(process: SimProcess): Store {
    return new OpenStore(this, process);
  }
}

const retryMs = 250;

class OpenStore implements Store {
  readonly #disk: StoreDisk;
  readonly #process: SimProcess;
  #waiting: Write[] = [];
  #committing = false;
  #closed = false;
  healthy = true;

  constructor(disk: StoreDisk, process: SimProcess) {
    this.#disk = disk;
    this.#process = process;
  }

  write(changes: readonly Change[]): Promise<void> {
    if (this.#closed) return Promise.reject(new StoreError("unavailable", "store is closed"));
    this.#disk.watcher.asked(changes);
    return new Promise((resolve, reject) => {
      this.#waiting.push({ changes, resolve, reject });
      if (!this.#committing) this.#commit();
    });
  }

  #commit(): void {
    this.#committing = true;
    const batch: Write[] = [];
    const { dice } = this.#disk;
    const stop = this.#process.onDeath(() => {
      if (batch.length > 0 && !this.#disk.away && dice.chance(0.5)) void this.#apply(batch, false);
    });
    const attempt = () => {
      // What came while the disk was away goes with it.
      batch.push(...this.#waiting.splice(0));
      this.#process.plan(this.#syncMs, "sync", () => {
        this.healthy = !this.#disk.away;
        if (this.#disk.away) return void this.#process.plan(retryMs, "", attempt);
        stop();
        void this.#commitNow(batch);
      });
    };
    this.#process.plan(0.01, "", attempt);
  }

  async #commitNow(batch: readonly Write[]): Promise<void> {
    await this.#apply(batch, true);
    this.#committing = false;
    if (this.#waiting.length > 0) this.#commit();
  }

  get #syncMs(): number {
    return this.#disk.dice.between(0.2, 3) + this.#disk.slowMs;
  }

  async #apply(batch: readonly Write[], tell: boolean): Promise<void> {
    const { kept } = this.#disk;
    const told: (() => void)[] = [];
    for (const { changes, resolve, reject } of batch) {
      try {
        await kept.write(changes);
        this.#disk.noteDurable(changes);
        told.push(resolve);
      } catch (error) {
        told.push(() => reject(error));
      }
    }
    if (tell) for (const tellIt of told) tellIt();
  }

  /** Reads what is on the disk, after the commit that is under way. */
  #ask<T>(read: () => Promise<T>): Promise<T> {
    if (this.#closed) return Promise.reject(new StoreError("unavailable", "store is closed"));
    return new Promise((resolve, reject) => {
      this.#process.plan(
        this.#disk.dice.between(0.05, 0.4),
        "store read",
        () => void read().then(resolve, reject),
      );
    });
  }

  load(): ReturnType<Store["load"]> {
    return this.#ask(() => this.#disk.kept.load());
  }

  cancelUnfinished(now: number, error: string): Promise<number> {
    return this.#ask(() => this.#disk.kept.cancelUnfinished(now, error));
  }

  jobs(filter: Parameters<Store["jobs"]>[0]): ReturnType<Store["jobs"]> {
    return this.#ask(() => this.#disk.kept.jobs(filter));
  }

  job(id: Parameters<Store["job"]>[0]): ReturnType<Store["job"]> {
    return this.#ask(() => this.#disk.kept.job(id));
  }

  submitted(...of: Parameters<Store["submitted"]>): ReturnType<Store["submitted"]> {
    return this.#ask(() => this.#disk.kept.submitted(...of));
  }

  body(...of: Parameters<Store["body"]>): ReturnType<Store["body"]> {
    return this.#ask(() => this.#disk.kept.body(...of));
  }

  receipts(...of: Parameters<Store["receipts"]>): ReturnType<Store["receipts"]> {
    return this.#ask(() => this.#disk.kept.receipts(...of));
  }

  prune(before: number): Promise<number> {
    return this.#ask(() => this.#disk.kept.prune(before));
  }

  async close(): Promise<void> {
    while (this.#committing) await this.#ask(() => Promise.resolve());
    this.#closed = true;
  }
}
