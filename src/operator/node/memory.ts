import type { Clock } from "../../lib/clock.ts";
import type { Identity } from "./identity.ts";
import { RecoveryMemory } from "./recovery/memory.ts";

/** What the controller remembers of one node between reconciles. All of it can be lost: it saves requests, no more. */
export interface NodeMemory {
  identity: Identity | undefined;
  /** Pods that ended by themselves since one was last ready, and the monotonic time before which none is made. */
  failures: number;
  recreateAt: number;
  /** Monotonic time since which the status has differed from what is written; undefined = it does not. */
  unwrittenSince: number | undefined;
  /** The network's view of the node when it last queued it. */
  view: string;
  /** The pod and the size that the API server would not give it, and why. */
  resizeRefused: { readonly podUid: string; readonly size: string; readonly why: string } | undefined;
  /** UID of the pod whose agent has been told to make haste. */
  hastened: string;
  /** Newest revision of a pod's orders that changed what its agent applies. */
  mustRead: { readonly podUid: string; readonly revision: number } | undefined;
}

/** Back-off of pods that ended: the n-th failure waits this · 2ⁿ⁻¹, in milliseconds. */
const recreateBaseMs = 5_000;
const recreateCapMs = 300_000;
/** For how long a node that began to move has the turn although the caches do not show it yet. */
const claimMs = 15_000;
/** For how long a group in which nobody was in the way is not looked at again, unless somebody takes the turn. */
const lookMs = 1_000;

/** The memories of all nodes, by `namespace/name`. */
export class NodeMemories {
  readonly recovery: RecoveryMemory;
  readonly #clock: Clock;
  readonly #nodes = new Map<string, NodeMemory>();
  readonly #keyOfId = new Map<string, string>();
  readonly #claims = new Map<string, { readonly nodeKey: string; readonly expires: number }>();
  /** Names of prefetches that were just begun, with the monotonic time until which they count although no cache shows them. */
  readonly #fetches = new Map<string, { readonly network: string; readonly expires: number }>();
  readonly #noVolumes = new Set<string>();
  readonly #looks = new Map<string, { readonly blocker: string | undefined; readonly expires: number }>();
  /** Nodes that were just told to leave service: the revision that shows it, and until when that counts although no cache does. */
  readonly #leaving = new Map<
    string,
    { readonly podUid: string; readonly shownBy: number; readonly expires: number }
  >();
  /** UIDs of the pods of a pool that serve and stay. */
  readonly #serving = new Map<string, { readonly pods: Set<string>; readonly expires: number }>();
  /** Nodes of a pool that wait until it can do without them. */
  readonly #awaitingRoom = new Map<string, Set<string>>();
  /** Nodes of a group that wait for their turn, in the order in which they came. */
  readonly #queues = new Map<string, Set<string>>();

  constructor(clock: Clock) {
    this.#clock = clock;
    this.recovery = new RecoveryMemory(clock);
  }

  of(nodeKey: string): NodeMemory {
    let memory = this.#nodes.get(nodeKey);
    if (!memory) {
      memory = {
        identity: undefined,
        failures: 0,
        recreateAt: 0,
        unwrittenSince: undefined,
        view: "",
        resizeRefused: undefined,
        hastened: "",
        mustRead: undefined,
      };
      this.#nodes.set(nodeKey, memory);
    }
    return memory;
  }

  forget(nodeKey: string): void {
    const id = this.#nodes.get(nodeKey)?.identity?.nodeId;
    if (id !== undefined && this.#keyOfId.get(id) === nodeKey) this.#keyOfId.delete(id);
    this.#nodes.delete(nodeKey);
    this.#leaving.delete(nodeKey);
    for (const pool of this.#awaitingRoom.keys()) this.#waitNoMore(pool, nodeKey);
  }

  /** Remembers who a node is. */
  learn(nodeKey: string, identity: Identity): void {
    this.of(nodeKey).identity = identity;
    this.#keyOfId.set(identity.nodeId, nodeKey);
  }

  /** Node that has this id, if its status does not say so yet. */
  keyOfId(nodeId: string): string | undefined {
    return this.#keyOfId.get(nodeId);
  }

  /** A pod ended by itself: the next one waits, longer each time. */
  podFailed(nodeKey: string): void {
    const memory = this.of(nodeKey);
    const wait = Math.min(recreateCapMs, recreateBaseMs * 2 ** Math.min(memory.failures, 10));
    memory.failures++;
    memory.recreateAt = this.#clock.monotonic() + wait;
  }

  podReady(nodeKey: string): void {
    this.of(nodeKey).failures = 0;
  }

  recreateInMs(nodeKey: string): number {
    return Math.max(0, this.of(nodeKey).recreateAt - this.#clock.monotonic());
  }

  /** Whether the network says something else of the node than it last did. */
  isNews(nodeKey: string, view: string): boolean {
    const memory = this.of(nodeKey);
    if (memory.view === view) return false;
    memory.view = view;
    return true;
  }

  /** The status is as it is written. */
  statusWritten(nodeKey: string): void {
    this.of(nodeKey).unwrittenSince = undefined;
  }

  /** The status differs from what is written: milliseconds until it has done so for `settleMs`. */
  statusDueInMs(nodeKey: string, settleMs: number): number {
    const memory = this.of(nodeKey);
    const now = this.#clock.monotonic();
    memory.unwrittenSince ??= now;
    return Math.max(0, memory.unwrittenSince + settleMs - now);
  }

  /** The API server does not give a running pod this size. */
  refuseResize(nodeKey: string, podUid: string, size: string, why: string): void {
    this.of(nodeKey).resizeRefused = { podUid, size, why };
  }

  /** Why it did not, if this was the pod and the size. */
  resizeRefused(nodeKey: string, podUid: string, size: string): string | undefined {
    const last = this.of(nodeKey).resizeRefused;
    return last?.podUid === podUid && last.size === size ? last.why : undefined;
  }

  /** A pod's agent is given orders. @param quiet they change nothing of what it applies. */
  ordered(nodeKey: string, podUid: string, revision: number, quiet = false): void {
    const last = this.mustRead(nodeKey, podUid);
    this.of(nodeKey).mustRead = { podUid, revision: quiet ? (last ?? revision - 1) : revision };
  }

  /** Newest revision of the pod's orders that changed what its agent applies; undefined = none is known. */
  mustRead(nodeKey: string, podUid: string): number | undefined {
    const last = this.of(nodeKey).mustRead;
    return last?.podUid === podUid ? last.revision : undefined;
  }

  /** Counts a prefetch of a network before the caches show it. */
  beginFetch(network: string, name: string): void {
    this.#fetches.set(name, { network, expires: this.#clock.monotonic() + claimMs });
  }

  /** Prefetches of a network that were just begun. @param shown whether a cache has the one of that name. */
  fetchesBegun(network: string, shown: (name: string) => boolean): number {
    let count = 0;
    for (const [name, begun] of this.#fetches) {
      if (begun.expires <= this.#clock.monotonic() || shown(name)) this.#fetches.delete(name);
      else if (begun.network === network) count++;
    }
    return count;
  }

  /** A host does not know image volumes; "" = the API server does not. */
  noVolumesOn(host: string): void {
    this.#noVolumes.add(host);
  }

  volumesOn(host: string): boolean {
    return !this.#noVolumes.has("") && !this.#noVolumes.has(host);
  }

  /**
   * A node is told of its stop, in this revision of its orders.
   *
   * @param pool UID of the pool that has it.
   * @param isPlanned false: it moves by itself, and no cache shows when it is gone.
   */
  leaves(
    nodeKey: string,
    podUid: string,
    pool: string | undefined,
    { revision, isPlanned }: { readonly revision: number; readonly isPlanned: boolean },
  ): void {
    const shownBy = isPlanned ? revision : Number.POSITIVE_INFINITY;
    this.#leaving.set(nodeKey, { podUid, shownBy, expires: this.#clock.monotonic() + claimMs });
    this.leftService(podUid);
    if (pool !== undefined) this.#waitNoMore(pool, nodeKey);
  }

  #waitNoMore(pool: string, nodeKey: string): void {
    const waiting = this.#awaitingRoom.get(pool);
    waiting?.delete(nodeKey);
    if (waiting?.size === 0) this.#awaitingRoom.delete(pool);
  }

  /** Nodes of a pool that serve and stay, as they were counted a moment ago; undefined = it is time to count. */
  serving(pool: string): number | undefined {
    const counted = this.#serving.get(pool);
    return counted && counted.expires > this.#clock.monotonic() ? counted.pods.size : undefined;
  }

  /** @param pods UIDs of those that serve and stay. */
  counted(pool: string, pods: Set<string>): void {
    this.#serving.set(pool, { pods, expires: this.#clock.monotonic() + lookMs });
  }

  /** A pod came back into service since its pool was counted. */
  backInService(pool: string, podUid: string): void {
    this.#serving.get(pool)?.pods.add(podUid);
  }

  /** A pod serves no more: whose it was cannot be told where its node is gone. */
  leftService(podUid: string): void {
    for (const [pool, { pods }] of this.#serving)
      if (pods.delete(podUid) && pods.size === 0) this.#serving.delete(pool);
  }

  /** Queues a node until its pool can do without it. */
  awaitRoom(pool: string, nodeKey: string): void {
    const waiting = this.#awaitingRoom.get(pool);
    if (waiting) waiting.add(nodeKey);
    else this.#awaitingRoom.set(pool, new Set([nodeKey]));
  }

  /** Takes who has waited longest off the queue. */
  nextForRoom(pool: string): string | undefined {
    const [next] = this.#awaitingRoom.get(pool) ?? [];
    if (next !== undefined) this.#waitNoMore(pool, next);
    return next;
  }

  /** Whether a node has just been told of its stop, in the pod that the cache shows, and the orders there are older. */
  isLeaving(nodeKey: string, podUid: string, shown: number): boolean {
    const told = this.#leaving.get(nodeKey);
    if (!told) return false;
    const isOld = told.podUid !== podUid || told.expires <= this.#clock.monotonic();
    if (!isOld && shown < told.shownBy) return true;
    this.#leaving.delete(nodeKey);
    return false;
  }

  /** Takes the turn of a group for a node. */
  claim(group: string, nodeKey: string): void {
    this.#looks.delete(group);
    this.#claims.set(group, { nodeKey, expires: this.#clock.monotonic() + claimMs });
  }

  /** What the last look at a whole group found. */
  lastLook(group: string): { readonly blocker: string | undefined } | undefined {
    const look = this.#looks.get(group);
    return look && (look.blocker !== undefined || look.expires > this.#clock.monotonic()) ? look : undefined;
  }

  /** Keeps what a look at a whole group found: the key of a node that is in the way, or that there is none. */
  looked(group: string, blocker: string | undefined): void {
    this.#looks.set(group, { blocker, expires: this.#clock.monotonic() + lookMs });
  }

  /** Whether another node has just taken the turn. */
  claimedByOther(group: string, nodeKey: string): boolean {
    const claim = this.#claims.get(group);
    return claim !== undefined && claim.nodeKey !== nodeKey && claim.expires > this.#clock.monotonic();
  }

  /** Whether the node has the turn of its group. */
  holds(group: string, nodeKey: string): boolean {
    return this.#claims.get(group)?.nodeKey === nodeKey;
  }

  /** Queues a node for the turn of its group. */
  awaitTurn(group: string, nodeKey: string): void {
    const queue = this.#queues.get(group);
    if (queue) queue.add(nodeKey);
    else this.#queues.set(group, new Set([nodeKey]));
  }

  /** Gives the turn back; returns who has waited longest. */
  release(group: string): string | undefined {
    this.#claims.delete(group);
    const queue = this.#queues.get(group);
    const [next] = queue ?? [];
    if (next === undefined || !queue) return undefined;
    queue.delete(next);
    if (queue.size === 0) this.#queues.delete(group);
    return next;
  }
}
