import { type Secret } from "../../kube/resources.ts";
import { CodedError } from "../../lib/errors.ts";
import { bindingSchema, grantSchema } from "../../protocol/binding.ts";
import { publicJwkField } from "../../protocol/fields.ts";
import { parsePayload } from "../../protocol/frame.ts";
import {
  importPrivateKey,
  type KeyId,
  type NodeId,
  type PrivateJwk,
  type PublicJwk,
  type SigningKey,
  thumbprint,
} from "../../protocol/keys.ts";
import * as z from "zod/mini";
import { keyPrefix } from "../../api/v1alpha1/meta.ts";

/** Entries of the identity Secret, as the agent reads them. */
export const entries = {
  key: "key.jwk",
  next: "next.jwk",
  former: "former.json",
  grant: "grant.json",
  binding: "binding.json",
  root: "root.json",
} as const;

/** On a ResultityNode: a value that is not the Secret's starts a rotation of its key. */
export const rotateKeyAnnotation = `${keyPrefix}rotate-key`;
/** On the identity Secret: value of {@link rotateKeyAnnotation} for which its newest key was made. */
export const rotatedAnnotation = `${keyPrefix}rotated-key`;

/** An identity Secret that cannot be used. */
export class IdentityError extends CodedError<"IdentitySecretInvalid"> {}

/** What an identity Secret says. */
export interface SecretFacts {
  readonly nodeId: NodeId;
  /** The node's key. */
  readonly key: SigningKey;
  /** The key that it is being rolled over to. */
  readonly next: SigningKey | undefined;
  /** Public halves of keys before, oldest first. */
  readonly former: readonly PublicJwk[];
  /** Wish for which the newest key was made; undefined = it is the first. */
  readonly rotated: string | undefined;
}

/** Base64 of a Secret's entries. */
export const encoded = (data: Record<string, string>): Record<string, string> =>
  Object.fromEntries(
    Object.entries(data).map(([name, text]) => [name, Buffer.from(text).toString("base64")]),
  );

/** Reads an identity Secret. @throws {IdentityError} where it holds something else than keys. */
export function factsOf(secret: Secret): SecretFacts {
  const key = privateKey(
    secret,
    entries.key,
    "restore it from a backup, or delete the Secret to start over as a new node",
  );
  if (!key) throw missing(secret);
  const next = privateKey(secret, entries.next, "remove it; to rotate the key, set the annotation anew");
  const former = parsed(secret, entries.former, z.array(publicJwkField)) ?? [];
  return {
    nodeId: nodeIdOf(secret, key, former),
    key,
    next,
    former,
    rotated: secret.metadata.annotations?.[rotatedAnnotation],
  };
}

/**
 * A node's id is the thumbprint of its first key. The binding keeps it when the key has changed since; but a binding beside
 * a key that is not of its node was left behind, and the key is a new node's.
 */
function nodeIdOf(secret: Secret, key: SigningKey, former: readonly PublicJwk[]): NodeId {
  const binding = parsed(secret, entries.binding, bindingSchema);
  const grant = parsed(secret, entries.grant, grantSchema);
  const kids = new Set<string>([key.kid, ...former.map((jwk) => thumbprint(jwk))]);
  const own =
    binding && (kids.has(binding.node_id) || (grant?.node_id === binding.node_id && kids.has(grant.kid)));
  return own ? binding.node_id : firstKeyId(key.kid);
}

/** The id of a node whose key has never been rolled over is that key's. */
export const firstKeyId = (kid: KeyId): NodeId => String(kid) as NodeId;

function privateKey(secret: Secret, entry: string, fix: string): SigningKey | undefined {
  const text = secret.data?.[entry];
  if (text === undefined) return undefined;
  try {
    const jwk: PrivateJwk = JSON.parse(Buffer.from(text, "base64").toString());
    return importPrivateKey(jwk);
  } catch {
    // The cause might repeat the key.
    throw new IdentityError(
      "IdentitySecretInvalid",
      `Secret ${secret.metadata.name}: entry ${entry} is not a private Ed25519 JWK; ${fix}`,
    );
  }
}

const missing = ({ metadata }: Secret): IdentityError =>
  new IdentityError(
    "IdentitySecretInvalid",
    `Secret ${metadata.name}: entry ${entries.key} is missing; restore it from a backup, or delete the Secret to start over as a new node`,
  );

/** What an entry without a secret says; undefined when it is not there or of no use: it is written anew. */
function parsed<T>({ data }: Secret, entry: string, schema: z.ZodMiniType<T>): T | undefined {
  const text = data?.[entry];
  if (text === undefined) return undefined;
  try {
    return parsePayload(schema, Buffer.from(text, "base64").toString(), entry);
  } catch {
    return undefined;
  }
}
