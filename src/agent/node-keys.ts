import type { Grant } from "../protocol/binding.ts";
import type { KeyId, NodeId, SigningKey, VerifyKey } from "../protocol/keys.ts";

/** Keys as the identity folder has them at one time. */
export interface FolderKeys {
  /** `key.jwk` */
  readonly key: SigningKey;
  /** `next.jwk`: to which the node is to roll over; undefined = it is to keep its key. */
  readonly next: SigningKey | undefined;
  /** `former.json`: public halves of keys that the node had, oldest first. */
  readonly former: readonly VerifyKey[];
  /** `grant.json`: the account's word for one of the keys. */
  readonly grant: Grant | undefined;
}

/**
 * The keys of a node, and which of them it signs with. The folder says which there are; the service, by what it takes and
 * refuses, which is the node's now. Only in memory: after a restart the service is asked again.
 */
export class NodeKeys {
  readonly nodeId: NodeId;
  #folder: FolderKeys;
  #current: SigningKey;
  /** All that the node has or had as far as this process knows. */
  readonly #known = new Map<KeyId, VerifyKey>();

  constructor(nodeId: NodeId, folder: FolderKeys) {
    this.nodeId = nodeId;
    this.#folder = folder;
    this.#current = folder.key;
    this.#learn();
  }

  /** Keys of a node that has but one. */
  static of(nodeId: NodeId, key: SigningKey): NodeKeys {
    return new NodeKeys(nodeId, { key, next: undefined, former: [], grant: undefined });
  }

  /** The key that the node signs with. */
  get current(): SigningKey {
    return this.#current;
  }

  /** Private keys of the folder, the current one first. */
  get held(): readonly SigningKey[] {
    const { key, next } = this.#folder;
    const others = [key, ...(next ? [next] : [])].filter(({ kid }) => kid !== this.#current.kid);
    return [this.#current, ...others];
  }

  /** Every key that the folder holds or has held. */
  get known(): readonly VerifyKey[] {
    return [...this.#known.values()];
  }

  /** The key that the node is to roll over to; undefined = none, or it has. */
  get wanted(): SigningKey | undefined {
    const { next } = this.#folder;
    return next?.kid === this.#current.kid ? undefined : next;
  }

  /** With which key, and which grant, the node can register; undefined = none of its keys can without a (newer) grant. */
  get registration(): { readonly key: SigningKey; readonly grant: Grant | undefined } | undefined {
    const { grant } = this.#folder;
    const granted = this.held.find(({ kid }) => kid === grant?.kid);
    if (granted) return { key: granted, grant };
    const first = this.held.find(({ kid }) => String(kid) === String(this.nodeId));
    return first && { key: first, grant: undefined };
  }

  /** Signs with one of the folder's keys from now on. */
  use(key: SigningKey): void {
    this.#current = key;
    this.#learn();
  }

  /** Signs with a key of the folder that is not among `refused`; false if there is none. */
  useAnother(refused: ReadonlySet<KeyId>): boolean {
    const other = this.held.find(({ kid }) => !refused.has(kid));
    if (other) this.use(other);
    return other !== undefined;
  }

  /** The folder has changed. True if it no longer has the current key: then the node signs with `key.jwk`. */
  take(folder: FolderKeys): boolean {
    this.#folder = folder;
    const kept = [folder.key, folder.next].some((key) => key?.kid === this.#current.kid);
    if (!kept) this.#current = folder.key;
    this.#learn();
    return !kept;
  }

  #learn(): void {
    for (const key of [...this.#folder.former, ...this.held]) this.#known.set(key.kid, key);
  }
}
