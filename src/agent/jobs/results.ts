import { join } from "node:path";
import type { Timer } from "../../lib/clock.ts";
import { CodedError, messageOf } from "../../lib/errors.ts";
import type { JobId } from "../../protocol/fields.ts";
import type { SigningKey } from "../../protocol/keys.ts";
import type { Ports } from "../ports.ts";
import { decodeResult, encodeResult, type KeptResult } from "./kept-result.ts";
import { seal, unseal, unwrapKey, wrapKey } from "./sealed.ts";

/** How much a node keeps. */
export interface ResultLimits {
  /** Most results. */
  readonly count: number;
  /** Most bytes of all outputs together. */
  readonly bytes: number;
  /** Most bytes of one output. */
  readonly each: number;
}

/** The result cannot be kept. The message says why, for people. */
export class ResultsError extends CodedError<"full" | "disk"> {}

interface Ref {
  readonly job: JobId;
  readonly attempt: number;
}

/** How soon a disk that refused a write is tried again, ms. */
const retryMs = 10_000;
/** Written for a try: of the size of an ordinary result. */
const trialBytes = 64 * 1024;
/** Most files that are kept aside. */
const maxAside = 32;

const nameOf = ({ job, attempt }: Ref): string => `${job}.${attempt}`;
const isResult = /^[a-z0-9][a-z0-9_-]{7,63}\.\d{1,4}$/;

/**
 * Results of durable jobs on the node's disk: a sealed file each, there until the service has acknowledged it, so that
 * neither a crash nor a power cut loses what has been computed. A file that cannot be read is put aside, never in the way.
 * While the disk refuses writes, or too much waits, {@link Results.problem} says so and no durable job is taken.
 */
export class Results {
  readonly #ports: Pick<Ports, "files" | "clock" | "random" | "log">;
  readonly #dir: string;
  readonly #limits: ResultLimits;
  /** Keys of the identity: the current one, and during a rollover the next. */
  #holders: readonly SigningKey[] = [];
  #key: Buffer | undefined;
  /** Bytes of output of each file, by its name. */
  readonly #sizes = new Map<string, number>();
  #bytes = 0;
  #refused: string | undefined;
  #retry: Timer | undefined;
  readonly #changed: () => void;

  /** @param changed called when {@link Results.problem} may have changed. */
  constructor(
    ports: Pick<Ports, "files" | "clock" | "random" | "log">,
    dir: string,
    limits: ResultLimits,
    changed: () => void,
  ) {
    this.#ports = ports;
    this.#dir = dir;
    this.#limits = limits;
    this.#changed = changed;
  }

  /** Results on the disk. */
  get size(): number {
    return this.#sizes.size;
  }

  /** Why the disk takes no results now, so that heartbeats can tell; undefined = it does. */
  get problem(): string | undefined {
    return this.#refused === undefined ? undefined : `results cannot be kept on disk: ${this.#refused}`;
  }

  /** Why no further durable job can be taken; undefined = one can. @param running durable jobs that run now. */
  refusal(running: number): string | undefined {
    if (this.problem !== undefined) return this.problem;
    const { count, bytes, each } = this.#limits;
    const waiting = this.#sizes.size;
    if (waiting + running >= count)
      return `${waiting} results wait on disk for their acknowledgement, and ${running} jobs run: the node keeps ${count}`;
    if (this.#bytes + each > bytes)
      return `${this.#bytes} bytes of results wait on disk for their acknowledgement: the node keeps ${bytes}`;
    return undefined;
  }

  /**
   * Reads what an earlier process has kept. Never fails: what cannot be read is put aside, and a disk that cannot be
   * written is tried again.
   *
   * @param holders the identity's keys: the current one first.
   */
  async open(holders: readonly SigningKey[]): Promise<readonly KeptResult[]> {
    this.#holders = holders;
    await this.#guarded(() => this.#prepare());
    const kept: KeptResult[] = [];
    for (const name of await this.#names()) {
      const result = await this.#read(name);
      if (!result) continue;
      this.#note(name, result.output.length);
      kept.push(result);
    }
    if (kept.length > 0)
      this.#ports.log.info({ results: kept.length }, "results of an earlier process wait on disk; resent");
    return kept;
  }

  /**
   * From now on these keys open the results, and no others: before a rollover to one of them is asked for. Keys that the
   * node has no more are left out, so that a process which sees many rollovers keeps a small file.
   * @throws {ResultsError}
   */
  async admit(holders: readonly SigningKey[]): Promise<void> {
    if (holders.every(({ kid }) => this.#holders.some((held) => held.kid === kid))) return;
    try {
      if (this.#key) await this.#writeKey(this.#key, holders);
    } catch (cause) {
      throw this.#refuse(cause);
    }
    // Not before: what failed must be written when it is asked for again.
    this.#holders = holders;
  }

  /** Keeps a result; it is on the disk when this resolves. @throws {ResultsError} */
  async keep(result: KeptResult): Promise<void> {
    const name = nameOf(result.ended);
    const { count, bytes } = this.#limits;
    const { length } = result.output;
    if (this.#sizes.size >= count || this.#bytes + length > bytes)
      throw new ResultsError("full", "results that wait for their acknowledgement fill the space for them");
    const key = this.#key;
    if (!key) throw new ResultsError("disk", this.problem ?? "results cannot be kept on disk");
    this.#note(name, length);
    try {
      const sealed = seal(key, this.#nonce(), name, encodeResult(result));
      await this.#ports.files.write(join(this.#dir, name), sealed);
    } catch (cause) {
      this.#forgotten(name);
      throw this.#refuse(cause);
    }
  }

  /** The service has it, or does not want it. A file that stays behind is told to the service again by the next process. */
  forget(ref: Ref): void {
    const name = nameOf(ref);
    if (!this.#forgotten(name)) return;
    this.#ports.files
      .remove(join(this.#dir, name))
      .catch((thrown: unknown) =>
        this.#ports.log.warn({ file: name, why: messageOf(thrown) }, "cannot delete a result"),
      );
    this.#changed();
  }

  close(): void {
    this.#retry?.cancel();
  }

  #note(name: string, bytes: number): void {
    this.#sizes.set(name, bytes);
    this.#bytes += bytes;
  }

  #forgotten(name: string): boolean {
    this.#bytes -= this.#sizes.get(name) ?? 0;
    return this.#sizes.delete(name);
  }

  #nonce = (): Buffer => Buffer.from(this.#ports.random.bytes(12), "base64url");

  /** Finds or makes the key that everything is sealed with. */
  async #prepare(): Promise<void> {
    const { files, random, log } = this.#ports;
    const path = join(this.#dir, "key");
    const file = await files.read(path);
    const found = file && this.#unwrap(file);
    if (found) {
      this.#key = found.key;
      const kids = this.#holders.map(({ kid }) => kid);
      // A rollover is over, or has begun: the file is for the keys that the node has now.
      if (kids.length !== found.kids.length || kids.some((kid) => !found.kids.includes(kid)))
        await this.#writeKey(found.key);
      return;
    }
    if (file) {
      log.error({ path }, "the results on disk cannot be opened with this node's key; they are put aside");
      await this.#putAside("key", file);
    }
    const key = Buffer.from(random.bytes(32), "base64url");
    await this.#writeKey(key);
    this.#key = key;
  }

  #unwrap(file: Buffer): ReturnType<typeof unwrapKey> {
    try {
      return unwrapKey(file, this.#holders);
    } catch {
      return undefined;
    }
  }

  #writeKey(key: Buffer, holders = this.#holders): Promise<void> {
    return this.#ports.files.write(join(this.#dir, "key"), wrapKey(key, holders, this.#nonce));
  }

  async #names(): Promise<readonly string[]> {
    try {
      const { files } = this.#ports;
      const names = await files.list(this.#dir);
      // What an earlier process was writing when it ended.
      for (const name of names)
        if (name.startsWith(".") && name.endsWith(".new")) await files.remove(join(this.#dir, name));
      return names.filter((name) => isResult.test(name));
    } catch (thrown) {
      this.#refuse(thrown);
      return [];
    }
  }

  async #read(name: string): Promise<KeptResult | undefined> {
    const { files, log } = this.#ports;
    let sealed: Buffer | undefined;
    try {
      sealed = await files.read(join(this.#dir, name));
      if (!sealed) return undefined;
      const result = this.#key && decodeResult(unseal(this.#key, name, sealed));
      if (result && nameOf(result.ended) === name) return result;
    } catch (thrown) {
      log.error(
        { file: name, why: messageOf(thrown) },
        "a kept result cannot be read: it is lost, put aside",
      );
    }
    // Without the key nothing can be said about the file; without its bytes nothing can be moved.
    if (sealed && this.#key) await this.#putAside(name, sealed);
    return undefined;
  }

  /** Out of the way, for whoever looks into it. On a full disk it stays where it is, and is skipped each time. */
  async #putAside(name: string, bytes: Buffer): Promise<void> {
    const { files, log } = this.#ports;
    const aside = join(this.#dir, "aside");
    try {
      if ((await files.list(aside)).length < maxAside) await files.write(join(aside, name), bytes);
      await files.remove(join(this.#dir, name));
    } catch (thrown) {
      log.warn({ file: name, why: messageOf(thrown) }, "cannot put a file aside");
    }
  }

  async #guarded(act: () => Promise<void>): Promise<void> {
    try {
      await act();
      this.#refused = undefined;
    } catch (thrown) {
      this.#refuse(thrown);
    }
  }

  /** The disk refused: no durable job until a trial succeeds. */
  #refuse(cause: unknown): ResultsError {
    const why = messageOf(cause);
    if (this.#refused === undefined)
      this.#ports.log.error({ why, dir: this.#dir }, "results cannot be kept; durable jobs are refused");
    this.#refused = why;
    this.#retry ??= this.#ports.clock.setTimer(() => {
      this.#retry = undefined;
      void this.#try();
    }, retryMs);
    this.#changed();
    return new ResultsError("disk", `results cannot be kept on disk: ${why}`, { cause });
  }

  async #try(): Promise<void> {
    const { files, log } = this.#ports;
    const trial = join(this.#dir, "trial");
    await this.#guarded(async () => {
      if (!this.#key) await this.#prepare();
      try {
        await files.write(trial, Buffer.alloc(trialBytes));
      } finally {
        await files.remove(trial);
      }
    });
    if (this.#refused !== undefined) return;
    log.info("results can be kept again");
    this.#changed();
  }
}
