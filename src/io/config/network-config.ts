import { CodedError } from "../../lib/errors.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import type { Latest } from "../../protocol/messages.ts";
import { type Release, verifyRelease } from "../../protocol/config/release.ts";
import { rotateRoot, type TrustedRoot, trustRoot } from "../../protocol/config/root.ts";
import { digestOf, openSnapshot, type Snapshot } from "../../protocol/config/snapshot.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import type { Kept, Store } from "../store/port.ts";

/** What a network's config is refused for, beyond what its statements themselves are refused for. */
export class PublishError extends CodedError<"no_root" | "lower_sequence" | "unknown_snapshot"> {}

/** A release that the service serves. */
export interface PublishedRelease {
  readonly statement: Statement;
  readonly release: Release;
  /** The statement's JSON text as it is served, and its entity tag. */
  readonly text: string;
  readonly etag: string;
}

interface HeldSnapshot {
  readonly text: string;
  readonly snapshot: Snapshot;
}

/**
 * The signed config of the network as the service holds and serves it. It believes nothing on the word of who hands it
 * in: a publication passes the same checks as at every agent.
 */
export class NetworkConfig {
  readonly network: string;
  readonly #store: Store;
  readonly #snapshots = new Map<ConfigDigest, HeldSnapshot>();
  readonly #watchers: (() => void)[] = [];
  #root: TrustedRoot | undefined;
  #rootText = "";
  #release: PublishedRelease | undefined;
  #models: ReadonlySet<string> = new Set();

  /**
   * @param kept what the store has; it is verified again.
   * @throws {ProtocolError} when the store holds what does not verify.
   */
  constructor(network: string, store: Store, kept: Kept) {
    this.network = network;
    this.#store = store;
    if (kept.root) this.#setRoot(trustRoot(kept.root, network));
    for (const { digest, text } of kept.snapshots) {
      this.#snapshots.set(digest, { text, snapshot: openSnapshot(Buffer.from(text), digest, network) });
    }
    if (kept.release && this.#root)
      this.#setRelease(kept.release, verifyRelease(kept.release, this.#root, 0));
  }

  get root(): TrustedRoot | undefined {
    return this.#root;
  }

  /** The root statement's JSON text as it is served; "" = none. */
  get rootText(): string {
    return this.#rootText;
  }

  get release(): PublishedRelease | undefined {
    return this.#release;
  }

  /** Models of all allowed snapshots: what a client may ask for. */
  get models(): ReadonlySet<string> {
    return this.#models;
  }

  /** A snapshot's exact bytes as text. */
  snapshotText(digest: string): string | undefined {
    return this.#snapshots.get(digest as ConfigDigest)?.text;
  }

  /** Most jobs at once on a node that runs this config; 0 where it is not known here. */
  maxJobs(digest: ConfigDigest | null): number {
    return (digest === null ? undefined : this.#snapshots.get(digest))?.snapshot.limits.max_jobs ?? 0;
  }

  /** What is current, as `ready` and heartbeat answers tell it. */
  latest(nonce: string): Latest {
    const release = this.#release?.release;
    return { release_sequence: release?.sequence ?? 0, digest: release?.current ?? null, nonce };
  }

  /** Calls `watcher` after each publication. */
  onPublish(watcher: () => void): void {
    this.#watchers.push(watcher);
  }

  /**
   * Trusts the first root, or moves from one root to the next. The same root again changes nothing.
   * @throws {ProtocolError}
   */
  async setRoot(statement: Statement): Promise<TrustedRoot> {
    const current = this.#root;
    const same = current && current.statement.payload === statement.payload;
    if (same) return current;
    const next = current ? rotateRoot(current, statement) : trustRoot(statement, this.network);
    await this.#store.write([{ put: "root", version: next.version, statement }]);
    this.#setRoot(next);
    return next;
  }

  /**
   * Publishes a release with the snapshots that it needs and the service does not yet hold. In order: threshold of the
   * config role, network, sequence strictly greater, every allowed snapshot at hand and sound.
   *
   * @throws {ProtocolError | PublishError}
   */
  async publish(statement: Statement, snapshots: readonly string[]): Promise<Release> {
    const root = this.#root;
    if (!root)
      throw new PublishError(
        "no_root",
        "the service has no root: run `io keys delegate` with the folder that has root.json",
      );
    const known = this.#release?.release.sequence ?? 0;
    const release = verifyRelease(statement, root, known);
    if (release.sequence <= known) {
      throw new PublishError(
        "lower_sequence",
        `release: sequence ${release.sequence} must be greater than ${known}, which is published`,
      );
    }
    const given = new Map<ConfigDigest, HeldSnapshot>();
    for (const text of snapshots) {
      const digest = digestOf(Buffer.from(text));
      given.set(digest, { text, snapshot: openSnapshot(Buffer.from(text), digest, this.network) });
    }
    for (const { digest } of release.allowed) {
      if (given.has(digest) || this.#snapshots.has(digest)) continue;
      throw new PublishError(
        "unknown_snapshot",
        `release: allowed ${digest} is not at hand: pass its file with --snapshot`,
      );
    }
    const wanted = release.allowed.flatMap(({ digest }) => {
      const held = given.get(digest);
      return held ? [{ put: "snapshot" as const, digest, text: held.text }] : [];
    });
    await this.#store.write([...wanted, { put: "release", sequence: release.sequence, statement }]);
    for (const { digest } of wanted) {
      const held = given.get(digest);
      if (held) this.#snapshots.set(digest, held);
    }
    // Another publication may have been faster to the disk.
    if (release.sequence > (this.#release?.release.sequence ?? 0)) this.#setRelease(statement, release);
    for (const watcher of this.#watchers) watcher();
    return release;
  }

  #setRoot(root: TrustedRoot): void {
    this.#root = root;
    this.#rootText = JSON.stringify(root.statement);
  }

  #setRelease(statement: Statement, release: Release): void {
    const text = JSON.stringify(statement);
    this.#release = { statement, release, text, etag: `"${digestOf(Buffer.from(text)).slice(7, 39)}"` };
    this.#models = new Set(
      release.allowed.flatMap(
        ({ digest }) => this.#snapshots.get(digest)?.snapshot.models.map(({ name }) => name) ?? [],
      ),
    );
  }
}

/** Whether an error is one that the person who publishes can mend. */
export function isPublishProblem(error: unknown): error is ProtocolError | PublishError {
  return error instanceof ProtocolError || error instanceof PublishError;
}
