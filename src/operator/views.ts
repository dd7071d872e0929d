import type { AccountKey } from "../protocol/binding.ts";
import type { Release } from "../protocol/config/release.ts";
import type { TrustedRoot } from "../protocol/config/root.ts";
import type { Snapshot } from "../protocol/config/snapshot.ts";
import type { FeedNode } from "../protocol/feed.ts";
import type { ConfigDigest } from "../protocol/fields.ts";
import type { ModelPolicy } from "./node/model-policy.ts";
import type { ImagePolicy } from "./node/places.ts";
import type { NodeId } from "../protocol/keys.ts";

/**
 * What the network controller has found out and the others build on. Held in memory and not in objects: the account key
 * is a secret, and the fleet feed is hot. Networks are named by `namespace/name` of their ResultityNetwork.
 */

/** A network whose root is trusted and whose account key is known. All of it is verified. */
export interface NetworkConfig {
  /** UID of the ResultityNetwork that this was read from. */
  readonly uid: string;
  readonly root: TrustedRoot;
  /** Account id, as in the spec. */
  readonly account: string;
  readonly accountKey: AccountKey;
  /** Base URLs of the IO service as the spec has them, in its order. */
  readonly endpoints: readonly string[];
  /** Newest verified release; undefined while none has been seen. */
  readonly release: Release | undefined;
  /** Digest that nodes move to: the network's pin, else `current` of the release; undefined while there is none. */
  readonly current: ConfigDigest | undefined;
  /** Verified snapshots that the ConfigMap `<network>-config` holds: current, and what is target or applied of a node. */
  readonly snapshots: ReadonlyMap<ConfigDigest, Snapshot>;
  /** What the network's owner says about images. */
  readonly images: ImagePolicy;
  /** And about models. */
  readonly models: ModelPolicy;
  /** Whether nodes in service may be restarted for what the network brings: false outside of its maintenance windows. */
  readonly mayRestart: boolean;
  /** Wall time, ms, at which `mayRestart` changes by itself; undefined = never. */
  readonly restartsUntil: number | undefined;
}

/** The networks' configs, as everyone but the network controller sees them. */
export interface NetworkConfigView {
  get(networkKey: string): NetworkConfig | undefined;
  /** Calls `listener` after each change of a network. Returns the way to stop. */
  subscribe(listener: (networkKey: string) => void): () => void;
}

/** The networks' own view of our nodes (protocol/feed.ts), as everyone but the network controller sees it. */
export interface FleetView {
  /** What the network last said of a node; undefined when it does not know it, or has said nothing yet. */
  get(networkKey: string, nodeId: string): FeedNode | undefined;
  /** True while the feed is open and has told all (`synced`): only then does silence about a node mean anything. */
  live(networkKey: string): boolean;
  /** Calls `listener` after each change: of one node, or of `live` (nodeId undefined). Returns the way to stop. */
  subscribe(listener: (networkKey: string, nodeId: NodeId | undefined) => void): () => void;
}

/** {@link NetworkConfigView} that the network controller writes. */
export class NetworkConfigs implements NetworkConfigView {
  readonly #configs = new Map<string, NetworkConfig>();
  readonly #listeners = new Set<(networkKey: string) => void>();

  get(networkKey: string): NetworkConfig | undefined {
    return this.#configs.get(networkKey);
  }

  /** Puts what is now known of a network, or forgets it; tells the subscribers. */
  set(networkKey: string, config: NetworkConfig | undefined): void {
    if (config) this.#configs.set(networkKey, config);
    else if (!this.#configs.delete(networkKey)) return;
    for (const listener of this.#listeners) listener(networkKey);
  }

  subscribe(listener: (networkKey: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }
}

/**
 * Most that is remembered of one network's feed, bytes: the operator serves many networks, and no service may fill its memory.
 * 10,000 nodes take a seventh of it. A node counts with its line and {@link bytesPerNode}.
 */
export const maxFeedBytes = 64 * 1024 * 1024;
const bytesPerNode = 512;

/** What a network's feed has said. */
interface Told {
  readonly nodes: Map<string, { readonly node: FeedNode; readonly bytes: number }>;
  bytes: number;
}

/** {@link FleetView} that the network controller writes. */
export class Fleet implements FleetView {
  readonly #told = new Map<string, Told>();
  readonly #live = new Set<string>();
  readonly #listeners = new Set<(networkKey: string, nodeId: NodeId | undefined) => void>();

  get(networkKey: string, nodeId: string): FeedNode | undefined {
    return this.#told.get(networkKey)?.nodes.get(nodeId)?.node;
  }

  live(networkKey: string): boolean {
    return this.#live.has(networkKey);
  }

  /**
   * Puts what the feed says of one node.
   *
   * @param size bytes of the line that said it.
   * @throws Error when that is more than is remembered of a network: all of it is then forgotten.
   */
  put(networkKey: string, node: FeedNode, size: number): void {
    let told = this.#told.get(networkKey);
    if (!told) this.#told.set(networkKey, (told = { nodes: new Map(), bytes: 0 }));
    const bytes = size + bytesPerNode;
    told.bytes += bytes - (told.nodes.get(node.node_id)?.bytes ?? 0);
    if (told.bytes > maxFeedBytes) {
      this.forget(networkKey);
      throw new Error(`the feed says more than the ${maxFeedBytes} bytes that are remembered of a network`);
    }
    told.nodes.set(node.node_id, { node, bytes });
    this.#tell(networkKey, node.node_id);
  }

  /**
   * Says that the feed has told all: `known` are the nodes that it named, the others are forgotten. Or, with `known`
   * undefined, that it has ended; what it said stays.
   */
  setLive(networkKey: string, known: ReadonlySet<string> | undefined): void {
    if (known) {
      this.#forgetOthers(networkKey, known);
      this.#live.add(networkKey);
    } else if (!this.#live.delete(networkKey)) return;
    this.#tell(networkKey, undefined);
  }

  #forgetOthers(networkKey: string, known: ReadonlySet<string>): void {
    const told = this.#told.get(networkKey);
    if (!told) return;
    for (const [nodeId, { bytes }] of told.nodes) {
      if (known.has(nodeId)) continue;
      told.nodes.delete(nodeId);
      told.bytes -= bytes;
    }
  }

  /** Forgets a network. */
  forget(networkKey: string): void {
    this.#told.delete(networkKey);
    this.#live.delete(networkKey);
    this.#tell(networkKey, undefined);
  }

  subscribe(listener: (networkKey: string, nodeId: NodeId | undefined) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #tell(networkKey: string, nodeId: NodeId | undefined): void {
    for (const listener of this.#listeners) listener(networkKey, nodeId);
  }
}
