import { join } from "node:path";
import { ProtocolError } from "../../protocol/codes.ts";
import { parseStatement } from "../../protocol/config/root.ts";
import { maxSnapshotBytes, openSnapshot, type Snapshot } from "../../protocol/config/snapshot.ts";
import type { Statement } from "../../protocol/config/statement.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { paths } from "../../protocol/http.ts";
import { decodeUtf8 } from "../../protocol/jws.ts";
import { requestBytes } from "../http-bytes.ts";
import type { Ports } from "../ports.ts";
import type { ConfigStore } from "./store.ts";

const timeoutMs = 10_000;

/** Where releases and snapshots come from: own disk, the ConfigMap's mount, the service. None of them is believed. */
export class ConfigSources {
  readonly #ports: Ports;
  readonly #store: ConfigStore;
  readonly #network: string;
  readonly #mount: string | undefined;
  readonly #endpoints: readonly string[];
  #endpoint = 0;
  /** Verified snapshots that are in use: at most target, stage, applied and the one before. */
  readonly #open = new Map<ConfigDigest, Snapshot>();

  /** @param mount folder of the network's ConfigMap; undefined where there is none. */
  constructor(
    ports: Ports,
    store: ConfigStore,
    from: {
      readonly network: string;
      readonly mount: string | undefined;
      readonly endpoints: readonly string[];
    },
  ) {
    this.#ports = ports;
    this.#store = store;
    this.#network = from.network;
    this.#mount = from.mount;
    this.#endpoints = from.endpoints;
  }

  /** The release in the mount, unverified. @throws {ProtocolError} when it is none. */
  async mountedRelease(): Promise<Statement | undefined> {
    if (this.#mount === undefined) return undefined;
    const bytes = await this.#ports.files.read(join(this.#mount, "release.json"));
    return bytes && parseStatement(decodeUtf8(bytes), "release.json of the network's ConfigMap");
  }

  /** The service's release, unverified. @throws Error when it cannot be had. */
  async servedRelease(): Promise<Statement> {
    const body = await this.#get(paths.release, 512 * 1024);
    return parseStatement(decodeUtf8(body), "release of the service");
  }

  /**
   * A snapshot, verified against its digest and kept on disk from now on. From disk, else the mount, else the service.
   *
   * @param ask false: not from the service, which has failed a moment ago.
   * @returns undefined when nobody asked has it.
   * @throws what the service's answer was wrong with.
   */
  async snapshot(digest: ConfigDigest, ask: boolean): Promise<Snapshot | undefined> {
    const open = this.#open.get(digest) ?? (await this.#find(digest, ask));
    if (open) this.#open.set(digest, open);
    return open;
  }

  /** Forgets every snapshot but these. */
  async keep(digests: readonly ConfigDigest[]): Promise<void> {
    const surplus = [...this.#open.keys()].filter((digest) => !digests.includes(digest));
    if (surplus.length === 0) return;
    for (const digest of surplus) this.#open.delete(digest);
    await this.#store.keepSnapshots(digests);
  }

  async #find(digest: ConfigDigest, ask: boolean): Promise<Snapshot | undefined> {
    const kept = await this.#store.snapshot(digest);
    const fromDisk = kept && this.#tryOpen(kept, digest, "disk");
    if (fromDisk) return fromDisk;
    const key = `snapshot-${digest.slice("sha256:".length)}`;
    const mounted =
      this.#mount === undefined ? undefined : await this.#ports.files.read(join(this.#mount, key));
    const fromMount = mounted && this.#tryOpen(mounted, digest, "the network's ConfigMap");
    if (mounted && fromMount) {
      await this.#store.saveSnapshot(digest, mounted);
      return fromMount;
    }
    if (!ask) return undefined;
    const served = await this.#get(paths.snapshot(digest), maxSnapshotBytes);
    const fromService = openSnapshot(served, digest, this.#network);
    await this.#store.saveSnapshot(digest, served);
    return fromService;
  }

  #tryOpen(bytes: Buffer, digest: ConfigDigest, where: string): Snapshot | undefined {
    try {
      return openSnapshot(bytes, digest, this.#network);
    } catch (thrown) {
      if (!(thrown instanceof ProtocolError)) throw thrown;
      this.#ports.log.warn({ digest, where, code: thrown.code }, "snapshot refused; asking elsewhere");
      return undefined;
    }
  }

  async #get(path: string, maxBytes: number): Promise<Buffer> {
    const base = this.#endpoints[this.#endpoint++ % this.#endpoints.length] ?? "";
    const url = `${base.replace(/\/+$/, "")}${path}`;
    const { http, clock } = this.#ports;
    const answer = await requestBytes(http, clock, { method: "GET", url }, { maxBytes, timeoutMs });
    if (answer.status !== 200) throw new Error(`GET ${url} answered HTTP ${answer.status}`);
    return answer.body;
  }
}
