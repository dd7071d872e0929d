import { ProtocolError } from "../protocol/codes.ts";
import type { SigningKey } from "../protocol/keys.ts";
import { type Delegation, verifyDelegation } from "../protocol/config/delegation.ts";
import type { TrustedRoot } from "../protocol/config/root.ts";
import type { Statement } from "../protocol/config/statement.ts";

/** The service's own key, and what the network says of it. Without a delegation that holds nobody believes the service. */
export class ServiceKey {
  readonly key: SigningKey;
  #delegation: { readonly statement: Statement; readonly expires: number } | undefined;

  constructor(key: SigningKey) {
    this.key = key;
  }

  /**
   * Takes a delegation, after the same checks that every agent makes.
   *
   * @param now wall time, ms.
   * @throws {ProtocolError} also `unknown_key` when it is for another key.
   */
  delegate(statement: Statement, root: TrustedRoot, now: number): Delegation {
    const delegation = verifyDelegation(statement, root, now);
    if (delegation.key.x !== this.key.jwk.x)
      throw new ProtocolError("unknown_key", "the delegation is for another key than this service's");
    this.#delegation = { statement, expires: delegation.expires };
    return delegation;
  }

  /** The delegation if it holds at `now` (wall time, ms). */
  delegationAt(now: number): Statement | undefined {
    return this.#delegation && this.#delegation.expires > now ? this.#delegation.statement : undefined;
  }

  /** Wall time at which the delegation ends, ms; undefined = none was given. */
  get expires(): number | undefined {
    return this.#delegation?.expires;
  }
}
