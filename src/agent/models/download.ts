import { createHash, type Hash } from "node:crypto";
import { messageOf } from "../../lib/errors.ts";
import type { WeightFile } from "../../protocol/config/weights.ts";
import { diskError, ModelError } from "./failure.ts";
import type { Appending, Fetched, ModelWorld } from "./world.ts";

/** One file that is to be fetched. */
export interface FileToFetch {
  readonly model: string;
  readonly file: WeightFile;
  /** Where its bytes gather until they are whole. */
  readonly part: string;
  /** URLs, in order. */
  readonly places: readonly string[];
}

/** What hears how far a file is, in bytes of it. */
export interface FetchListener {
  /** Bytes that were there are read again, for the hash. */
  verifying(bytes: number): void;
  downloading(bytes: number): void;
}

/** Fault of one place. `wrong`: it has another file. */
class PlaceError extends Error {
  readonly wrong: boolean;
  constructor(message: string, wrong: boolean) {
    super(message);
    this.wrong = wrong;
  }
}

/**
 * Has `part` hold exactly the file that the network signed, going on with what is there, from the first place that can
 * give it. The hash decides, so a part that another version of the file, or another place, has begun does no harm: it
 * costs one more beginning.
 *
 * @throws {ModelError} `unavailable`, `wrong`, `disk`, `room`; what has been fetched stays for the next time.
 */
export async function fetchFile(
  world: ModelWorld,
  { model, file, part, places }: FileToFetch,
  listener: FetchListener,
  signal: AbortSignal,
): Promise<void> {
  const gathering = new Gathering(world, file, part, listener);
  try {
    await gathering.take();
    if (await gathering.whole()) return;
    const faults: PlaceError[] = [];
    for (const place of places) {
      try {
        await gathering.from(place, signal);
        return;
      } catch (thrown) {
        signal.throwIfAborted();
        if (!(thrown instanceof PlaceError)) throw thrown;
        faults.push(thrown);
      }
    }
    throw failureOf(model, file, faults);
  } finally {
    await gathering.close();
  }
}

function failureOf(
  model: string,
  { path, sha256, size }: WeightFile,
  faults: readonly PlaceError[],
): ModelError {
  const what = `model ${model}: file ${path}`;
  if (faults.length === 0) {
    return new ModelError(
      "disk",
      `${what} is not in the folder of models, and the config names no source: put it there, or add a mirror`,
    );
  }
  const said = faults.map(({ message }) => message).join("; ");
  if (!faults.every(({ wrong }) => wrong)) return new ModelError("unavailable", `${what}: ${said}`);
  return new ModelError(
    "wrong",
    `${what} is not what the network signed (sha256 ${sha256.slice(0, 12)}…, ${size} bytes): ${said}`,
  );
}

/** The part of one file: its bytes on disk and their hash so far. */
class Gathering {
  readonly #world: ModelWorld;
  readonly #file: WeightFile;
  readonly #path: string;
  readonly #listener: FetchListener;
  #hash: Hash = createHash("sha256");
  #have = 0;
  #out: Appending | undefined;

  constructor(world: ModelWorld, file: WeightFile, path: string, listener: FetchListener) {
    this.#world = world;
    this.#file = file;
    this.#path = path;
    this.#listener = listener;
  }

  /** Takes up what an earlier try has left. */
  async take(): Promise<void> {
    const { disk } = this.#world;
    const left = (await this.#onDisk(() => disk.stat(this.#path)))?.size ?? 0;
    if (left === 0 || left > this.#file.size) return;
    for await (const bytes of disk.read(this.#path)) {
      this.#hash.update(bytes);
      this.#have += bytes.length;
      this.#listener.verifying(this.#have);
    }
  }

  /** True when all bytes are there and right; wrong ones are forgotten. */
  async whole(): Promise<boolean> {
    if (this.#have !== this.#file.size) return false;
    if (this.#hash.copy().digest("hex") === this.#file.sha256) {
      await this.#finish();
      return true;
    }
    await this.#restart();
    return false;
  }

  /** Reads on from a place. @throws {PlaceError} */
  async from(url: string, signal: AbortSignal): Promise<void> {
    const began = this.#have;
    try {
      await this.#read(url, signal);
    } catch (thrown) {
      // The fault may lie in what had been there before.
      if (!(thrown instanceof PlaceError && thrown.wrong && began > 0)) throw thrown;
      await this.#restart();
      await this.#read(url, signal);
    }
  }

  async #read(url: string, signal: AbortSignal): Promise<void> {
    const { fetch } = this.#world;
    const shown = url.slice(0, 200);
    let fetched: Fetched | undefined;
    try {
      fetched = await fetch.open(url, this.#have, signal);
      const { from, size, body } = fetched;
      if (size !== undefined && size !== this.#file.size)
        throw new PlaceError(`${shown} has ${size} bytes`, true);
      if (from !== this.#have) await this.#restart();
      this.#listener.downloading(this.#have);
      for await (const bytes of body) await this.#add(bytes, shown);
    } catch (thrown) {
      if (thrown instanceof PlaceError || thrown instanceof ModelError) throw thrown;
      throw new PlaceError(messageOf(thrown).slice(0, 300), false);
    } finally {
      fetched?.close();
    }
    if (this.#have < this.#file.size) throw new PlaceError(`${shown} ended at byte ${this.#have}`, false);
    const { sha256 } = this.#file;
    const got = this.#hash.copy().digest("hex");
    if (got !== sha256) {
      await this.#restart();
      throw new PlaceError(`${shown} has sha256 ${got.slice(0, 12)}…`, true);
    }
    await this.#finish();
  }

  async #add(bytes: Uint8Array, shown: string): Promise<void> {
    if (this.#have + bytes.length > this.#file.size) throw new PlaceError(`${shown} is longer`, true);
    this.#hash.update(bytes);
    await this.#onDisk(async () => (await this.#open()).write(bytes));
    this.#have += bytes.length;
    this.#listener.downloading(this.#have);
  }

  async #open(): Promise<Appending> {
    this.#out ??= await this.#world.disk.append(this.#path, this.#have);
    return this.#out;
  }

  async #restart(): Promise<void> {
    await this.close();
    this.#have = 0;
    this.#hash = createHash("sha256");
    // Emptied at once, so that a crash before the next byte does not have the bad ones read again.
    await this.#onDisk(() => this.#open());
  }

  async #finish(): Promise<void> {
    await this.#onDisk(async () => (await this.#open()).finish());
    this.#out = undefined;
  }

  async close(): Promise<void> {
    const out = this.#out;
    this.#out = undefined;
    await out?.close();
  }

  async #onDisk<T>(act: () => Promise<T>): Promise<T> {
    try {
      return await act();
    } catch (thrown) {
      throw diskError(thrown, this.#path);
    }
  }
}

/**
 * Hashes a file.
 * @param progress told the bytes read so far.
 * @returns whether it has exactly the signed bytes.
 */
export async function isRight(
  world: ModelWorld,
  path: string,
  { size, sha256 }: WeightFile,
  progress: (bytes: number) => void,
  signal: AbortSignal,
): Promise<boolean> {
  if ((await world.disk.stat(path))?.size !== size) return false;
  const hash = createHash("sha256");
  let read = 0;
  for await (const bytes of world.disk.read(path)) {
    signal.throwIfAborted();
    hash.update(bytes);
    read += bytes.length;
    progress(read);
  }
  return read === size && hash.digest("hex") === sha256;
}
