import type * as z from "zod/mini";
import { ProtocolError } from "./codes.ts";
import { type JsonBounds, parseJson } from "./json.ts";
import { signJws, splitJws, type UnverifiedJws, verifyJws } from "./jws.ts";
import type { KeyId, SigningKey, VerifyKey } from "./keys.ts";
import { type Kind, maxFrameBytes, type Payload, schemas, typOf } from "./messages.ts";

/** A message whose signature and schema have been checked. Only {@link openFrame} makes one. */
export interface Verified<K extends Kind> {
  readonly kind: K;
  readonly kid: KeyId;
  readonly payload: Payload<K>;
  readonly verified: true;
}

/** {@link Verified} of any of several kinds, told apart by `kind`. */
export type VerifiedOf<K extends Kind> = { [P in K]: Verified<P> }[K];

/** Signs a message as one frame. */
export function sealFrame<K extends Kind>(kind: K, payload: Payload<K>, key: SigningKey): string {
  return signJws(typOf(kind), JSON.stringify(payload), key);
}

/**
 * Checks a frame in order: size, form, `typ` among `kinds`, key, signature, JSON, schema.
 *
 * @param keyFor gives the key that must have signed, from the taken-apart frame (only its `kid` is of use before the
 *   signature is checked), or throws.
 * @throws {ProtocolError}
 */
export function openFrame<K extends Kind>(
  text: string,
  kinds: readonly K[],
  keyFor: VerifyKey | ((frame: UnverifiedJws) => VerifyKey),
): VerifiedOf<K> {
  if (text.length > maxFrameBytes)
    throw new ProtocolError("too_large", `frame is larger than ${maxFrameBytes} bytes`);
  const jws = splitJws(text, kinds.map(typOf));
  const key = typeof keyFor === "function" ? keyFor(jws) : keyFor;
  const json = verifyJws(jws, key);
  const kind = kinds.find((candidate) => typOf(candidate) === jws.header.typ);
  if (kind === undefined) throw new ProtocolError("wrong_typ", "typ is not that of a message expected here");
  const payload = parsePayload(schemas[kind] as unknown as z.ZodMiniType<Payload<K>>, json, kind);
  return { kind, kid: key.kid, payload, verified: true };
}

/**
 * Parses JSON and checks it against `schema`. The error names the first wrong field, never its value.
 *
 * @throws {ProtocolError} `malformed`, `schema`.
 */
export function parsePayload<T>(
  schema: z.ZodMiniType<T>,
  json: string,
  what: string,
  bounds?: JsonBounds,
): T {
  const parsed = schema.safeParse(parseJson(json, bounds));
  if (parsed.success) return parsed.data;
  const path = parsed.error.issues[0]?.path.join(".") ?? "";
  throw new ProtocolError(
    "schema",
    `${what}: field ${path === "" ? "(whole)" : path.slice(0, 100)} is missing or wrong`,
  );
}
