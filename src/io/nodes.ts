import type { ConfigDigest } from "../protocol/fields.ts";
import { importPublicKey, type KeyId, type NodeId, type VerifyKey } from "../protocol/keys.ts";
import type { NodeRow } from "./store/port.ts";

/** A registered node as the running service knows it: what is kept, and its presence, which is not. */
export interface KnownNode {
  readonly nodeId: NodeId;
  readonly key: VerifyKey;
  readonly account: string;
  readonly registeredAt: number;
  httpSeq: number;
  epoch: number;
  releaseSequence: number;
  banned: string | null;
  jobsCommitted: number;
  connected: boolean;
  /** Wall time since when it is (not) connected, ms. */
  since: number;
  agentVersion: string | null;
  configApplied: ConfigDigest | null;
  modelsActive: readonly string[];
  /** Wall time of the last thing heard, ms; 0 = nothing since the service started. */
  heardAt: number;
}

/** All registered nodes, by id and by current key. */
export class Nodes {
  readonly #byId = new Map<NodeId, KnownNode>();
  readonly #byKey = new Map<string, KnownNode>();
  readonly #byAccount = new Map<string, Set<KnownNode>>();
  readonly #watchers = new Set<(node: KnownNode) => void>();

  get size(): number {
    return this.#byId.size;
  }

  /** @param now wall time, ms: since when it is not connected. */
  add(row: NodeRow, now: number): KnownNode {
    const node: KnownNode = {
      nodeId: row.nodeId,
      key: importPublicKey(row.jwk),
      account: row.account,
      registeredAt: row.registeredAt,
      httpSeq: row.httpSeq,
      epoch: row.epoch,
      releaseSequence: row.releaseSequence,
      banned: row.banned,
      jobsCommitted: row.jobsCommitted,
      connected: false,
      since: now,
      agentVersion: null,
      configApplied: null,
      modelsActive: [],
      heardAt: 0,
    };
    this.#byId.set(node.nodeId, node);
    this.#byKey.set(node.key.kid, node);
    const ofAccount = this.#byAccount.get(node.account);
    if (ofAccount) ofAccount.add(node);
    else this.#byAccount.set(node.account, new Set([node]));
    return node;
  }

  get(id: NodeId): KnownNode | undefined {
    return this.#byId.get(id);
  }

  byKey(kid: KeyId | string): KnownNode | undefined {
    return this.#byKey.get(kid);
  }

  ofAccount(account: string): Iterable<KnownNode> {
    return this.#byAccount.get(account) ?? [];
  }

  all(): Iterable<KnownNode> {
    return this.#byId.values();
  }

  /** Tells of every change from now on; returns how to stop. */
  watch(watcher: (node: KnownNode) => void): () => void {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }

  /** Something that the network shows of a node has changed. */
  changed(node: KnownNode): void {
    for (const watcher of this.#watchers) watcher(node);
  }
}
