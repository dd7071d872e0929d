import type { Logger } from "../../lib/logger.ts";
import { type Release, verifyRelease } from "../../protocol/config/release.ts";
import type { TrustedRoot } from "../../protocol/config/root.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import type { Asking } from "./asking.ts";
import type { ConfigProblems } from "./problems.ts";
import type { ConfigSources } from "./sources.ts";
import type { ConfigStore } from "./store.ts";

/**
 * The newest release that the node knows, from disk, mount and service. It never goes back: what has once been known to
 * exist, if only by its number in a signed `latest`, is the least that is believed from then on, also by the next process.
 */
export class Releases {
  readonly #root: TrustedRoot;
  readonly #store: ConfigStore;
  readonly #sources: ConfigSources;
  readonly #problems: ConfigProblems;
  readonly #asking: Asking;
  readonly #log: Logger;
  #known = 0;
  #current: Release | undefined;
  /** The mount's text when it was looked at last, and the highest sequence that it has had. */
  #mounted = "";
  #mountedHighest = 0;

  constructor(parts: {
    readonly root: TrustedRoot;
    readonly store: ConfigStore;
    readonly sources: ConfigSources;
    readonly problems: ConfigProblems;
    readonly asking: Asking;
    readonly log: Logger;
  }) {
    this.#root = parts.root;
    this.#store = parts.store;
    this.#sources = parts.sources;
    this.#problems = parts.problems;
    this.#asking = parts.asking;
    this.#log = parts.log;
  }

  /** Highest sequence known to exist; 0 = none. */
  get known(): number {
    return this.#known;
  }

  /** The newest release that has been verified. */
  get current(): Release | undefined {
    return this.#current;
  }

  /** What the process before knew. */
  async restore(): Promise<void> {
    this.#known = await this.#store.knownSequence();
    const kept = await this.#store.release();
    // Behind what is known to exist, or not signed as the root now asks: as if there were none.
    if (kept) await this.#adopt(kept, "disk").catch(() => undefined);
  }

  /** The service has told, signed, that this one exists. Gives what keeps that on disk, if it is news. */
  learn(sequence: number): (() => Promise<void>) | undefined {
    if (sequence <= this.#known) return undefined;
    this.#known = sequence;
    this.#asking.hurry();
    // What is known by the time of the write: a newer one may have come and been kept before it.
    return () => this.#store.saveKnownSequence(this.#known);
  }

  async readMount(): Promise<void> {
    try {
      const statement = await this.#sources.mountedRelease();
      const text = JSON.stringify(statement ?? null);
      if (text === this.#mounted) return;
      this.#mounted = text;
      this.#problems.clear("mount");
      if (statement) await this.#adoptMounted(statement);
    } catch (thrown) {
      this.#problems.note("mount", null, thrown);
    }
  }

  /** Asks the service when there is no release, or when a newer one is known to exist. */
  async fetch(): Promise<void> {
    if (this.#current && this.#current.sequence >= this.#known) {
      this.#problems.clear("release");
      return;
    }
    if (!this.#asking.may) return;
    try {
      await this.#adopt(await this.#sources.servedRelease(), "service");
      this.#asking.reset();
      this.#problems.clear("release");
      this.#problems.clear("mount");
    } catch (thrown) {
      this.#problems.note("release", null, thrown);
      this.#asking.failed();
    }
  }

  async #adoptMounted(statement: Statement): Promise<void> {
    // A mount behind the service is late, which is no fault; a mount behind itself was rolled back.
    const { sequence } = verifyRelease(statement, this.#root, this.#mountedHighest);
    this.#mountedHighest = sequence;
    if (sequence >= this.#known || !this.#current) await this.#adopt(statement, "mount");
  }

  async #adopt(statement: Statement, from: "disk" | "mount" | "service"): Promise<void> {
    const release = verifyRelease(statement, this.#root, this.#known);
    if (release.sequence > this.#known) {
      this.#known = release.sequence;
      await this.#store.saveKnownSequence(release.sequence);
    }
    if (this.#current && release.sequence <= this.#current.sequence) return;
    this.#current = release;
    if (from !== "disk") await this.#store.saveRelease(statement);
    this.#log.info({ sequence: release.sequence, current: release.current, from }, "new release");
  }
}
