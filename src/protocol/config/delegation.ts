import * as z from "zod/mini";
import { ProtocolError } from "../codes.ts";
import { nameField, publicJwkField, timeField } from "../fields.ts";
import { type PublicJwk, type SigningKey } from "../keys.ts";
import type { TrustedRoot } from "./root.ts";
import { signStatement, type Statement, verifyStatement } from "./statement.ts";

/** `typ` of the delegation statement. */
export const delegationTyp = "rn1.delegation";

const delegationSchema = z.object({
  network: nameField,
  key: publicJwkField,
  expires: timeField,
});

/** The network lends its voice to one key of the IO service, for a day at most as a rule. */
export interface Delegation {
  readonly network: string;
  readonly key: PublicJwk;
  /** Wall time in ms. */
  readonly expires: number;
}

/** Signs a delegation with keys of the root's delegation role. */
export function signDelegation(delegation: Delegation, keys: readonly SigningKey[]): Statement {
  return signStatement(delegationTyp, JSON.stringify(delegation), keys);
}

/**
 * @param now wall time, ms.
 * @throws {ProtocolError} `threshold`, `wrong_network`, `expired`.
 */
export function verifyDelegation(statement: Statement, root: TrustedRoot, now: number): Delegation {
  const delegation = verifyStatement(delegationTyp, statement, root.roles.delegation, delegationSchema);
  if (delegation.network !== root.network)
    throw new ProtocolError("wrong_network", "delegation of another network");
  if (delegation.expires <= now) {
    throw new ProtocolError(
      "expired",
      `delegation of the service's key ended at ${new Date(delegation.expires).toISOString()}`,
    );
  }
  return delegation;
}
