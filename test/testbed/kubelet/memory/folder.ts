/** Folders in memory, and the view of them that a container has through its mounts. */
import { isAbsolute, join, normalize, relative } from "node:path";
import { diskFiles } from "../../../../src/agent/edge/files.ts";
import type { FilesInMemory } from "./life.ts";

/** Files of one volume, by path relative to it. */
export class MemoryFolder {
  readonly #files = new Map<string, Buffer>();
  readonly #watchers = new Set<(path: string) => void>();

  read(path: string): Buffer | undefined {
    return this.#files.get(path);
  }

  write(path: string, content: Buffer): void {
    this.#files.set(path, content);
    this.#tell(path);
  }

  /** Names in the folder at `path`; `""` is the volume itself. */
  list(path: string): string[] {
    const below = path === "" ? "" : `${path}/`;
    const names = new Set<string>();
    for (const file of this.#files.keys())
      if (file.startsWith(below)) names.add(file.slice(below.length).split("/")[0] ?? "");
    return [...names];
  }

  /** Removes a file, or a folder with all in it. */
  remove(path: string): void {
    for (const file of this.#files.keys()) {
      if (path !== "" && file !== path && !file.startsWith(`${path}/`)) continue;
      this.#files.delete(file);
      this.#tell(file);
    }
  }

  /** Makes it hold exactly `wanted`: whoever reads in between sees all of the old or all of the new. */
  replace(wanted: ReadonlyMap<string, Buffer>): void {
    const changed: string[] = [];
    for (const path of this.#files.keys()) {
      if (wanted.has(path)) continue;
      this.#files.delete(path);
      changed.push(path);
    }
    for (const [path, content] of wanted) {
      if (this.#files.get(path)?.equals(content)) continue;
      this.#files.set(path, content);
      changed.push(path);
    }
    for (const path of changed) this.#tell(path);
  }

  /** Calls `changed` after each change of a file below `path`. Returns the stop. */
  watch(path: string, changed: () => void): () => void {
    const watcher = (file: string) => {
      if (path === "" || file === path || file.startsWith(`${path}/`)) changed();
    };
    this.#watchers.add(watcher);
    return () => void this.#watchers.delete(watcher);
  }

  #tell(path: string): void {
    for (const watcher of this.#watchers) queueMicrotask(() => watcher(path));
  }
}

/** Something mounted into a container. */
export interface Mount {
  readonly at: string;
  /** A folder in memory, or the path of one on this machine's disk (`hostPath`). */
  readonly source: MemoryFolder | string;
  /** Path inside the folder. */
  readonly subPath: string;
  readonly readOnly: boolean;
}

/** Files as a container sees them; what is in no mount is its own and goes with it. */
export class ContainerFiles implements FilesInMemory {
  readonly #mounts: readonly Mount[];

  constructor(mounts: readonly Mount[]) {
    const root: Mount = { at: "/", source: new MemoryFolder(), subPath: "", readOnly: false };
    this.#mounts = [root, ...mounts].sort((a, b) => b.at.length - a.at.length);
  }

  isMount(path: string): boolean {
    return this.#mounts.some(({ at }) => at === normalize(path));
  }

  /** Path on this machine's disk of what lies in a `hostPath` volume; undefined for everything else. */
  diskPath(path: string): string | undefined {
    const { source, inside } = this.#find(path);
    return typeof source === "string" ? join(source, inside) : undefined;
  }

  async read(path: string, most?: number): Promise<Buffer | undefined> {
    const { source, inside } = this.#find(path);
    if (typeof source === "string") return diskFiles.read(join(source, inside), most);
    const content = source.read(inside);
    return most !== undefined && content !== undefined && content.length > most ? undefined : content;
  }

  async write(path: string, content: string | Uint8Array, mode?: number): Promise<void> {
    const { source, inside, readOnly } = this.#find(path);
    if (readOnly) throw new Error(`EROFS: read-only file system, open '${path}'`);
    if (typeof source === "string") return diskFiles.write(join(source, inside), content, mode);
    source.write(inside, Buffer.from(content));
  }

  async list(path: string): Promise<readonly string[]> {
    const { source, inside } = this.#find(path);
    return typeof source === "string" ? diskFiles.list(join(source, inside)) : source.list(inside);
  }

  async remove(path: string): Promise<void> {
    const { source, inside, readOnly } = this.#find(path);
    if (readOnly) throw new Error(`EROFS: read-only file system, rm '${path}'`);
    if (typeof source === "string") return diskFiles.remove(join(source, inside));
    source.remove(inside);
  }

  watch(path: string, changed: () => void): () => void {
    const { source, inside } = this.#find(path);
    return typeof source === "string"
      ? diskFiles.watch(join(source, inside), changed)
      : source.watch(inside, changed);
  }

  #find(path: string): { source: Mount["source"]; inside: string; readOnly: boolean } {
    if (!isAbsolute(path)) throw new Error(`${path}: programs in memory know absolute paths only`);
    const clean = normalize(path);
    for (const { at, source, subPath, readOnly } of this.#mounts) {
      const inside = relative(at, clean);
      if (inside.startsWith("..")) continue;
      return { source, inside: [subPath, inside].filter((part) => part !== "").join("/"), readOnly };
    }
    throw new Error(`${path}: in no mount`);
  }
}
