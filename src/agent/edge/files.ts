import { watch } from "node:fs";
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Files } from "../ports.ts";

const isMissing = (thrown: unknown): boolean =>
  thrown instanceof Error && "code" in thrown && (thrown.code === "ENOENT" || thrown.code === "ENOTDIR");

/** Files of the machine. */
export const diskFiles: Files = {
  async read(path) {
    try {
      return await readFile(path);
    } catch (thrown) {
      if (isMissing(thrown)) return undefined;
      throw thrown;
    }
  },

  async write(path, content, mode = 0o600) {
    const dir = dirname(path);
    await mkdir(dir, { recursive: true });
    const temporary = join(dir, `.${basename(path)}.new`);
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
    const folder = await open(dir, "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
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
