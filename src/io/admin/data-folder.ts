import {
  chmodSync,
  closeSync,
  existsSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { makeFolderNow, syncFolderNow } from "../../lib/folders.ts";
import { parseStatement } from "../../protocol/config/root.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import { generateKey, type SigningKey } from "../../protocol/keys.ts";
import { keyText, readKey, readText, writeNew } from "./key-files.ts";
import { CommandError } from "./command.ts";

/** Paths in the service's data folder. */
export const serviceKeyPath = (data: string): string => join(data, "service.jwk");
export const databasePath = (data: string): string => join(data, "io.db");
const waitingPath = (data: string, what: "root" | "delegation"): string => join(data, `${what}.json`);

/** Makes the folder if need be, private to its owner, and reads or makes the service's key. */
export function openDataFolder(data: string): SigningKey {
  makeFolderNow(data, 0o700);
  chmodSync(data, 0o700);
  // SQLite gives its other files the mode of the first one; account keys are in there.
  closeSync(openSync(databasePath(data), "a", 0o600));
  const path = serviceKeyPath(data);
  if (!existsSync(path)) writeNew(path, keyText(generateKey()), 0o600);
  return readKey(path);
}

/**
 * The key that encrypts inputs and outputs of asynchronous jobs: 32 bytes as base64url. Made where there is no file, but
 * not where `file` names one.
 * @throws {CommandError} that never repeats the key.
 */
export function openDataKey(data: string, file: string | undefined): Uint8Array {
  const path = file ?? join(data, "data.key");
  if (file === undefined && !existsSync(path))
    writeNew(path, `${randomBytes(32).toString("base64url")}\n`, 0o600);
  const text = readText(path).trim();
  const key = Buffer.from(text, "base64url");
  if (key.length !== 32 || key.toString("base64url") !== text)
    throw new CommandError("refused", `${path}: a data key is 32 bytes in base64url, 43 characters`);
  return key;
}

/** Leaves root and delegation for the service to take when it starts. */
export function writeOffline(
  data: string,
  { root, delegation }: { readonly root: Statement; readonly delegation: Statement },
): void {
  for (const [what, statement] of [
    ["root", root],
    ["delegation", delegation],
  ] as const) {
    const path = waitingPath(data, what);
    writeFileSync(`${path}.new`, JSON.stringify(statement), { mode: 0o600, flush: true });
    renameSync(`${path}.new`, path);
  }
  syncFolderNow(data);
}

/** What `io keys delegate` left while the service did not run; undefined = nothing. */
export function readOffline(
  data: string,
): { readonly root: Statement; readonly delegation: Statement } | undefined {
  const [root, delegation] = (["root", "delegation"] as const).map((what) => {
    const path = waitingPath(data, what);
    return existsSync(path) ? parseStatement(readFileSync(path, "utf8"), path) : undefined;
  });
  return root && delegation ? { root, delegation } : undefined;
}

/** The store has them now. */
export function removeOffline(data: string): void {
  rmSync(waitingPath(data, "root"), { force: true });
  rmSync(waitingPath(data, "delegation"), { force: true });
}
