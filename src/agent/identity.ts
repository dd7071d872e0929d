import { join } from "node:path";
import * as z from "zod/mini";
import { CodedError, messageOf } from "../lib/errors.ts";
import { type Binding, bindingSchema, type Grant, grantSchema } from "../protocol/binding.ts";
import { parseStatement, trustRoot, type TrustedRoot } from "../protocol/config/root.ts";
import { parsePayload } from "../protocol/frame.ts";
import { decodeUtf8 } from "../protocol/jws.ts";
import { publicJwkField } from "../protocol/fields.ts";
import {
  importPrivateKey,
  importPublicKey,
  isBytes32,
  type NodeId,
  type SigningKey,
} from "../protocol/keys.ts";
import { maxFormerKeys } from "../protocol/rollover.ts";
import { type FolderKeys, NodeKeys } from "./node-keys.ts";
import type { Files } from "./ports.ts";

/** Who this node is, whom it belongs to and whom it believes. */
export interface NodeIdentity {
  readonly network: string;
  readonly nodeId: NodeId;
  /** The key that it signs with now. */
  readonly key: SigningKey;
  readonly keys: NodeKeys;
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

const formerSchema = z.array(publicJwkField).check(z.maxLength(maxFormerKeys));

const secretHint =
  "the operator puts it into the node's identity Secret; on a host without one see docs/standalone.md";

/**
 * Reads the identity folder, `key.jwk`, `binding.json` and `root.json`, and where they are there `next.jwk`, `former.json`
 * and `grant.json`, and checks that they belong together and to `network`.
 *
 * @throws {IdentityError}
 */
export async function readIdentity(files: Files, dir: string, network: string): Promise<NodeIdentity> {
  const folder = await readKeys(files, dir);
  const binding = await readBinding(files, dir);
  const root = await readRoot(files, dir, network);
  checkBelonging(dir, folder, binding, network);
  const keys = new NodeKeys(binding.node_id, folder);
  return {
    network,
    nodeId: binding.node_id,
    get key() {
      return keys.current;
    },
    keys,
    binding,
    root,
  };
}

/** How often keys are read anew that were changed meanwhile. */
const maxRereads = 3;

/**
 * Reads the keys of the identity folder. Its files are changed one after the other, or all at once by the kubelet: the old
 * key without the next one, read across the end of a rollover, would bring the old key back.
 * @throws {IdentityError}
 */
export async function readKeys(files: Files, dir: string): Promise<FolderKeys> {
  for (let rereads = 0; ; rereads++) {
    const keys = await readKeysOnce(files, dir);
    const { kid } = await readNodeKey(files, dir);
    if (kid === keys.key.kid || rereads === maxRereads) return keys;
  }
}

async function readKeysOnce(files: Files, dir: string): Promise<FolderKeys> {
  return {
    key: await readNodeKey(files, dir),
    next: await readOptional(files, join(dir, "next.jwk"), parsePrivateKey),
    former:
      (await readOptional(files, join(dir, "former.json"), (text) =>
        parsePayload(formerSchema, text, "former keys").map((jwk) => importPublicKey(jwk)),
      )) ?? [],
    grant: await readOptional(files, join(dir, "grant.json"), (text) =>
      parsePayload(grantSchema, text, "grant"),
    ),
  };
}

const parsePrivateKey = (text: string): SigningKey => importPrivateKey(parsePayload(privateJwk, text, "key"));

/** Reads `key.jwk`. @throws {IdentityError} */
export function readNodeKey(files: Files, dir: string): Promise<SigningKey> {
  return readPart(files, join(dir, "key.jwk"), parsePrivateKey);
}

/** Reads `binding.json`. @throws {IdentityError} */
export function readBinding(files: Files, dir: string): Promise<Binding> {
  return readPart(files, join(dir, "binding.json"), (text) => parsePayload(bindingSchema, text, "binding"));
}

/** Reads `root.json`. @throws {IdentityError} */
export function readRoot(files: Files, dir: string, network: string): Promise<TrustedRoot> {
  return readPart(files, join(dir, "root.json"), (text) => trustRoot(parseStatement(text, "root"), network));
}

/**
 * Checks that a binding is of these keys and of this network. A node's id is the thumbprint of its first key: so that one is
 * the node's or a former one, or a grant stands for the keys since.
 * @throws {IdentityError} `mismatch`
 */
export function checkBelonging(dir: string, folder: FolderKeys, binding: Binding, network: string): void {
  if (binding.network !== network) {
    throw new IdentityError(
      "mismatch",
      `${join(dir, "binding.json")} binds the node to network ${binding.network}, but the agent was started for ${network}: correct --network, or mount the identity of this network`,
    );
  }
  if (folder.grant) checkGranted(dir, folder.grant, binding);
  checkKeys(dir, folder, binding.node_id);
}

/** Checks that keys are those of a node. @throws {IdentityError} `mismatch` */
export function checkKeys(dir: string, { key, next, former, grant }: FolderKeys, nodeId: NodeId): void {
  const kids = new Set<string>([key, ...(next ? [next] : []), ...former].map(({ kid }) => kid));
  if (kids.has(nodeId) || (grant?.node_id === nodeId && kids.has(grant.kid))) return;
  throw new IdentityError(
    "mismatch",
    `${join(dir, "binding.json")} is for node ${nodeId}, but ${join(dir, "key.jwk")} is the key of ${key.kid}: take both from one identity (Secret, or folder), or have the account grant the node this key`,
  );
}

function checkGranted(dir: string, grant: Grant, binding: Binding): void {
  for (const field of ["network", "account", "node_id"] as const) {
    if (grant[field] === binding[field]) continue;
    throw new IdentityError(
      "mismatch",
      `${join(dir, "grant.json")} has ${field} ${grant[field]}, but ${join(dir, "binding.json")} has ${binding[field]}: take the grant of this node, or remove it`,
    );
  }
}

async function readPart<T>(files: Files, path: string, parse: (text: string) => T): Promise<T> {
  const part = await readOptional(files, path, parse);
  if (part === undefined) throw new IdentityError("missing", `${path} does not exist: ${secretHint}`);
  return part;
}

async function readOptional<T>(
  files: Files,
  path: string,
  parse: (text: string) => T,
): Promise<T | undefined> {
  let bytes: Buffer | undefined;
  try {
    bytes = await files.read(path);
  } catch (cause) {
    throw new IdentityError(
      "unreadable",
      `cannot read ${path} (${messageOf(cause)}): the agent's user needs read access to it`,
    );
  }
  if (!bytes) return undefined;
  try {
    return parse(decodeUtf8(bytes));
  } catch (cause) {
    throw new IdentityError("invalid", `${path} is not usable (${messageOf(cause)}): ${secretHint}`);
  }
}
