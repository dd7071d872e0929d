/**
 * Writes a volume's files so that a reader sees all of the old or all of the new, as the kubelet does
 * (pkg/volume/util/atomic_writer.go): files live in a folder named by the time, `..data` is a symbolic link to it,
 * and each visible name is a link through `..data`. One rename of `..data` changes them all.
 */
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import type { Payload } from "./payload.ts";

/** Makes `folder`, which must exist, hold exactly `payload`. Returns whether anything changed. `group` may read. */
export function writeAtomically(folder: string, payload: Payload, group?: number): boolean {
  const link = join(folder, "..data");
  const old = targetOf(link);
  if (old !== undefined && sameContent(join(folder, old), payload)) return false;
  const stamp = new Date().toISOString().slice(0, 19).replace(/[-:T]/g, "_");
  const fresh = mkdtempSync(join(folder, `..${stamp}.`));
  chmodSync(fresh, 0o755);
  for (const [path, { content, mode }] of payload) {
    const file = join(fresh, path);
    mkdirSync(dirname(file), { recursive: true, mode: 0o755 });
    writeFileSync(file, content);
    if (group !== undefined) chownSync(file, -1, group);
    chmodSync(file, group === undefined ? mode : mode | 0o440);
  }
  const pending = join(folder, "..data_tmp");
  rmSync(pending, { force: true });
  symlinkSync(fresh.slice(folder.length + 1), pending);
  renameSync(pending, link);
  const visible = new Set([...payload.keys()].map((path) => path.split("/")[0] ?? path));
  for (const name of readdirSync(folder)) {
    if (!name.startsWith("..") && !visible.has(name)) rmSync(join(folder, name), { force: true });
  }
  for (const name of visible) {
    if (targetOf(join(folder, name)) === undefined) symlinkSync(join("..data", name), join(folder, name));
  }
  if (old !== undefined) rmSync(join(folder, old), { recursive: true, force: true });
  return true;
}

function targetOf(link: string): string | undefined {
  try {
    return lstatSync(link).isSymbolicLink() ? readlinkSync(link) : undefined;
  } catch {
    return undefined;
  }
}

function sameContent(folder: string, payload: Payload): boolean {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) =>
    entry.isFile(),
  );
  if (files.length !== payload.size) return false;
  for (const [path, { content }] of payload) {
    try {
      if (!readFileSync(join(folder, path)).equals(content)) return false;
    } catch {
      return false;
    }
  }
  return true;
}
