import * as z from "zod/mini";
import { bindingSchema, grantSchema } from "./binding.ts";
import { ProtocolError } from "./codes.ts";
import {
  attemptField,
  bytes16Field,
  bytes32Field,
  countField,
  type JobId,
  jobIdField,
  keyIdField,
  nodeIdField,
  sha256Field,
  textField,
  timeField,
  versionField,
} from "./fields.ts";
import { parsePayload } from "./frame.ts";
import { signJws, splitJws, type UnverifiedJws, verifyJws } from "./jws.ts";
import { importPublicKey, type SigningKey, type VerifyKey } from "./keys.ts";
import { bodySizeField, latest, report } from "./messages.ts";

/**
 * What a node says by HTTP: the body of a POST is one compact JWS, as in ACME (RFC 8555 §6). Its header carries the
 * `url` as dialled and a `seq` that grows with each request of the node (kept by the service; a refusal names the
 * last one). Registration has no seq yet: it carries a `nonce` from the service and the public key as `jwk`.
 */

/** `content-type` of requests and of signed answers. */
export const envelopeContentType = "application/jose";
export const registerTyp = "rn1.register";
export const pingTyp = "rn1.ping";
export const httpHeartbeatTyp = "rn1.http-heartbeat";
export const jobInputTyp = "rn1.job-input";
export const jobOutputTyp = "rn1.job-output";
/** Header that carries the envelope of a request whose body is raw bytes (`job-output`). */
export const envelopeHeader = "resultity-request";
/** `typ` of the service's signed answer to any of them. */
export const httpAnswerTyp = "rn1.http-answer";

/** Paths on the IO service. */
export const paths = {
  session: "/v1/session",
  nonce: "/v1/nodes/nonce",
  register: "/v1/nodes/register",
  ping: "/v1/nodes/ping",
  keyChange: "/v1/nodes/key-change",
  heartbeat: "/v1/nodes/heartbeat",
  jobInput: (job: JobId): string => `/v1/nodes/jobs/${job}/input`,
  jobOutput: (job: JobId): string => `/v1/nodes/jobs/${job}/output`,
  root: "/v1/config/root",
  release: "/v1/config/release",
  latest: "/v1/config/latest",
  snapshot: (digest: string): string => `/v1/config/snapshots/${digest}`,
  feed: "/v1/fleet/feed",
  /** POST with an account's authorization, no body: voids the node's key. */
  revoke: (node: string): string => `/v1/fleet/nodes/${node}/revoke`,
} as const;

/** Answer of `GET /v1/nodes/nonce`: JSON, not signed; the nonce is opaque and good for one registration. */
export const nonceSchema = z.object({ nonce: z.string().check(z.minLength(16), z.maxLength(512)) });

export const registerSchema = z.object({
  binding: bindingSchema,
  /** The account names the key that registers: needed for every key but the node's first. */
  grant: z.optional(grantSchema),
  agent_version: versionField,
  time: timeField,
});
export const pingSchema = z.object({ node_id: nodeIdField, time: timeField });
export const httpHeartbeatSchema = z.object({
  node_id: nodeIdField,
  time: timeField,
  nonce: bytes32Field,
  report,
});

/** Asks for the input of a job that was offered with `input`: the answer's body is its raw bytes. */
export const jobInputSchema = z.object({
  node_id: nodeIdField,
  time: timeField,
  job: jobIdField,
  attempt: attemptField,
  token: bytes16Field,
});
/** Brings the whole output of a job: the request's body is its raw bytes, this stands in {@link envelopeHeader}. */
export const jobOutputSchema = z.object({
  ...jobInputSchema.shape,
  sha256: sha256Field,
  size: bodySizeField,
});

/** The service's answer. `latest` is there for heartbeats; `http_seq` is the last accepted. */
export const httpAnswerSchema = z.object({
  node_id: nodeIdField,
  time: timeField,
  http_seq: countField,
  latest: z.optional(latest),
  /** The node's key from now on, in answers to a registration and to a key change. */
  kid: z.optional(keyIdField),
  /** Set when the request was refused. */
  error: z.optional(z.object({ code: textField, message: textField })),
});
export type HttpAnswer = z.infer<typeof httpAnswerSchema>;

/** Signs a request of a registered node. */
export function sealRequest(
  typ: string,
  payload: unknown,
  key: SigningKey,
  url: string,
  seq: number,
): string {
  return signJws(typ, JSON.stringify(payload), key, { url, seq });
}

/** Signs a registration. `nonce` comes from `GET /v1/nodes/nonce`. */
export function sealRegistration(
  payload: z.infer<typeof registerSchema>,
  key: SigningKey,
  url: string,
  nonce: string,
): string {
  return signJws(registerTyp, JSON.stringify(payload), key, { url, nonce, jwk: key.jwk });
}

/** A verified request of a node. */
export interface VerifiedRequest<T> {
  readonly payload: T;
  readonly key: VerifyKey;
  /** As dialled. */
  readonly url: string;
  readonly seq: number;
}

/**
 * Checks a request: form, typ, url, key, signature, schema, in this order. The caller checks `seq` in its store, in the
 * transaction that keeps it.
 *
 * @throws {ProtocolError}
 */
export function openRequest<T>(
  body: string,
  typ: string,
  schema: z.ZodMiniType<T>,
  expected: { readonly urls: readonly string[]; readonly keyFor: (jws: UnverifiedJws) => VerifyKey },
): VerifiedRequest<T> {
  const jws = splitJws(body, typ);
  const { url, seq } = jws.header;
  if (typeof url !== "string" || !expected.urls.includes(url))
    throw new ProtocolError("wrong_audience", "url is not that of this request");
  if (typeof seq !== "number" || !Number.isSafeInteger(seq) || seq < 1)
    throw new ProtocolError("sequence", "header has no seq");
  const key = expected.keyFor(jws);
  return { payload: parsePayload(schema, verifyJws(jws, key), typ), key, url, seq };
}

/**
 * Checks a registration's own consistency: the embedded key signed it, its thumbprint is `kid` and the binding's
 * `node_id`, or else named by a grant for that node. Nonce and MACs are the caller's to check, before.
 *
 * @throws {ProtocolError}
 */
export function openRegistration(
  body: string,
  urls: readonly string[],
): { readonly payload: z.infer<typeof registerSchema>; readonly key: VerifyKey; readonly nonce: string } {
  const jws = splitJws(body, registerTyp);
  const { url, nonce, jwk } = jws.header;
  if (typeof url !== "string" || !urls.includes(url))
    throw new ProtocolError("wrong_audience", "url is not that of this request");
  if (typeof nonce !== "string") throw new ProtocolError("wrong_challenge", "registration has no nonce");
  const parsed = z.object({ kty: z.literal("OKP"), crv: z.literal("Ed25519"), x: z.string() }).safeParse(jwk);
  if (!parsed.success) throw new ProtocolError("unknown_key", "registration has no Ed25519 key in jwk");
  const key = importPublicKey(parsed.data);
  const payload = parsePayload(registerSchema, verifyJws(jws, key), registerTyp);
  const { binding, grant } = payload;
  if (!grant && String(binding.node_id) !== String(key.kid))
    throw new ProtocolError("wrong_node", "binding is for another key, and no grant names this one");
  if (grant && grant.kid !== key.kid) throw new ProtocolError("wrong_node", "grant is for another key");
  if (grant && (grant.node_id !== binding.node_id || grant.account !== binding.account))
    throw new ProtocolError("wrong_node", "grant and binding are not of one node and account");
  if (grant && grant.network !== binding.network)
    throw new ProtocolError("wrong_network", "grant and binding are not of one network");
  return { payload, key, nonce };
}

/** Signs the service's answer. */
export function sealAnswer(answer: HttpAnswer, key: SigningKey): string {
  return signJws(httpAnswerTyp, JSON.stringify(answer), key);
}

/** @throws {ProtocolError} when the service did not sign it. */
export function openAnswer(body: string, service: VerifyKey): HttpAnswer {
  return parsePayload(httpAnswerSchema, verifyJws(splitJws(body, httpAnswerTyp), service), "answer");
}
