import { join } from "node:path";
import * as z from "zod/mini";
import { parseStatement } from "../../protocol/config/root.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import { type ConfigDigest, digestField } from "../../protocol/fields.ts";
import { parsePayload } from "../../protocol/frame.ts";
import type { Files } from "../ports.ts";

const appliedSchema = z.object({
  digest: digestField,
  args: z.array(z.string().check(z.maxLength(4096))).check(z.maxLength(256)),
  engine: z.string(),
  image: z.nullable(z.string()),
  gpu_product: z.nullable(z.string()),
  gpu_count: z.nullable(z.int()),
  models: z.array(z.string()).check(z.maxLength(256)),
  /** Starts of the runtime container when this was applied. */
  starts: z.int(),
});
/** What was applied last, with the wish of that time: enough to know what the engine runs after a restart of the agent. */
export type AppliedRecord = z.infer<typeof appliedSchema>;

const hexOf = (digest: string): string => digest.slice("sha256:".length);

/**
 * What the agent keeps on its own disk: the newest release it has seen, snapshots by digest, what is applied. All of it
 * is verified again when read, and none of it is needed: a fresh pod gets the same from mount or service.
 */
export class ConfigStore {
  readonly #files: Files;
  readonly #dir: string;

  constructor(files: Files, dir: string) {
    this.#files = files;
    this.#dir = dir;
  }

  /** Highest release sequence ever heard of; 0 = none. */
  async knownSequence(): Promise<number> {
    const text = await this.#text("known-release");
    const known = Number(text ?? 0);
    return Number.isSafeInteger(known) && known > 0 ? known : 0;
  }

  async saveKnownSequence(sequence: number): Promise<void> {
    await this.#files.write(join(this.#dir, "known-release"), String(sequence));
  }

  async release(): Promise<Statement | undefined> {
    return this.#parsed("release.json", (text) => parseStatement(text, "release"));
  }

  async saveRelease(release: Statement): Promise<void> {
    await this.#files.write(join(this.#dir, "release.json"), JSON.stringify(release));
  }

  async applied(): Promise<AppliedRecord | undefined> {
    return this.#parsed("applied.json", (text) => parsePayload(appliedSchema, text, "applied.json"));
  }

  async saveApplied(record: AppliedRecord): Promise<void> {
    await this.#files.write(join(this.#dir, "applied.json"), JSON.stringify(record));
  }

  /** Bytes of a snapshot, unverified. */
  async snapshot(digest: ConfigDigest): Promise<Buffer | undefined> {
    return this.#files.read(join(this.#dir, "snapshots", hexOf(digest)));
  }

  async saveSnapshot(digest: ConfigDigest, bytes: Uint8Array): Promise<void> {
    await this.#files.write(join(this.#dir, "snapshots", hexOf(digest)), bytes);
  }

  /** Removes snapshots other than these. */
  async keepSnapshots(digests: readonly ConfigDigest[]): Promise<void> {
    const keep = new Set(digests.map(hexOf));
    for (const name of await this.#files.list(join(this.#dir, "snapshots"))) {
      if (!keep.has(name)) await this.#files.remove(join(this.#dir, "snapshots", name));
    }
  }

  async #text(name: string): Promise<string | undefined> {
    return (await this.#files.read(join(this.#dir, name)))?.toString("utf8");
  }

  async #parsed<T>(name: string, parse: (text: string) => T): Promise<T | undefined> {
    const text = await this.#text(name);
    if (text === undefined) return undefined;
    try {
      return parse(text);
    } catch {
      // Disposable: what cannot be read is as if it were not there.
      return undefined;
    }
  }
}
