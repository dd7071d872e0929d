import type { Files } from "../../src/agent/ports.ts";
import type { Dice } from "./random.ts";
import type { SimProcess } from "./process.ts";

/**
 * A node's disk. What is on it survives any crash. A write takes its time; it is durable when it resolves, as the port
 * promises; of one that a crash meets under way, chance decides whether it has got as far as the rename.
 */
export class SimDisk {
  readonly content = new Map<string, Buffer>();
  readonly #dice: Dice;
  /** Every write fails (ENOSPC). */
  full = false;
  /** Added to each write, ms. */
  slowMs = 0;
  /** Told of each change that is now durable; `content` undefined = removed. */
  onChange: (path: string, content: Buffer | undefined) => void = () => {};

  constructor(dice: Dice) {
    this.#dice = dice;
  }

  /** The disk as one process sees it. */
  open(process: SimProcess): Files {
    const change = (label: string, apply: () => void): Promise<void> =>
      new Promise((resolve, reject) => {
        if (!process.alive) return;
        const stop = process.onDeath(() => {
          if (this.#dice.chance(0.5)) apply();
        });
        process.plan(this.#dice.between(0.05, 4) + this.slowMs, label, () => {
          stop();
          if (this.full && label.startsWith("write"))
            return reject(new Error("ENOSPC: no space left on device"));
          apply();
          resolve();
        });
      });
    return {
      read: (path, most) => {
        const bytes = this.content.get(path);
        return Promise.resolve(bytes && most !== undefined && bytes.length > most ? undefined : bytes);
      },
      write: (path, content) => {
        const bytes = Buffer.from(content);
        return change(`write ${path}`, () => this.set(path, bytes));
      },
      list: (path) => Promise.resolve(this.list(path)),
      remove: (path) =>
        change(`remove ${path}`, () => {
          for (const name of this.content.keys())
            if (name === path || name.startsWith(`${path}/`)) this.set(name, undefined);
        }),
      watch: () => () => {},
    };
  }

  /** Changes a file, durably and at once. */
  set(path: string, content: Buffer | undefined): void {
    if (content) this.content.set(path, content);
    else this.content.delete(path);
    this.onChange(path, content);
  }

  /** Loses folders with all that is in them, as a pod's own volumes go with it. */
  wipe(paths: readonly string[]): void {
    for (const name of this.content.keys())
      if (paths.some((path) => name.startsWith(`${path}/`))) this.set(name, undefined);
  }

  list(path: string): string[] {
    const names = new Set<string>();
    for (const name of this.content.keys())
      if (name.startsWith(`${path}/`)) names.add(name.slice(path.length + 1).split("/")[0] ?? "");
    return [...names];
  }

  text(path: string): string | undefined {
    return this.content.get(path)?.toString("utf8");
  }
}
