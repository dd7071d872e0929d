import { createHash, createPrivateKey } from "node:crypto";
import { importPrivateKey, type PrivateJwk, type SigningKey } from "../../src/protocol/keys.ts";

/** Head of an Ed25519 private key in PKCS #8 (RFC 8410 §7); the 32 bytes follow. */
const pkcs8 = Buffer.from("302e020100300506032b657004220420", "hex");
const made = new Map<string, { readonly jwk: PrivateJwk; readonly key: SigningKey }>();

/** A key that is the same in every run: its private half is the hash of its name. */
export function keyNamed(name: string): { readonly jwk: PrivateJwk; readonly key: SigningKey } {
  const known = made.get(name);
  if (known) return known;
  const seed = createHash("sha256").update(`simulated key ${name}`).digest();
  const privateKey = createPrivateKey({ key: Buffer.concat([pkcs8, seed]), format: "der", type: "pkcs8" });
  const { x = "" } = privateKey.export({ format: "jwk" });
  const jwk: PrivateJwk = { kty: "OKP", crv: "Ed25519", x, d: seed.toString("base64url") };
  const entry = { jwk, key: importPrivateKey(jwk) };
  made.set(name, entry);
  return entry;
}
