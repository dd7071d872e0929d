import { fullJitter } from "../../lib/backoff.ts";
import type { Timer } from "../../lib/clock.ts";
import { messageOf } from "../../lib/errors.ts";
import type { SigningKey, VerifyKey } from "../../protocol/keys.ts";
import { checkKeys, readKeys } from "../identity.ts";
import type { NodeKeys } from "../node-keys.ts";
import type { Ports } from "../ports.ts";

/** What a rollover needs of the agent. */
export interface RolloverParts {
  readonly keys: NodeKeys;
  /** Folder with the identity; undefined = its keys never change. */
  readonly dir: string | undefined;
  /** The service of the open session, and the key with which it answers; undefined = there is none. */
  readonly peer: () => { readonly endpoint: string; readonly key: VerifyKey } | undefined;
  /** What is sealed on the disk opens with this key too, when it resolves. */
  readonly admit: (key: SigningKey) => Promise<void>;
  /** Asks the service for the change; see `NodeHttp.changeKey`. */
  readonly change: (endpoint: string, serviceKey: VerifyKey, next: SigningKey) => Promise<void>;
  /** The node signs with another key from now on. */
  readonly changed: () => void;
}

/** How often the folder is looked at without a hint that it has changed, ms. */
const lookMs = 30_000;
const backoff = { base: 1_000, cap: 64_000 };

/**
 * Follows the keys of the identity folder. A `next.jwk` is a wish: with an open session the service is asked to make it the
 * node's key, again and again until it has answered; then the node signs with it. The folder is only read: whoever put the
 * key there sees the change at the service, and takes the old one away.
 */
export class KeyRollover {
  readonly #ports: Ports;
  readonly #parts: RolloverParts;
  #unwatch: (() => void) | undefined;
  #look: Timer | undefined;
  #again: Timer | undefined;
  #attempt = 0;
  #busy = false;
  #poked = false;
  #problem = "";

  constructor(ports: Ports, parts: RolloverParts) {
    this.#ports = ports;
    this.#parts = parts;
  }

  start(): void {
    const { dir } = this.#parts;
    if (dir === undefined) return;
    this.#unwatch = this.#ports.files.watch(dir, () => this.poke());
    this.#armLook();
    this.poke();
  }

  stop(): void {
    this.#unwatch?.();
    this.#look?.cancel();
    this.#again?.cancel();
  }

  /** The folder may have changed, or a session has begun. */
  poke(): void {
    this.#poked = true;
    if (this.#busy) return;
    this.#busy = true;
    void this.#work().finally(() => (this.#busy = false));
  }

  #armLook(): void {
    this.#look = this.#ports.clock.setTimer(() => {
      this.#armLook();
      this.poke();
    }, lookMs);
  }

  async #work(): Promise<void> {
    while (this.#poked) {
      this.#poked = false;
      await this.#readFolder();
      await this.#roll();
    }
  }

  async #readFolder(): Promise<void> {
    const { keys, dir, admit, changed } = this.#parts;
    if (dir === undefined) return;
    try {
      const folder = await readKeys(this.#ports.files, dir);
      checkKeys(dir, folder, keys.nodeId);
      // Somebody else's decision, such as a recovery: there is no old key left to stay with.
      if (![folder.key, folder.next].some((key) => key?.kid === keys.current.kid)) {
        await admit(folder.key);
        this.#ports.log.warn({ kid: folder.key.kid }, "the identity folder has another key: taken up");
      }
      if (keys.take(folder)) changed();
      this.#problem = "";
    } catch (thrown) {
      // Half a change, or a wrong one: the node goes on with what it has, and the next look may see the whole of it.
      const why = messageOf(thrown);
      if (why !== this.#problem) this.#ports.log.warn({ why }, "identity folder not taken up");
      this.#problem = why;
    }
  }

  async #roll(): Promise<void> {
    const { keys, peer, admit, change, changed } = this.#parts;
    const next = keys.wanted;
    const service = peer();
    // With the next session this is tried again.
    if (!next || !service || this.#again) return;
    const before = keys.current.kid;
    try {
      await admit(next);
      await change(service.endpoint, service.key, next);
    } catch (thrown) {
      const ms = fullJitter(this.#attempt++, backoff, this.#ports.random.number);
      this.#ports.log.warn({ why: messageOf(thrown), kid: next.kid, ms }, "key not rolled over; tried again");
      this.#again = this.#ports.clock.setTimer(() => {
        this.#again = undefined;
        this.poke();
      }, ms);
      return;
    }
    this.#attempt = 0;
    this.#ports.log.info({ before, kid: next.kid }, "key rolled over: dialling with the new one");
    keys.use(next);
    changed();
  }
}
