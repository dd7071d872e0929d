import { createCipheriv, createDecipheriv, hkdfSync } from "node:crypto";
import * as z from "zod/mini";
import { keyIdField } from "../../protocol/fields.ts";
import { parsePayload } from "../../protocol/frame.ts";
import { decodeUtf8 } from "../../protocol/jws.ts";
import type { SigningKey } from "../../protocol/keys.ts";

/**
 * Encryption of what the agent keeps on its disk (AES-256-GCM). Everything is sealed with one random key, and that key is
 * kept beside it, sealed once for each identity key that the node has (by a key derived from it with HKDF, RFC 5869). So
 * the disk alone tells nothing, and a rollover costs one small file: for its time both keys open it.
 */

const nonceBytes = 12;
const tagBytes = 16;
/** A cipher makes a copy of what it is given: pieces keep that small. */
const pieceBytes = 256 * 1024;

/** Seals `parts`, one after the other, under `about`, which must be named again to open it. @param nonce 12 bytes, never used before with the key. */
export function seal(key: Uint8Array, nonce: Buffer, about: string, parts: readonly Uint8Array[]): Buffer {
  const size = parts.reduce((sum, part) => sum + part.length, 0);
  const sealed = Buffer.allocUnsafe(nonceBytes + size + tagBytes);
  nonce.copy(sealed, 0, 0, nonceBytes);
  const cipher = createCipheriv("aes-256-gcm", key, nonce.subarray(0, nonceBytes));
  cipher.setAAD(Buffer.from(about));
  let at = nonceBytes;
  for (const part of parts) {
    for (let from = 0; from < part.length; from += pieceBytes)
      at += cipher.update(part.subarray(from, from + pieceBytes)).copy(sealed, at);
  }
  cipher.final();
  cipher.getAuthTag().copy(sealed, at);
  return sealed;
}

/** Opens what {@link seal} made. @throws Error when key, `about` or a byte differ. */
export function unseal(key: Uint8Array, about: string, sealed: Buffer): Buffer {
  if (sealed.length < nonceBytes + tagBytes) throw new Error("too short to be sealed");
  const end = sealed.length - tagBytes;
  const opening = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, nonceBytes));
  opening.setAAD(Buffer.from(about));
  opening.setAuthTag(sealed.subarray(end));
  const open = Buffer.allocUnsafe(end - nonceBytes);
  for (let from = nonceBytes; from < end; from += pieceBytes)
    opening.update(sealed.subarray(from, Math.min(end, from + pieceBytes))).copy(open, from - nonceBytes);
  opening.final();
  return open;
}

/** The file of the random key: what it is sealed with, by identity key. */
const keyFile = z.object({
  keys: z
    .array(z.object({ kid: keyIdField, sealed: z.string().check(z.maxLength(256)) }))
    .check(z.maxLength(16)),
});

const about = "results key";

/** The key that an identity key seals the random key with. */
function wrapping({ privateKey }: SigningKey): Uint8Array {
  const { d = "" } = privateKey.export({ format: "jwk" });
  return new Uint8Array(hkdfSync("sha256", Buffer.from(d, "base64url"), "", "rn1.results", 32));
}

/** The random key's file: readable with any one of `holders`. @param nonce gives 12 new random bytes. */
export function wrapKey(key: Uint8Array, holders: readonly SigningKey[], nonce: () => Buffer): string {
  const keys = holders.map((holder) => ({
    kid: holder.kid,
    sealed: seal(wrapping(holder), nonce(), about, [key]).toString("base64url"),
  }));
  return JSON.stringify({ keys });
}

/** The random key, and the ids of the keys that can open its file; undefined if none of `holders` can. @throws Error when it is no such file. */
export function unwrapKey(
  file: Buffer,
  holders: readonly SigningKey[],
): { readonly key: Buffer; readonly kids: readonly string[] } | undefined {
  const { keys } = parsePayload(keyFile, decodeUtf8(file), "results key");
  for (const { kid, sealed } of keys) {
    const holder = holders.find((each) => each.kid === kid);
    if (holder)
      return {
        key: unseal(wrapping(holder), about, Buffer.from(sealed, "base64url")),
        kids: keys.map((each) => each.kid),
      };
  }
  return undefined;
}
