import { createCipheriv, createDecipheriv, createHmac } from "node:crypto";
import { CodedError } from "../../lib/errors.ts";
import type { JobId } from "../../protocol/fields.ts";
import type { BodyPurpose } from "../store/port.ts";

/** `key`: what was sealed with another key, or altered. `missing`: it is not there. */
export class VaultError extends CodedError<"key" | "missing"> {}

const version = 1;
const nonceBytes = 12;
const tagBytes = 16;

/** Gives 16 random bytes, base64url; a nonce takes 12 of them. */
export type NonceSource = () => string;

/**
 * Encrypts what clients ask and are answered before it goes to the disk: AES-256-GCM, bound to the job and to what it is
 * of it, so that no body passes for another. Form: one byte of version, 12 of nonce, ciphertext, 16 of tag. Random nonces
 * are good for some 2³² bodies of a key (NIST SP 800-38D §8.3).
 */
export class BodyVault {
  readonly #key: Uint8Array;
  readonly #nonce: NonceSource;

  /** @param key 32 bytes. */
  constructor(key: Uint8Array, nonce: NonceSource) {
    if (key.length !== 32) throw new VaultError("key", "the key of the bodies must have 32 bytes");
    this.#key = key;
    this.#nonce = nonce;
  }

  /** Tells this key from another, and gives nothing of it away: what a store keeps to notice a wrong key file. */
  get check(): string {
    return createHmac("sha256", this.#key).update("resultity data key check").digest("base64url");
  }

  seal(job: JobId, purpose: BodyPurpose, body: Uint8Array): Uint8Array {
    const nonce = Buffer.from(this.#nonce(), "base64url").subarray(0, nonceBytes);
    const cipher = createCipheriv("aes-256-gcm", this.#key, nonce, { authTagLength: tagBytes });
    cipher.setAAD(context(job, purpose));
    const text = cipher.update(body);
    cipher.final();
    return Buffer.concat([Buffer.of(version), nonce, text, cipher.getAuthTag()]);
  }

  /** @throws {VaultError} */
  open(job: JobId, purpose: BodyPurpose, sealed: Uint8Array | undefined): Buffer {
    if (!sealed) throw new VaultError("missing", `the ${purpose} of ${job} is not in the store`);
    const wrong = `the ${purpose} of ${job} was not written with this data key, or was altered`;
    if (sealed.length < 1 + nonceBytes + tagBytes || sealed[0] !== version)
      throw new VaultError("key", wrong);
    const nonce = sealed.subarray(1, 1 + nonceBytes);
    const decipher = createDecipheriv("aes-256-gcm", this.#key, nonce, { authTagLength: tagBytes });
    decipher.setAAD(context(job, purpose));
    decipher.setAuthTag(sealed.subarray(sealed.length - tagBytes));
    try {
      const body = decipher.update(sealed.subarray(1 + nonceBytes, sealed.length - tagBytes));
      decipher.final();
      return body;
    } catch {
      throw new VaultError("key", wrong);
    }
  }
}

function context(job: JobId, purpose: BodyPurpose): Buffer {
  return Buffer.from(`rn1 ${job} ${purpose}`);
}
