import type { Clock } from "../lib/clock.ts";
import { accountRequestMaxAgeMs, checkAccountClaim, parseAccountAuthorization } from "../protocol/binding.ts";
import type { Accounts } from "./accounts.ts";

/** Most nonces remembered of one account; its requests beyond are refused until some have aged out. */
const maxNonces = 10_000;

/** Nonces of account requests: each is good once. Every account has room of its own, which no other can use up. */
export class UsedNonces {
  readonly #seen = new Map<string, Map<string, number>>();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** False if the account has used it before, or if too many of its nonces are remembered. */
  use(account: string, nonce: string): boolean {
    const now = this.#clock.monotonic();
    let seen = this.#seen.get(account);
    if (!seen) this.#seen.set(account, (seen = new Map()));
    // A claim is good for five minutes on either side of its time.
    for (const [old, at] of seen) {
      if (now - at <= 2 * accountRequestMaxAgeMs) break;
      seen.delete(old);
    }
    if (seen.has(nonce) || seen.size >= maxNonces) return false;
    seen.set(nonce, now);
    return true;
  }
}

/** Tells which account a request is of, by its `authorization` header. */
export class AccountRequests {
  readonly #accounts: Accounts;
  readonly #clock: Clock;
  readonly #nonces: UsedNonces;

  constructor(accounts: Accounts, clock: Clock) {
    this.#accounts = accounts;
    this.#clock = clock;
    this.#nonces = new UsedNonces(clock);
  }

  /** @param request its path with query, as it stands in the request. */
  check(request: {
    readonly method: string;
    readonly path: string;
    readonly authorization: string | undefined;
  }): { readonly account: string } | { readonly refused: string } {
    const claim = parseAccountAuthorization(request.authorization ?? "");
    const key = claim && this.#accounts.keyOf(claim.account);
    const { method, path } = request;
    if (!claim || !key || !checkAccountClaim(key, claim, { method, path, now: this.#clock.now() }))
      return { refused: "authorization: not a request of a known account within five minutes of now" };
    if (!this.#nonces.use(claim.account, claim.nonce)) return { refused: "authorization: nonce used before" };
    return { account: claim.account };
  }
}
