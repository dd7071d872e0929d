import type { NetworkConfig } from "../views.ts";
import { type FeedContext, type FeedSource, followFeed } from "./fleet.ts";
import type { Finding } from "./refusal.ts";

interface Followed {
  readonly source: FeedSource;
  readonly abort: AbortController;
  readonly done: Promise<void>;
}

/** The fleet feeds of all networks: one each, for as long as this process leads and the network is there. */
export class Feeds {
  readonly #context: FeedContext;
  readonly #followed = new Map<string, Followed>();
  readonly #refusals = new Map<string, string>();

  /** `changed` is called when a network began or ceased to refuse the account. */
  constructor(context: Omit<FeedContext, "refused">, changed: (networkKey: string) => void) {
    this.#context = {
      ...context,
      refused: (networkKey, message) => {
        if (this.#refusals.get(networkKey) === message) return;
        if (message === undefined) this.#refusals.delete(networkKey);
        else this.#refusals.set(networkKey, message);
        changed(networkKey);
      },
    };
  }

  /** Follows the feed of a network; one that is followed already goes on, unless endpoints or account are others. */
  follow(networkKey: string, { endpoints, account, accountKey }: NetworkConfig): void {
    const source: FeedSource = { networkKey, endpoints, account, accountKey };
    const before = this.#followed.get(networkKey);
    if (before && sameSource(before.source, source)) return;
    before?.abort.abort();
    const abort = new AbortController();
    const previous = before?.done ?? Promise.resolve();
    // One after the other: the end of the old connection says that the feed is not live.
    const done = previous.then(() => followFeed(source, this.#context, abort.signal));
    this.#followed.set(networkKey, { source, abort, done });
  }

  /** Why the network refuses the account; undefined where it does not. */
  refusal(networkKey: string): Finding | undefined {
    const message = this.#refusals.get(networkKey);
    return message === undefined
      ? undefined
      : {
          reason: "AccountSecretInvalid",
          message: `${message}: the network does not accept the account's key. Check that spec.account.id is your account there, that the Secret has its key, and that the clock of this machine is right`,
        };
  }

  /** Ends the feed of a network that is gone, and forgets what it said. */
  async forget(networkKey: string): Promise<void> {
    const followed = this.#followed.get(networkKey);
    this.#followed.delete(networkKey);
    this.#refusals.delete(networkKey);
    followed?.abort.abort();
    await followed?.done;
    this.#context.fleet.forget(networkKey);
  }

  /** Ends all. Resolves when no connection is left. */
  async stop(): Promise<void> {
    await Promise.all([...this.#followed.keys()].map((key) => this.forget(key)));
  }
}

function sameSource(a: FeedSource, b: FeedSource): boolean {
  return (
    a.account === b.account &&
    a.accountKey.equals(b.accountKey) &&
    a.endpoints.length === b.endpoints.length &&
    a.endpoints.every((endpoint, at) => endpoint === b.endpoints[at])
  );
}
