import { sign, verify } from "node:crypto";
import type * as z from "zod/mini";
import { ProtocolError } from "../codes.ts";
import { parsePayload } from "../frame.ts";
import { decodeUtf8, splitJws } from "../jws.ts";
import type { KeyId, SigningKey, VerifyKey } from "../keys.ts";
import type { statementField } from "../messages.ts";

/**
 * A statement of the network that several keys may sign: JWS in the general JSON serialisation (RFC 7515 §7.2.1). Each
 * signature is verified by itself and distinct trusted key ids are counted; libraries that stop at the first valid
 * signature cannot tell two signers from one.
 */
export type Statement = z.infer<typeof statementField>;

/** Keys of one role and how many of them must have signed. */
export interface Role {
  readonly threshold: number;
  readonly keys: ReadonlyMap<KeyId, VerifyKey>;
}

/** Makes a statement with one signature per key. */
export function signStatement(typ: string, payload: string, keys: readonly SigningKey[]): Statement {
  const encoded = Buffer.from(payload).toString("base64url");
  return { payload: encoded, signatures: keys.map((key) => signatureOf(typ, encoded, key)) };
}

/** Adds the signature of one more key, replacing an older one of the same key. */
export function cosignStatement(typ: string, statement: Statement, key: SigningKey): Statement {
  const own = signatureOf(typ, statement.payload, key);
  const others = statement.signatures.filter(({ protected: header }) => header !== own.protected);
  return { payload: statement.payload, signatures: [...others, own] };
}

function signatureOf(typ: string, encoded: string, key: SigningKey): Statement["signatures"][number] {
  const header = Buffer.from(JSON.stringify({ alg: "Ed25519", kid: key.kid, typ })).toString("base64url");
  const signature = sign(null, Buffer.from(`${header}.${encoded}`), key.privateKey).toString("base64url");
  return { protected: header, signature };
}

/**
 * Verifies a statement and parses its payload. Signatures by keys outside the role are ignored (a rotation carries
 * those of two roots); a wrong signature by a key of the role is an error, because nobody honest makes one.
 *
 * @throws {ProtocolError} `threshold` names how many distinct keys signed and how many are needed.
 */
export function verifyStatement<T>(
  typ: string,
  statement: Statement,
  role: Role,
  schema: z.ZodMiniType<T>,
): T {
  const signers = new Set<KeyId>();
  for (const { protected: header, signature } of statement.signatures) {
    const jws = splitJws(`${header}.${statement.payload}.${signature}`, typ);
    const key = role.keys.get(jws.header.kid);
    if (!key) continue;
    if (!verify(null, Buffer.from(jws.signingInput), key.key, jws.signature)) {
      throw new ProtocolError("bad_signature", "a signature of the statement does not verify");
    }
    signers.add(jws.header.kid);
  }
  if (signers.size < role.threshold) {
    throw new ProtocolError(
      "threshold",
      `statement ${typ} is signed by ${signers.size} trusted keys, ${role.threshold} distinct ones are needed`,
    );
  }
  const json = decodeUtf8(Buffer.from(statement.payload, "base64url"));
  return parsePayload(schema, json, typ);
}
