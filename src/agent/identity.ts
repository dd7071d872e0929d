import { join } from "node:path";
import * as z from "zod/mini";
import { CodedError, messageOf } from "../lib/errors.ts";
import { type Binding, bindingSchema } from "../protocol/binding.ts";
import { parseStatement, trustRoot, type TrustedRoot } from "../protocol/config/root.ts";
import { parsePayload } from "../protocol/frame.ts";
import { decodeUtf8 } from "../protocol/jws.ts";
import { importPrivateKey, isBytes32, type NodeId, type SigningKey } from "../protocol/keys.ts";
import type { Files } from "./ports.ts";

/** Who this node is, whom it belongs to and whom it believes. */
export interface NodeIdentity {
  readonly network: string;
  readonly nodeId: NodeId;
  readonly key: SigningKey;
  readonly binding: Binding;
  readonly root: TrustedRoot;
}

/** The identity folder cannot be used. The message names the file and the fix, never its content. */
export class IdentityError extends CodedError<"unreadable" | "missing" | "invalid" | "mismatch"> {}

const privateJwk = z.object({
  kty: z.literal("OKP"),
  crv: z.literal("Ed25519"),
  x: z.string().check(z.refine(isBytes32)),
  d: z.string().check(z.refine(isBytes32)),
});

const secretHint =
  "the operator puts it into the node's identity Secret; on a host without one see docs/standalone.md";

/**
 * Reads `key.jwk`, `binding.json` and `root.json` of the identity folder and checks that they belong together and to
 * `network`.
 *
 * @throws {IdentityError}
 */
export async function readIdentity(files: Files, dir: string, network: string): Promise<NodeIdentity> {
  const key = await readNodeKey(files, dir);
  const binding = await readBinding(files, dir);
  const root = await readRoot(files, dir, network);
  checkBelonging(dir, key, binding, network);
  return { network, nodeId: binding.node_id, key, binding, root };
}

/** Reads `key.jwk`. @throws {IdentityError} */
export function readNodeKey(files: Files, dir: string): Promise<SigningKey> {
  return readPart(files, join(dir, "key.jwk"), (text) =>
    importPrivateKey(parsePayload(privateJwk, text, "key")),
  );
}

/** Reads `binding.json`. @throws {IdentityError} */
export function readBinding(files: Files, dir: string): Promise<Binding> {
  return readPart(files, join(dir, "binding.json"), (text) => parsePayload(bindingSchema, text, "binding"));
}

/** Reads `root.json`. @throws {IdentityError} */
export function readRoot(files: Files, dir: string, network: string): Promise<TrustedRoot> {
  return readPart(files, join(dir, "root.json"), (text) => trustRoot(parseStatement(text, "root"), network));
}

/** Checks that a binding is of this key and network. @throws {IdentityError} `mismatch` */
export function checkBelonging(dir: string, key: SigningKey, binding: Binding, network: string): void {
  if (binding.network !== network) {
    throw new IdentityError(
      "mismatch",
      `${join(dir, "binding.json")} binds the node to network ${binding.network}, but the agent was started for ${network}: correct --network, or mount the identity of this network`,
    );
  }
  // Until keys roll over, the node's id is the thumbprint of the key that it has.
  if (String(binding.node_id) !== String(key.kid)) {
    throw new IdentityError(
      "mismatch",
      `${join(dir, "binding.json")} is for node ${binding.node_id}, but ${join(dir, "key.jwk")} is the key of ${key.kid}: take both from one identity (Secret, or folder)`,
    );
  }
}

async function readPart<T>(files: Files, path: string, parse: (text: string) => T): Promise<T> {
  let bytes: Buffer | undefined;
  try {
    bytes = await files.read(path);
  } catch (cause) {
    throw new IdentityError(
      "unreadable",
      `cannot read ${path} (${messageOf(cause)}): the agent's user needs read access to it`,
    );
  }
  if (!bytes) throw new IdentityError("missing", `${path} does not exist: ${secretHint}`);
  try {
    return parse(decodeUtf8(bytes));
  } catch (cause) {
    throw new IdentityError("invalid", `${path} is not usable (${messageOf(cause)}): ${secretHint}`);
  }
}
