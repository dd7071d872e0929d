import { sign, verify } from "node:crypto";
import { ProtocolError } from "./codes.ts";
import { parseJson } from "./json.ts";
import { type KeyId, type SigningKey, type VerifyKey, isBytes32 } from "./keys.ts";

/**
 * JWS compact serialisation (RFC 7515) narrowed to what the protocol uses: `alg: Ed25519` (RFC 9864), one `typ` per
 * kind of message, `kid` always there. Written here, synchronous and on node:crypto, because a session verifies and
 * signs every frame in order; a general library is asynchronous and accepts more than the protocol allows.
 */

/** Protected header. `url` and `seq` occur in the HTTP envelope only, `jwk` and `nonce` at registration only. */
export interface JwsHeader {
  readonly alg: "Ed25519";
  readonly kid: KeyId;
  readonly typ: string;
  readonly [extra: string]: unknown;
}

/** A compact JWS that has been taken apart but not verified: nothing in it may be believed yet. */
export interface UnverifiedJws {
  readonly header: JwsHeader;
  /** The payload's base64url text. */
  readonly payload: string;
  readonly signingInput: string;
  readonly signature: Buffer;
}

const signatureText = /^[A-Za-z0-9_-]{85}[AQgw]$/;
const base64urlText = /^[A-Za-z0-9_-]*$/;

/** True for base64url without padding whose unused bits are zero: the one spelling of its bytes (RFC 4648 §3.5). */
function isBase64url(text: string): boolean {
  if (!base64urlText.test(text)) return false;
  const last = text.slice(-1);
  switch (text.length % 4) {
    case 0:
      return true;
    case 2:
      return "AQgw".includes(last);
    case 3:
      return "AEIMQUYcgkosw048".includes(last);
    default:
      return false;
  }
}

/** Signs `payload` bytes as a compact JWS. */
export function signJws(
  typ: string,
  payload: string,
  key: SigningKey,
  extra: Readonly<Record<string, unknown>> = {},
): string {
  const header = Buffer.from(JSON.stringify({ alg: "Ed25519", kid: key.kid, typ, ...extra })).toString(
    "base64url",
  );
  const input = `${header}.${Buffer.from(payload).toString("base64url")}`;
  return `${input}.${sign(null, Buffer.from(input), key.privateKey).toString("base64url")}`;
}

/**
 * Takes a compact JWS apart and checks its form: three canonical parts, `alg` Ed25519, `typ` one of `typs`, a `kid` of
 * the right form, no `crit` and no `b64`.
 *
 * @throws {ProtocolError} `malformed`, `wrong_alg`, `wrong_typ`.
 */
export function splitJws(text: string, typs: readonly string[] | string): UnverifiedJws {
  const first = text.indexOf(".");
  const last = text.lastIndexOf(".");
  if (first <= 0 || last === first) throw new ProtocolError("malformed", "not a compact JWS");
  const header = parseHeader(text.slice(0, first));
  if (typeof typs === "string" ? header.typ !== typs : !typs.includes(header.typ)) {
    throw new ProtocolError("wrong_typ", "typ is not that of a message expected here");
  }
  const payload = text.slice(first + 1, last);
  const signature = text.slice(last + 1);
  if (!isBase64url(payload)) throw new ProtocolError("malformed", "payload is not base64url");
  if (!signatureText.test(signature))
    throw new ProtocolError("bad_signature", "signature is not 64 bytes of base64url");
  return {
    header,
    payload,
    signingInput: text.slice(0, last),
    signature: Buffer.from(signature, "base64url"),
  };
}

/** One key, or those of a node whose key has been rolled over: `kid` says which of them has signed. */
export type KeyOrKeys = VerifyKey | readonly VerifyKey[];

/**
 * Verifies a taken-apart JWS with the key that its `kid` names and returns its payload as text.
 *
 * @throws {ProtocolError} `unknown_key` when `kid` is none of `keys`, `bad_signature`, `malformed` (not UTF-8).
 */
export function verifyJws(jws: UnverifiedJws, keys: KeyOrKeys): string {
  const key = [keys].flat().find(({ kid }) => kid === jws.header.kid);
  if (!key) throw new ProtocolError("unknown_key", "kid is not the key of the sender");
  if (!verify(null, Buffer.from(jws.signingInput), key.key, jws.signature)) {
    throw new ProtocolError("bad_signature", "signature does not verify");
  }
  return decodeUtf8(Buffer.from(jws.payload, "base64url"));
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Decodes UTF-8 bytes strictly. @throws {ProtocolError} `malformed`. */
export function decodeUtf8(bytes: Uint8Array): string {
  try {
    return utf8.decode(bytes);
  } catch {
    throw new ProtocolError("malformed", "not UTF-8");
  }
}

/** Headers repeat frame after frame; those that carry nothing but alg, kid and typ are parsed once. */
const headerCache = new Map<string, JwsHeader>();
const headerCacheSize = 4096;
/** Longest header that is remembered: those of the protocol are shorter. */
const cachedHeaderChars = 256;

function parseHeader(text: string): JwsHeader {
  const cached = headerCache.get(text);
  if (cached) return cached;
  if (text.length > 4096 || !isBase64url(text))
    throw new ProtocolError("malformed", "header is not base64url");
  const parsed = parseJson(decodeUtf8(Buffer.from(text, "base64url")), { depth: 2, values: 32 });
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw new ProtocolError("malformed", "header is not an object");
  }
  const header = parsed as Record<string, unknown>;
  if (header["alg"] !== "Ed25519") throw new ProtocolError("wrong_alg", "alg is not Ed25519");
  if (typeof header["typ"] !== "string") throw new ProtocolError("wrong_typ", "header has no typ");
  if (typeof header["kid"] !== "string" || !isBytes32(header["kid"])) {
    throw new ProtocolError("unknown_key", "kid is not a key thumbprint");
  }
  if ("crit" in header || "b64" in header) throw new ProtocolError("malformed", "header with crit or b64");
  const result = header as unknown as JwsHeader;
  if (Object.keys(header).length === 3 && text.length <= cachedHeaderChars) {
    if (headerCache.size >= headerCacheSize) headerCache.clear();
    // A copy: a slice of the frame would keep the whole frame, and strangers send frames too.
    headerCache.set(Buffer.from(text, "latin1").toString("latin1"), result);
  }
  return result;
}
