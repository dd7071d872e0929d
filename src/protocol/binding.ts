import { createHmac, timingSafeEqual } from "node:crypto";
import * as z from "zod/mini";
import { bytes32Field, keyIdField, nameField, nodeIdField, seqField } from "./fields.ts";
import { isBytes32, type KeyId, type NodeId } from "./keys.ts";

/**
 * Binds a node to an account: a MAC with the account key, which operator and IO service share and no agent has. Whoever
 * shows it may register that one node for that account, again and again, and nothing else.
 */
export const bindingSchema = z.object({
  network: nameField,
  account: nameField,
  node_id: nodeIdField,
  mac: bytes32Field,
});
export type Binding = z.infer<typeof bindingSchema>;

/** 256-bit account key. Secret. */
export type AccountKey = Buffer & { readonly brand: "AccountKey" };

/** Reads an account key: 32 bytes in base64url, white space around it allowed; undefined if it is none. */
export function parseAccountKey(text: string): AccountKey | undefined {
  const trimmed = text.trim();
  if (!/^[A-Za-z0-9_-]{43}=?$/.test(trimmed)) return undefined;
  return Buffer.from(trimmed, "base64url") as AccountKey;
}

function mac(key: AccountKey, purpose: string, parts: readonly string[]): Buffer {
  // No part may contain a newline, so the text has one reading.
  return createHmac("sha256", key)
    .update([purpose, ...parts].join("\n"))
    .digest();
}

/** Mints the binding of a node. */
export function mintBinding(key: AccountKey, network: string, account: string, nodeId: NodeId): Binding {
  const bytes = mac(key, "rn1.binding", [network, account, nodeId]);
  return { network, account, node_id: nodeId, mac: bytes.toString("base64url") };
}

/** True if the binding was minted with `key`. Takes the same time whatever differs. */
export function checkBinding(key: AccountKey, binding: Binding): boolean {
  const expected = mac(key, "rn1.binding", [binding.network, binding.account, binding.node_id]);
  return timingSafeEqual(expected, Buffer.from(binding.mac, "base64url"));
}

/**
 * The account's word that `kid` is the node's key from now on. It needs no signature by the key before, so it recovers a
 * node whose key is lost, stolen or revoked. Of two grants the one with the greater generation counts.
 */
export const grantSchema = z.object({
  network: nameField,
  account: nameField,
  node_id: nodeIdField,
  kid: keyIdField,
  generation: seqField,
  mac: bytes32Field,
});
export type Grant = z.infer<typeof grantSchema>;

const grantParts = ({
  network,
  account,
  node_id,
  kid,
  generation,
}: Omit<Grant, "mac">): readonly string[] => [network, account, node_id, kid, String(generation)];

/** Mints a grant. A node that has never been granted a key has generation 0. */
export function mintGrant(
  key: AccountKey,
  grant: {
    readonly network: string;
    readonly account: string;
    readonly node_id: NodeId;
    readonly kid: KeyId;
    readonly generation: number;
  },
): Grant {
  return { ...grant, mac: mac(key, "rn1.grant", grantParts(grant)).toString("base64url") };
}

/** True if the grant was minted with `key`. Takes the same time whatever differs. */
export function checkGrant(key: AccountKey, grant: Grant): boolean {
  return timingSafeEqual(mac(key, "rn1.grant", grantParts(grant)), Buffer.from(grant.mac, "base64url"));
}

/** Largest age of an account's request, in milliseconds. */
export const accountRequestMaxAgeMs = 5 * 60_000;

/**
 * Value of the `authorization` header with which the operator opens the fleet feed and asks for `latest`:
 * `Resultity-Account <account> <time ms> <nonce> <mac>`, the MAC over method, path with query, time and nonce.
 */
export function accountAuthorization(
  key: AccountKey,
  request: {
    readonly account: string;
    readonly method: string;
    readonly path: string;
    readonly time: number;
    readonly nonce: string;
  },
): string {
  const { account, method, path, time, nonce } = request;
  const bytes = mac(key, "rn1.account", [account, method, path, String(time), nonce]);
  return `Resultity-Account ${account} ${time} ${nonce} ${bytes.toString("base64url")}`;
}

/** What an `authorization` header of an account says, before it is believed. */
export interface AccountClaim {
  readonly account: string;
  readonly time: number;
  readonly nonce: string;
  readonly mac: string;
}

const accountHeader =
  /^Resultity-Account ([A-Za-z0-9][A-Za-z0-9._-]{0,62}) (\d{13}) ([A-Za-z0-9_-]{43}) ([A-Za-z0-9_-]{43})$/;

/** Takes an `authorization` header apart; undefined if it is not one of an account. */
export function parseAccountAuthorization(header: string): AccountClaim | undefined {
  const [, account, time, nonce, macText] = accountHeader.exec(header) ?? [];
  if (account === undefined || time === undefined || nonce === undefined || macText === undefined)
    return undefined;
  if (!isBytes32(nonce) || !isBytes32(macText)) return undefined;
  return { account, time: Number(time), nonce, mac: macText };
}

/** True if the claim was made with `key` for this request within five minutes of `now`. The nonce's single use is the caller's to check. */
export function checkAccountClaim(
  key: AccountKey,
  claim: AccountClaim,
  request: { readonly method: string; readonly path: string; readonly now: number },
): boolean {
  const expected = mac(key, "rn1.account", [
    claim.account,
    request.method,
    request.path,
    String(claim.time),
    claim.nonce,
  ]);
  const genuine = timingSafeEqual(expected, Buffer.from(claim.mac, "base64url"));
  return genuine && Math.abs(claim.time - request.now) <= accountRequestMaxAgeMs;
}
