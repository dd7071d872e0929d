import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as wait } from "node:timers/promises";

/** A held lock. */
export interface BuildLock {
  /** Frees it; may be called again. */
  release(): void;
}

/** SQLITE_BUSY of https://sqlite.org/rescode.html. */
const busy = 5;

/**
 * Takes a lock that other processes of this machine respect, waiting as long as another holds it. It is SQLite's
 * lock on a file, so the kernel frees it with the process that held it, however that one ended: there are no stale
 * locks.
 *
 * @param path file of the lock; made with its folder when missing, and left behind
 * @param onWait called once when the lock is not free at once
 */
export async function takeBuildLock(path: string, onWait: () => void = () => {}): Promise<BuildLock> {
  mkdirSync(dirname(path), { recursive: true });
  let waited = false;
  for (;;) {
    const database = new DatabaseSync(path);
    try {
      database.exec("BEGIN EXCLUSIVE");
      return {
        release() {
          if (database.isOpen) database.close();
        },
      };
    } catch (thrown) {
      database.close();
      if (!(thrown instanceof Error && "errcode" in thrown && thrown.errcode === busy)) throw thrown;
    }
    if (!waited) onWait();
    waited = true;
    await wait(200);
  }
}
