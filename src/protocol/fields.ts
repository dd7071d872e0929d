import * as z from "zod/mini";
import { isBytes32, type KeyId, type NodeId } from "./keys.ts";

/**
 * Field types that several messages share, with their bounds. All are strict about form, so that a value has exactly
 * one spelling. Times are integer milliseconds since the Unix epoch, durations integer milliseconds.
 */

/** `sha256:` and 64 lower-case hex digits. */
export type ConfigDigest = string & { readonly brand: "ConfigDigest" };
/** A job's id: the `x-request-id` of the client's response and of the engine's request. */
export type JobId = string & { readonly brand: "JobId" };

const brand = <T extends string>(pattern: RegExp) =>
  z.custom<T>((value) => typeof value === "string" && pattern.test(value));

export const nodeIdField = z.custom<NodeId>((value) => typeof value === "string" && isBytes32(value));
export const keyIdField = z.custom<KeyId>((value) => typeof value === "string" && isBytes32(value));
/** 32 bytes, base64url: challenges, nonces, MACs, hashes of transcripts. */
export const bytes32Field = z.string().check(z.refine(isBytes32));
/** 16 bytes, base64url: lease tokens, session ids, instance ids. */
export const bytes16Field = z.string().check(z.regex(/^[A-Za-z0-9_-]{21}[AQgw]$/));
/** Public key: an Ed25519 JWK with its one spelling of `x`, and without the private half, which nobody is to spread. */
export const publicJwkField = z.object({
  kty: z.literal("OKP"),
  crv: z.literal("Ed25519"),
  x: bytes32Field,
  d: z.optional(z.undefined()),
});
export const digestField = brand<ConfigDigest>(/^sha256:[0-9a-f]{64}$/);
export const jobIdField = brand<JobId>(/^[a-z0-9][a-z0-9_-]{7,63}$/);
export const sha256Field = z.string().check(z.regex(/^[0-9a-f]{64}$/));

/** Name of a network, account, engine or subcloud. */
export const nameField = z.string().check(z.regex(/^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$/i));
/** Name of a model as engines and clients write it, such as `org/name:tag`. No leading slash, no `..`. */
export const modelField = z.string().check(
  z.regex(/^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,254}$/),
  z.refine((name) => !name.split("/").includes("..")),
);
export const versionField = z.string().check(z.regex(/^[0-9A-Za-z][0-9A-Za-z.+_-]{0,63}$/));
/** Image reference with a digest. */
export const imageField = z
  .string()
  .check(z.maxLength(512), z.regex(/^[A-Za-z0-9][A-Za-z0-9._:/-]*@sha256:[0-9a-f]{64}$/));
export const urlField = z.string().check(z.maxLength(2048), z.regex(/^(https?|wss?):\/\/[^\s]+$/));
/** Text for people: codes go into their own fields. */
export const textField = z.string().check(z.maxLength(512));

/** Integer ≥ 0 that JSON and every language hold exactly. */
export const countField = z.int().check(z.nonnegative());
export const timeField = countField;
export const durationField = z.int().check(z.minimum(0), z.maximum(31 * 86_400_000));
export const seqField = z.int().check(z.minimum(1));
export const attemptField = z.int().check(z.minimum(1), z.maximum(1000));
