import type { SigningKey } from "../../src/protocol/keys.ts";
import { signJws } from "../../src/protocol/jws.ts";

/** A frame of a node with other software: the same message with another token, signed with the node's own key. */
export function withOtherToken(text: string, key: SigningKey, token: string): string {
  const [head = "", body = ""] = text.split(".", 2);
  const { typ } = JSON.parse(Buffer.from(head, "base64url").toString()) as { typ: string };
  const payload = JSON.parse(Buffer.from(body, "base64url").toString()) as Record<string, unknown>;
  return signJws(typ, JSON.stringify({ ...payload, token }), key);
}

/** The kind of a frame, unverified. */
export function kindOf(text: string): string {
  const { typ } = JSON.parse(Buffer.from(text.split(".", 1)[0] ?? "", "base64url").toString()) as {
    typ: string;
  };
  return typ.replace(/^rn1\./, "");
}
