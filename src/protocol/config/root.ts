import * as z from "zod/mini";
import { ProtocolError } from "../codes.ts";
import { keyIdField, nameField, publicJwkField } from "../fields.ts";
import { parsePayload } from "../frame.ts";
import { decodeUtf8 } from "../jws.ts";
import { importPublicKey, type KeyId, type SigningKey, type VerifyKey } from "../keys.ts";
import { statementField } from "../messages.ts";
import { type Role, signStatement, type Statement, verifyStatement } from "./statement.ts";

/** `typ` of the root statement. */
export const rootTyp = "rn1.root";

const role = z.object({
  threshold: z.int().check(z.minimum(1), z.maximum(16)),
  kids: z.array(keyIdField).check(z.minLength(1), z.maxLength(16)),
});

/** Names the keys that a node trusts, and for what. Roles as in The Update Framework: root offline, config n of m, delegation. */
export const rootSchema = z.object({
  network: nameField,
  version: z.int().check(z.minimum(1)),
  keys: z.array(publicJwkField).check(z.minLength(1), z.maxLength(48)),
  roles: z.object({ root: role, config: role, delegation: role }),
});
export type RootPayload = z.infer<typeof rootSchema>;

/** A root that is trusted: given by the user, or reached from one by signed rotations. */
export interface TrustedRoot {
  readonly network: string;
  readonly version: number;
  readonly roles: Readonly<Record<"root" | "config" | "delegation", Role>>;
  /** The statement itself, to be handed on. */
  readonly statement: Statement;
}

/** Signs a root. */
export function signRoot(payload: RootPayload, keys: readonly SigningKey[]): Statement {
  return signStatement(rootTyp, JSON.stringify(payload), keys);
}

/** Parses a statement's JSON text, without believing it. @throws {ProtocolError} */
export function parseStatement(text: string, what: string): Statement {
  if (text.length > 512 * 1024) throw new ProtocolError("too_large", `${what} is larger than 512 KiB`);
  return parsePayload(statementField, text, what);
}

/**
 * Trusts the root that a user has configured. It must be signed by its own root role, so that a torn or mixed-up file
 * is noticed.
 *
 * @throws {ProtocolError} `wrong_network`, `threshold`, `schema`, …
 */
export function trustRoot(statement: Statement, network?: string): TrustedRoot {
  const claimed = parsePayload(rootSchema, decodeUtf8(Buffer.from(statement.payload, "base64url")), rootTyp);
  if (network !== undefined && claimed.network !== network) {
    throw new ProtocolError(
      "wrong_network",
      `the root is that of network ${claimed.network}, not ${network}`,
    );
  }
  const roles = rolesOf(claimed);
  verifyStatement(rootTyp, statement, roles.root, rootSchema);
  return { network: claimed.network, version: claimed.version, roles, statement };
}

/**
 * Moves trust from one root to the next: version N+1, signed by the root roles of both N and N+1.
 *
 * @throws {ProtocolError} `rollback` when the version is not exactly one higher.
 */
export function rotateRoot(current: TrustedRoot, next: Statement): TrustedRoot {
  const payload = verifyStatement(rootTyp, next, current.roles.root, rootSchema);
  if (payload.version !== current.version + 1) {
    throw new ProtocolError("rollback", `root version ${payload.version} does not follow ${current.version}`);
  }
  return trustRoot(next, current.network);
}

function rolesOf(payload: RootPayload): TrustedRoot["roles"] {
  const keys = new Map<KeyId, VerifyKey>();
  for (const jwk of payload.keys) {
    const key = importPublicKey(jwk);
    keys.set(key.kid, key);
  }
  const pick = (name: keyof RootPayload["roles"]): Role => {
    const { threshold, kids } = payload.roles[name];
    const picked = new Map<KeyId, VerifyKey>();
    for (const kid of kids) {
      const key = keys.get(kid);
      if (!key) throw new ProtocolError("schema", `root: role ${name} names a key that is not listed`);
      picked.set(kid, key);
    }
    if (picked.size < threshold) {
      throw new ProtocolError(
        "schema",
        `root: role ${name} has ${picked.size} keys, its threshold is ${threshold}`,
      );
    }
    return { threshold, keys: picked };
  };
  return { root: pick("root"), config: pick("config"), delegation: pick("delegation") };
}
