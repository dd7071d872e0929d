import type { ConfigDigest } from "../protocol/fields.ts";
import { importPublicKey, type KeyId, type NodeId, type VerifyKey } from "../protocol/keys.ts";
import type { Report, Xid } from "../protocol/messages.ts";
import { Instances } from "./instances.ts";
import type { NodeRow } from "./store/port.ts";

/** A key that a node has had. */
interface FormerKey {
  readonly key: VerifyKey;
  /** Generation in which it was the node's. */
  readonly generation: number;
}

/** A registered node as the running service knows it: what is kept, and its presence, which is not. */
export interface KnownNode {
  readonly nodeId: NodeId;
  /** The node's key; only {@link Nodes.rekey} changes it. */
  key: VerifyKey;
  former: readonly FormerKey[];
  /** Of the newest grant that counted; 0 = none. */
  generation: number;
  /** Number of the account's revocation of the key; 0 = it is good. */
  revocation: number;
  /** Another key is being written: one change at a time. */
  changingKey: boolean;
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
  /** What the drivers of its GPUs have said since its agent began. */
  xids: readonly Xid[];
  /** Of its present config, since this run of the service has known it to have it. */
  work: { config: ConfigDigest | null; completed: number; failed: number; durationMs: number };
  /** Wall time of the last thing heard, ms; 0 = nothing since the service started. */
  heardAt: number;
  readonly instances: Instances;
  /** Wall time at which two processes were last seen to hold the identity, ms; null = not lately. */
  conflictAt: number | null;
}

/**
 * A node tells of itself: what the service shows of it. Its work counts from 0 under another config. Returns whether its GPUs have
 * something new to be told.
 */
export function nodeReported(node: KnownNode, report: Report): boolean {
  node.agentVersion = report.agent_version;
  node.configApplied = report.config.applied;
  node.modelsActive = report.models.active;
  const xids = report.hardware.gpus.flatMap(({ xid }) => (xid && xid.since !== null ? [xid] : []));
  const isNews = JSON.stringify(xids) !== JSON.stringify(node.xids);
  node.xids = xids;
  if (node.work.config !== report.config.applied)
    node.work = { config: report.config.applied, completed: 0, failed: 0, durationMs: 0 };
  return isNews;
}

/** A job of the node ended: completed after `durationMs`, or it failed (undefined). */
export function nodeWorked(node: KnownNode, durationMs: number | undefined): void {
  if (durationMs === undefined) {
    node.work.failed++;
  } else {
    node.work.completed++;
    node.work.durationMs += durationMs;
  }
}

/**
 * Keys whose signature on a receipt counts: the node's, and those before it that were rolled over. What a key signed that
 * the account has since replaced by a grant may be a thief's.
 */
export function receiptKeys(node: KnownNode): readonly VerifyKey[] {
  const rolledOver = node.former.filter(({ generation }) => generation === node.generation);
  return [node.key, ...rolledOver.map(({ key }) => key)];
}

/** All registered nodes, by id and by key. */
export class Nodes {
  readonly #byId = new Map<NodeId, KnownNode>();
  readonly #byKey = new Map<string, KnownNode>();
  readonly #byFormerKey = new Map<string, KnownNode>();
  readonly #byAccount = new Map<string, Set<KnownNode>>();
  readonly #watchers = new Set<(node: KnownNode) => void>();
  #revocations = 0;

  get size(): number {
    return this.#byId.size;
  }

  /** @param now wall time, ms: since when it is not connected. */
  add(row: NodeRow, now: number): KnownNode {
    const node: KnownNode = {
      nodeId: row.nodeId,
      key: importPublicKey(row.jwk),
      former: row.former.map(({ jwk, generation }) => ({ key: importPublicKey(jwk), generation })),
      generation: row.generation,
      revocation: row.revoked ? ++this.#revocations : 0,
      changingKey: false,
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
      xids: [],
      work: { config: null, completed: 0, failed: 0, durationMs: 0 },
      heardAt: 0,
      instances: new Instances(),
      conflictAt: null,
    };
    this.#byId.set(node.nodeId, node);
    if (node.revocation === 0) this.#byKey.set(node.key.kid, node);
    else this.#byFormerKey.set(node.key.kid, node);
    for (const { key } of node.former) this.#byFormerKey.set(key.kid, node);
    const ofAccount = this.#byAccount.get(node.account);
    if (ofAccount) ofAccount.add(node);
    else this.#byAccount.set(node.account, new Set([node]));
    return node;
  }

  get(id: NodeId): KnownNode | undefined {
    return this.#byId.get(id);
  }

  /** The node whose key this is now; undefined for keys rolled over or revoked. */
  byKey(kid: KeyId | string): KnownNode | undefined {
    return this.#byKey.get(kid);
  }

  /** The node whose key this is or was. */
  everByKey(kid: KeyId): KnownNode | undefined {
    // A node id is the thumbprint of a first key, which the service may never have seen.
    return this.#byKey.get(kid) ?? this.#byFormerKey.get(kid) ?? this.#byId.get(String(kid) as NodeId);
  }

  /**
   * The node has another key from now on. A greater generation lifts the revocation of number `lifts`, and no later one.
   */
  rekey(node: KnownNode, key: VerifyKey, generation: number, lifts: number): void {
    this.#byKey.delete(node.key.kid);
    if (key.kid !== node.key.kid) {
      this.#byFormerKey.set(node.key.kid, node);
      const others = node.former.filter((each) => each.key.kid !== key.kid);
      node.former = [...others, { key: node.key, generation: node.generation }];
    }
    if (generation > node.generation && node.revocation === lifts) node.revocation = 0;
    node.key = key;
    node.generation = generation;
    if (node.revocation === 0) this.#byKey.set(key.kid, node);
    else this.#byFormerKey.set(key.kid, node);
  }

  /** The node's key is void from now on. */
  revoke(node: KnownNode): void {
    node.revocation = ++this.#revocations;
    this.#byKey.delete(node.key.kid);
    this.#byFormerKey.set(node.key.kid, node);
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
