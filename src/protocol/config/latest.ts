import * as z from "zod/mini";
import { ProtocolError } from "../codes.ts";
import { nameField, timeField } from "../fields.ts";
import { parsePayload } from "../frame.ts";
import { signJws, splitJws, verifyJws } from "../jws.ts";
import { importPublicKey, type SigningKey } from "../keys.ts";
import { latest, statementField } from "../messages.ts";
import { checkSkew } from "../session/handshake.ts";
import { verifyDelegation } from "./delegation.ts";
import type { TrustedRoot } from "./root.ts";
import type { Statement } from "./statement.ts";

/** `typ` of what the service knows to be current, as it says it outside a session. */
export const latestTyp = "rn1.latest";

export const latestSchema = z.extend(latest, { network: nameField, time: timeField });
export type LatestStatement = z.infer<typeof latestSchema>;

/** Body of `GET /v1/config/latest?nonce=<32 bytes>`: the signed words, and the delegation of the key that signed them. */
export const latestAnswerSchema = z.object({
  latest: z.string().check(z.maxLength(4096)),
  delegation: statementField,
});

/** Signs what is current and wraps it with the delegation, as the JSON text of the answer. */
export function sealLatest(body: LatestStatement, key: SigningKey, delegation: Statement): string {
  return JSON.stringify({ latest: signJws(latestTyp, JSON.stringify(body), key), delegation });
}

/**
 * Checks an answer of `GET /v1/config/latest`: delegation by the root, signature by the delegated key, network, echo of
 * the nonce, clocks.
 *
 * @param now wall time, ms.
 * @throws {ProtocolError}
 */
export function openLatest(
  json: string,
  root: TrustedRoot,
  asked: { readonly nonce: string; readonly now: number },
): LatestStatement {
  const answer = parsePayload(latestAnswerSchema, json, "latest");
  const delegation = verifyDelegation(answer.delegation, root, asked.now);
  const text = verifyJws(splitJws(answer.latest, latestTyp), importPublicKey(delegation.key));
  const said = parsePayload(latestSchema, text, "latest");
  if (said.network !== root.network) throw new ProtocolError("wrong_network", "latest of another network");
  if (said.nonce !== asked.nonce)
    throw new ProtocolError("wrong_challenge", "latest answers another request");
  checkSkew(said.time, asked.now);
  return said;
}
