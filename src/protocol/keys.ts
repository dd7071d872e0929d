import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
} from "node:crypto";
import { ProtocolError } from "./codes.ts";

/** RFC 7638 thumbprint (SHA-256, base64url, 43 characters) of an Ed25519 public key. */
export type KeyId = string & { readonly brand: "KeyId" };
/** Thumbprint of a node's *first* key; it stays when the key is rolled over. */
export type NodeId = string & { readonly brand: "NodeId" };

/** Ed25519 public key as a JWK (RFC 8037). `x`: 32 bytes, base64url. */
export interface PublicJwk {
  readonly kty: "OKP";
  readonly crv: "Ed25519";
  readonly x: string;
}

/** Ed25519 private key as a JWK. `d` is the secret: never logged. */
export interface PrivateJwk extends PublicJwk {
  readonly d: string;
}

/** A public key ready for verification. */
export interface VerifyKey {
  readonly kid: KeyId;
  readonly jwk: PublicJwk;
  readonly key: KeyObject;
}

/** A private key ready for signing. */
export interface SigningKey extends VerifyKey {
  readonly privateKey: KeyObject;
}

const keyBytes = /^[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]$/;

/** True for a canonical base64url text of 32 bytes: a thumbprint, a key, a SHA-256, a challenge. */
export function isBytes32(text: string): boolean {
  return keyBytes.test(text);
}

/** RFC 7638 thumbprint: SHA-256 over the required members in lexical order. */
export function thumbprint(jwk: PublicJwk): KeyId {
  const canonical = `{"crv":"Ed25519","kty":"OKP","x":"${jwk.x}"}`;
  return createHash("sha256").update(canonical).digest("base64url") as KeyId;
}

/**
 * Imports a public key.
 * @throws {ProtocolError} `malformed` when it is not a canonical Ed25519 JWK.
 */
export function importPublicKey(jwk: PublicJwk): VerifyKey {
  if (jwk.kty !== "OKP" || jwk.crv !== "Ed25519" || !isBytes32(jwk.x)) {
    throw new ProtocolError("malformed", "key is not an Ed25519 JWK (kty OKP, crv Ed25519, x of 32 bytes)");
  }
  const bare: PublicJwk = { kty: "OKP", crv: "Ed25519", x: jwk.x };
  try {
    return { kid: thumbprint(bare), jwk: bare, key: createPublicKey({ format: "jwk", key: { ...bare } }) };
  } catch (cause) {
    throw new ProtocolError("malformed", "key is not a point of Ed25519", { cause });
  }
}

/**
 * Imports a private key.
 * @throws {ProtocolError} `malformed`; the message does not repeat the key.
 */
export function importPrivateKey(jwk: PrivateJwk): SigningKey {
  const pub = importPublicKey(jwk);
  if (typeof jwk.d !== "string" || !isBytes32(jwk.d))
    throw new ProtocolError("malformed", "private key has no d of 32 bytes");
  try {
    const privateKey = createPrivateKey({ format: "jwk", key: { ...pub.jwk, d: jwk.d } });
    if (createPublicKey(privateKey).export({ format: "jwk" }).x !== jwk.x)
      throw new Error("x does not belong to d");
    return { ...pub, privateKey };
  } catch {
    throw new ProtocolError("malformed", "private key is not a matching Ed25519 pair");
  }
}

/** Makes a new Ed25519 key from the system's random source. */
export function generateKey(): PrivateJwk {
  const { privateKey } = generateKeyPairSync("ed25519");
  const { x, d } = privateKey.export({ format: "jwk" });
  if (x === undefined || d === undefined) throw new Error("Ed25519 key without x or d");
  return { kty: "OKP", crv: "Ed25519", x, d };
}
