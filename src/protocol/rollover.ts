import * as z from "zod/mini";
import { ProtocolError } from "./codes.ts";
import { keyIdField, nodeIdField, publicJwkField, timeField } from "./fields.ts";
import { parsePayload } from "./frame.ts";
import { sealRequest } from "./http.ts";
import { signJws, splitJws, verifyJws } from "./jws.ts";
import {
  importPublicKey,
  type KeyId,
  type NodeId,
  type PublicJwk,
  type SigningKey,
  type VerifyKey,
} from "./keys.ts";

/**
 * Key rollover: the node says by HTTP that another key is its own from now on, as in ACME (RFC 8555 §7.3.5). The current
 * key signs the request, and inside it the new key signs that it is to follow the current one: so neither a thief of the
 * one can bring in a key of somebody else, nor can anyone give a node a key that it does not hold.
 */

/** `typ` of the request, by the current key, and of what the new key signs inside it. */
export const keyChangeTyp = "rn1.key-change";
export const newKeyTyp = "rn1.key-change-new";

export const keyChangeSchema = z.object({
  node_id: nodeIdField,
  time: timeField,
  /** Compact JWS by the new key. */
  new: z.string().check(z.maxLength(4096)),
});
const newKeySchema = z.object({ node_id: nodeIdField, old_kid: keyIdField, time: timeField });

/** Longest list of former keys that an identity holds. */
export const maxFormerKeys = 1024;

/**
 * The former keys of an identity, oldest first, once `key` is one of them. The first stays, since its thumbprint may be the
 * node's id; of the others the newest {@link maxFormerKeys} stay.
 */
export function withFormer(former: readonly PublicJwk[], key: PublicJwk): readonly PublicJwk[] {
  const all = [...former.filter(({ x }) => x !== key.x), key];
  const [first = key] = all;
  return all.length <= maxFormerKeys ? all : [first, ...all.slice(1 - maxFormerKeys)];
}

/** Signs a change of key. `url`: of the request, as dialled. */
export function sealKeyChange(
  change: {
    readonly nodeId: NodeId;
    readonly from: SigningKey;
    readonly to: SigningKey;
    readonly time: number;
  },
  url: string,
  seq: number,
): string {
  const { nodeId, from, to, time } = change;
  const says = JSON.stringify({ node_id: nodeId, old_kid: from.kid, time });
  const inner = signJws(newKeyTyp, says, to, { url, jwk: to.jwk });
  return sealRequest(keyChangeTyp, { node_id: nodeId, time, new: inner }, from, url, seq);
}

/** What the new key says, verified. */
export interface NewKey {
  readonly key: VerifyKey;
  /** Wall time at which it signed, ms. */
  readonly time: number;
}

/**
 * Checks what stands inside a key change, whose own signature has been checked: form, typ, url, key, signature, node,
 * old key, in this order.
 *
 * @param outer what the request says: its `url`, the node, and the key that signed it.
 * @throws {ProtocolError} `wrong_audience`, `schema` (no public Ed25519 key in `jwk`, or a private one), `unknown_key`
 *   (`kid` is not its thumbprint, or `old_kid` not the key that signed the request), `bad_signature`, `wrong_node`,
 *   `rollback` (the new key is the old one).
 */
export function openNewKey(
  text: string,
  outer: { readonly url: string; readonly nodeId: NodeId; readonly kid: KeyId },
): NewKey {
  const jws = splitJws(text, newKeyTyp);
  const { url, jwk } = jws.header;
  if (url !== outer.url)
    throw new ProtocolError("wrong_audience", "new key: url is not that of the request around it");
  const parsed = publicJwkField.safeParse(jwk);
  if (!parsed.success)
    throw new ProtocolError("schema", "new key: jwk must be a public Ed25519 key, and no more than that");
  const key = importPublicKey(parsed.data);
  const payload = parsePayload(newKeySchema, verifyJws(jws, key), "new key");
  if (payload.node_id !== outer.nodeId)
    throw new ProtocolError("wrong_node", "new key: it was signed for another node");
  if (payload.old_kid !== outer.kid)
    throw new ProtocolError("unknown_key", "new key: it is to follow another key than the one that asks");
  if (key.kid === outer.kid) throw new ProtocolError("rollback", "new key: it is the old one");
  return { key, time: payload.time };
}
