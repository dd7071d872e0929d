import { constants, watch } from "node:fs";
import { open, readdir, readFile, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { makeFolder, syncFolder } from "../../lib/folders.ts";
import type { Files } from "../ports.ts";

const hasCode = (thrown: unknown, ...codes: readonly string[]): boolean =>
  thrown instanceof Error && "code" in thrown && codes.includes(String(thrown.code));

const isMissing = (thrown: unknown): boolean => hasCode(thrown, "ENOENT", "ENOTDIR");

/** Reads a file of somebody else: without following a link, waiting for a writer, or taking more than `most` bytes. */
async function readForeign(path: string, most: number): Promise<Buffer | undefined> {
  let file: Awaited<ReturnType<typeof open>>;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (thrown) {
    // ELOOP: a link. ENXIO: a socket.
    if (isMissing(thrown) || hasCode(thrown, "ELOOP", "ENXIO")) return undefined;
    throw thrown;
  }
  try {
    if (!(await file.stat()).isFile()) return undefined;
    const { buffer, bytesRead } = await file.read(Buffer.alloc(most + 1), 0, most + 1, 0);
    return bytesRead > most ? undefined : buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Files of the machine. */
export const diskFiles: Files = {
  async read(path, most) {
    if (most !== undefined) return readForeign(path, most);
    try {
      return await readFile(path);
    } catch (thrown) {
      if (isMissing(thrown)) return undefined;
      throw thrown;
    }
  },

  async write(path, content, mode = 0o600) {
    const dir = dirname(path);
    await makeFolder(dir);
    const temporary = join(dir, `.${basename(path)}.new`);
    try {
      const file = await open(temporary, "w", mode);
      try {
        await file.writeFile(content);
        // The umask has taken bits that the launcher's user needs.
        await file.chmod(mode);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
    } catch (thrown) {
      // On a full disk the half that was written would keep it full.
      await rm(temporary, { force: true }).catch(() => undefined);
      throw thrown;
    }
    await syncFolder(dir);
  },

  async list(path) {
    try {
      return await readdir(path);
    } catch (thrown) {
      if (isMissing(thrown)) return [];
      throw thrown;
    }
  },

  remove: (path) => rm(path, { recursive: true, force: true }),

  watch(path, changed) {
    try {
      const watcher = watch(path, { persistent: false }, () => changed());
      watcher.on("error", () => watcher.close());
      return () => watcher.close();
    } catch {
      // No such folder, or no more watches: whoever asked polls as well.
      return () => {};
    }
  },
};
