import { constants, createReadStream } from "node:fs";
import { chmod, lstat, mkdir, open, readdir, rename, rm, stat, statfs, utimes } from "node:fs/promises";
import { dirname, join } from "node:path";
import { syncFolder } from "../../lib/folders.ts";
import type { ModelDisk } from "../models/world.ts";

const hasCode = (thrown: unknown, ...codes: readonly string[]): boolean =>
  thrown instanceof Error && "code" in thrown && codes.includes(String(thrown.code));

/** The engine, of another user, reads the files. */
const folderMode = 0o755;
const fileMode = 0o644;
const readBytes = 1024 * 1024;

/** SQLITE_BUSY. */
const busyCode = 5;

async function makeFolder(path: string): Promise<void> {
  const first = await mkdir(path, { recursive: true, mode: folderMode }).catch(async (thrown: unknown) => {
    // Of a read-only file system Node's recursive mkdir says ENOENT; the plain one says what is wrong.
    if (hasCode(thrown, "ENOENT")) await mkdir(await firstMissing(path), { mode: folderMode });
    throw thrown;
  });
  if (first === undefined) return;
  // The umask may have taken what the engine's user needs.
  for (let at = path; at.length >= first.length; at = dirname(at)) await chmod(at, folderMode);
}

/** The topmost folder of `path` that is not there. */
async function firstMissing(path: string): Promise<string> {
  const isThere = async (folder: string) => (await lstat(folder).catch(() => undefined)) !== undefined;
  let at = path;
  while (!(await isThere(dirname(at)))) at = dirname(at);
  return at;
}

/** Folders and files of the machine, for models. */
export const modelDisk: ModelDisk = {
  async stat(path) {
    try {
      const seen = await lstat(path);
      return seen.isFile() ? { size: seen.size, mtimeMs: seen.mtimeMs } : undefined;
    } catch (thrown) {
      if (hasCode(thrown, "ENOENT", "ENOTDIR")) return undefined;
      throw thrown;
    }
  },

  async usage(path) {
    let bytes = 0;
    const missing = (thrown: unknown) => {
      if (hasCode(thrown, "ENOENT", "ENOTDIR")) return undefined;
      throw thrown;
    };
    // A link, which others who write the folder may make, would have all of the disk counted.
    if (!(await lstat(path).catch(missing))?.isDirectory()) return 0;
    const entries = (await readdir(path, { withFileTypes: true }).catch(missing)) ?? [];
    for (const entry of entries) {
      const at = join(path, entry.name);
      if (entry.isDirectory()) bytes += await modelDisk.usage(at);
      else if (entry.isFile()) bytes += (await modelDisk.stat(at))?.size ?? 0;
    }
    return bytes;
  },

  async free(path) {
    const { bavail, bsize } = await statfs(path);
    return bavail * bsize;
  },

  async writable(path) {
    // A name of its own: another agent may be asking the same.
    const probe = join(path, `.probe-${process.pid}-${Math.random().toString(36).slice(2)}`);
    try {
      await makeFolder(path);
      await (await open(probe, "wx")).close();
      await rm(probe);
      return true;
    } catch (thrown) {
      if (hasCode(thrown, "EROFS", "EACCES", "EPERM")) return false;
      throw thrown;
    }
  },

  read: (path) => createReadStream(path, { highWaterMark: readBytes }),

  async append(path, from) {
    await makeFolder(dirname(path));
    // Not O_APPEND, and no link is followed: only files of ours are written.
    const file = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_NOFOLLOW, fileMode);
    try {
      await file.chmod(fileMode);
      await file.truncate(from);
    } catch (thrown) {
      await file.close();
      throw thrown;
    }
    let at = from;
    return {
      async write(bytes) {
        for (let done = 0; done < bytes.length; ) {
          const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at);
          done += bytesWritten;
          at += bytesWritten;
        }
      },
      async finish() {
        try {
          await file.sync();
        } finally {
          await file.close();
        }
      },
      close: () => file.close(),
    };
  },

  async move(from, to) {
    await makeFolder(dirname(to));
    await rename(from, to);
    await syncFolder(dirname(to));
  },

  async changedAt(path) {
    try {
      return (await stat(path)).mtimeMs;
    } catch (thrown) {
      if (hasCode(thrown, "ENOENT", "ENOTDIR")) return undefined;
      throw thrown;
    }
  },

  async touch(path) {
    const now = new Date();
    await utimes(path, now, now);
  },

  /**
   * By SQLite, which takes POSIX advisory locks: the kernel gives them up with the process, also after SIGKILL, across
   * containers that mount the same folder. Node has no other way to take one. The database stays empty. Nothing else may
   * open the file, since closing it anywhere in the process would give the lock up (fcntl(2)).
   */
  async lock(path, how) {
    await makeFolder(dirname(path));
    // Others who write the folder must not have SQLite follow a link, or roll back what they call its journal.
    const there = await lstat(path).catch((thrown: unknown) => {
      if (hasCode(thrown, "ENOENT")) return undefined;
      throw thrown;
    });
    if (there && !(there.isFile() && there.size === 0))
      throw new Error("it is not the empty file that agents make of it: remove it");
    const { DatabaseSync } = await import("node:sqlite");
    const database = new DatabaseSync(path);
    try {
      // Else a file of its own stays behind where the process was killed.
      database.exec("PRAGMA journal_mode = MEMORY");
      if (how === "exclusive") database.exec("BEGIN EXCLUSIVE");
      else {
        database.exec("BEGIN");
        database.prepare("SELECT count(*) FROM sqlite_master").get();
      }
    } catch (thrown) {
      database.close();
      if (thrown instanceof Error && "errcode" in thrown && thrown.errcode === busyCode) return undefined;
      throw thrown;
    }
    let held = true;
    return {
      release() {
        if (held) database.close();
        held = false;
      },
    };
  },
};
