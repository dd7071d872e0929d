import { join } from "node:path";
import { messageOf } from "../../lib/errors.ts";
import type { WeightFile, Weights } from "../../protocol/config/weights.ts";
import type { ModelMirror } from "../../protocol/desired.ts";
import type { Ports } from "../ports.ts";
import { fetchFile, isRight } from "./download.ts";
import { diskError, ModelError } from "./failure.ts";
import { foundPlaces, type Layout, layoutOf, partOf, weightsFolder } from "./layout.ts";
import { type Marker, readMarker, vouches, withFile } from "./marker.ts";
import { placesOf } from "./places.ts";
import { makeRoom } from "./room.ts";
import type { Lock, ModelWorld } from "./world.ts";

/** Where models are kept, and how much of them. */
export interface CacheOptions {
  /** Folder of models; other agents may use it too. */
  readonly modelsDir: string;
  /** Most bytes in it; undefined = as its disk has. */
  readonly modelsMaxBytes: number | undefined;
  /** The agent's own state: markers of a folder that cannot be written. */
  readonly stateDir: string;
}

/** Weights that are on disk, verified, and kept from removal until they are let go. */
export interface Held {
  /** Folder that has the files. */
  readonly folder: string;
  release(): void;
}

/** What hears how far the work is, in bytes of all files. */
export interface CacheListener {
  verifying(bytes: number): void;
  downloading(bytes: number): void;
}

/** Somebody else has these weights locked. */
export const busy = Symbol("busy");

/** One folder of models, and what to do with weights in it. One call at a time for the same weights. */
export class ModelCache {
  readonly #ports: Pick<Ports, "files" | "log" | "clock">;
  readonly #world: ModelWorld;
  readonly #options: CacheOptions;
  #writable: boolean | undefined;
  /** Digests that this agent has held. */
  readonly #known = new Set<string>();

  constructor(ports: Pick<Ports, "files" | "log" | "clock">, world: ModelWorld, options: CacheOptions) {
    this.#ports = ports;
    this.#world = world;
    this.#options = options;
  }

  /** Takes hold of weights that have been verified before; undefined where there is work to do. Quick: nothing is hashed. */
  async hold(weights: Weights): Promise<Held | undefined> {
    const place = await this.#vouched(weights);
    if (place === undefined) return undefined;
    if (!(await this.#canWrite())) return { folder: place, release: () => {} };
    const layout = this.#layout(weights);
    const lock = await this.#lock(layout, "shared");
    if (!lock) return undefined;
    // Removed between the look and the lock?
    if ((await this.#vouched(weights)) === undefined) {
      lock.release();
      return undefined;
    }
    await this.#world.disk.touch(layout.lock);
    this.#known.add(weights.digest);
    return { folder: place, release: () => lock.release() };
  }

  /** True while verified weights are as they were. Says to others that they are in use. */
  async intact(weights: Weights): Promise<boolean> {
    if ((await this.#vouched(weights)) === undefined) return false;
    if (await this.#canWrite()) await this.#world.disk.touch(this.#layout(weights).lock);
    return true;
  }

  /**
   * Brings all files of the weights onto the disk and verifies them.
   *
   * @param wanted digests that must not be removed to make room.
   * @returns `busy` when another agent is at them.
   * @throws {ModelError}
   */
  async complete(
    weights: Weights,
    wanted: ReadonlySet<string>,
    mirrors: readonly ModelMirror[],
    listener: CacheListener,
    signal: AbortSignal,
  ): Promise<typeof busy | undefined> {
    if (!(await this.#canWrite())) {
      await this.#verifyFound(weights, listener, signal);
      return undefined;
    }
    const layout = this.#layout(weights);
    const lock = await this.#lock(layout, "exclusive");
    if (!lock) return busy;
    try {
      await this.#world.disk.touch(layout.lock);
      await this.#fill(layout, weights, wanted, mirrors, listener, signal);
      return undefined;
    } finally {
      lock.release();
    }
  }

  /** Bytes of the weights that are on disk, whole or not. */
  async present(weights: Weights): Promise<number> {
    const { files, parts } = this.#layout(weights);
    const { disk } = this.#world;
    return Math.min(weights.total, (await disk.usage(files)) + (await disk.usage(parts)));
  }

  async #fill(
    layout: Layout,
    weights: Weights,
    wanted: ReadonlySet<string>,
    mirrors: readonly ModelMirror[],
    listener: CacheListener,
    signal: AbortSignal,
  ): Promise<void> {
    const { disk } = this.#world;
    let marker = await this.#marker(layout.marker);
    const missing: WeightFile[] = [];
    let done = 0;
    for (const file of weights.files) {
      const path = join(layout.files, file.path);
      if (!vouches(marker, file, await disk.stat(path))) {
        const progress = (bytes: number) => listener.verifying(done + bytes);
        // There, but nobody has said that it is right: an agent was killed between the move and the marker.
        if (!(await isRight(this.#world, path, file, progress, signal))) {
          missing.push(file);
          continue;
        }
        marker = await this.#vouch(layout, marker, file);
      }
      done += file.size;
    }
    const there = done + (await disk.usage(layout.parts));
    if (missing.length > 0) await this.#room(weights, Math.max(0, weights.total - there), wanted);
    for (const file of missing) {
      const before = done;
      await fetchFile(
        this.#world,
        {
          model: weights.model,
          file,
          part: partOf(layout, file),
          places: placesOf(weights, file, mirrors),
        },
        {
          verifying: (bytes) => listener.verifying(before + bytes),
          downloading: (bytes) => listener.downloading(before + bytes),
        },
        signal,
      );
      await disk.move(partOf(layout, file), join(layout.files, file.path));
      marker = await this.#vouch(layout, marker, file);
      done += file.size;
    }
    await this.#ports.files.remove(layout.parts);
  }

  async #vouch(layout: Layout, marker: Marker | undefined, file: WeightFile): Promise<Marker> {
    const path = join(layout.files, file.path);
    const mark = await this.#world.disk.stat(path);
    if (mark?.size !== file.size)
      throw new ModelError("disk", `${path} was changed while it was being verified`);
    const next = withFile(marker, file, mark);
    await this.#ports.files.write(layout.marker, JSON.stringify(next), 0o644);
    return next;
  }

  async #room(weights: Weights, need: number, wanted: ReadonlySet<string>): Promise<void> {
    const { modelsDir, modelsMaxBytes } = this.#options;
    const lock = (digest: string) => this.#lock(layoutOf(modelsDir, digest), "exclusive");
    const removed = await makeRoom({
      world: this.#world,
      files: this.#ports.files,
      now: this.#ports.clock.now(),
      root: modelsDir,
      most: modelsMaxBytes,
      need,
      keep: new Set([...wanted, weights.digest]),
      released: this.#known,
      lock,
      what: `model ${weights.model}`,
    });
    for (const digest of removed)
      this.#ports.log.info(
        { digest, for: weights.model },
        "models: weights that nobody uses were removed for others",
      );
  }

  /** In a folder that others have filled: the first place whose files are all right. */
  async #verifyFound(weights: Weights, listener: CacheListener, signal: AbortSignal): Promise<void> {
    const { modelsDir } = this.#options;
    const faults = new Set<string>();
    for (const folder of foundPlaces(modelsDir, weights)) {
      const marker = await this.#hashed(folder, weights, faults, listener, signal);
      if (!marker) continue;
      await this.#ports.files.write(this.#ownMarker(weights), JSON.stringify(marker));
      return;
    }
    const which = [...faults].slice(0, 3).join("; ");
    const kind = faults.size > 0 ? "wrong" : "disk";
    throw new ModelError(
      kind,
      `model ${weights.model}: ${which || "its files are not there"}; the agent cannot write ${modelsDir}, so nothing can be fetched: put the right files there (as sha256/${weights.digest}/… or ${weights.model}/…), or let it write`,
    );
  }

  async #hashed(
    folder: string,
    weights: Weights,
    faults: Set<string>,
    listener: CacheListener,
    signal: AbortSignal,
  ): Promise<Marker | undefined> {
    const { disk } = this.#world;
    const marks = await Promise.all(weights.files.map((file) => disk.stat(join(folder, file.path))));
    // Folders that have nothing of it are no fault, one of several places that might.
    if (marks.every((mark) => mark === undefined)) return undefined;
    let marker: Marker = { folder, files: [] };
    let done = 0;
    for (const [at, file] of weights.files.entries()) {
      const path = join(folder, file.path);
      const mark = marks[at];
      const progress = (bytes: number) => listener.verifying(done + bytes);
      if (!mark || !(await isRight(this.#world, path, file, progress, signal))) {
        faults.add(`${path} is ${mark ? "not what the network signed" : "missing"}`);
        return undefined;
      }
      marker = withFile(marker, file, mark);
      done += file.size;
    }
    return marker;
  }

  /** Folder of the weights if a marker vouches for every file of them. */
  async #vouched(weights: Weights): Promise<string | undefined> {
    const writable = await this.#canWrite();
    const layout = this.#layout(weights);
    const marker = await this.#marker(writable ? layout.marker : this.#ownMarker(weights));
    if (!marker) return undefined;
    const folder = writable ? layout.files : (marker.folder ?? layout.files);
    for (const file of weights.files) {
      if (!vouches(marker, file, await this.#world.disk.stat(join(folder, file.path)))) return undefined;
    }
    return folder;
  }

  async #marker(path: string): Promise<Marker | undefined> {
    // 256 files of 255 characters, with room.
    const bytes = await this.#ports.files.read(path, 256 * 1024);
    return bytes && readMarker(bytes.toString("utf8"));
  }

  #ownMarker({ digest }: Weights): string {
    return join(this.#options.stateDir, "models", `${digest}.json`);
  }

  #layout({ digest }: Weights): Layout {
    return layoutOf(this.#options.modelsDir, digest);
  }

  async #lock(layout: Layout, how: "shared" | "exclusive"): Promise<Lock | undefined> {
    try {
      return await this.#world.disk.lock(layout.lock, how);
    } catch (thrown) {
      throw new ModelError(
        "disk",
        `${layout.lock} cannot be locked (${messageOf(thrown)}): the file system of ${this.#options.modelsDir} must have POSIX locks`,
      );
    }
  }

  async #canWrite(): Promise<boolean> {
    // Only a yes lasts: a folder may be mounted, or get other rights, later.
    if (this.#writable) return true;
    try {
      this.#writable = await this.#world.disk.writable(weightsFolder(this.#options.modelsDir));
    } catch (thrown) {
      throw diskError(thrown, this.#options.modelsDir);
    }
    return this.#writable;
  }
}
