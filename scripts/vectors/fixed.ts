/**
 * What every vector is made of: keys from seeds, one moment, one network. Nothing here is random, and none of these keys
 * is good for anything but vectors.
 */
import { createHash, createPrivateKey } from "node:crypto";
import type { AccountKey } from "../../src/protocol/binding.ts";
import { signDelegation } from "../../src/protocol/config/delegation.ts";
import { type RootPayload, signRoot, trustRoot } from "../../src/protocol/config/root.ts";
import { digestOf, type Snapshot } from "../../src/protocol/config/snapshot.ts";
import type { Statement } from "../../src/protocol/config/statement.ts";
import type { JobId } from "../../src/protocol/fields.ts";
import { importPrivateKey, type NodeId, type PrivateJwk, type SigningKey } from "../../src/protocol/keys.ts";

/** `valid`, or the code with which the thing is refused. */
export interface Case {
  readonly name: string;
  readonly verdict: string;
  readonly [input: string]: unknown;
}

const seedOf = (label: string): Buffer =>
  createHash("sha256").update(`resultity test vector: ${label}`).digest();

/** 32 bytes for a label, base64url. */
export const bytes32 = (label: string): string => seedOf(label).toString("base64url");
/** 16 bytes for a label, base64url. */
export const bytes16 = (label: string): string => seedOf(label).subarray(0, 16).toString("base64url");

/** DER of a PKCS #8 Ed25519 private key up to its 32 bytes (RFC 8410 §7). */
const pkcs8Head = Buffer.from("302e020100300506032b657004220420", "hex");

/** The private key whose 32 bytes are the SHA-256 of its label. */
export function jwkOf(label: string): PrivateJwk {
  const der = Buffer.concat([pkcs8Head, seedOf(`key ${label}`)]);
  const { x, d } = createPrivateKey({ key: der, format: "der", type: "pkcs8" }).export({ format: "jwk" });
  if (x === undefined || d === undefined) throw new Error(`key ${label} has no x or d`);
  return { kty: "OKP", crv: "Ed25519", x, d };
}

const key = (label: string): SigningKey => importPrivateKey(jwkOf(label));

export const keyLabels = [
  "root-1",
  "root-2",
  "root-3",
  "root-4",
  "config-1",
  "config-2",
  "config-3",
  "delegation-1",
  "service",
  "node",
  "other-node",
  "next",
  "stranger",
] as const;

export const keys = {
  roots: [key("root-1"), key("root-2"), key("root-3")] as const,
  newRoot: key("root-4"),
  configs: [key("config-1"), key("config-2"), key("config-3")] as const,
  delegation: key("delegation-1"),
  service: key("service"),
  node: key("node"),
  otherNode: key("other-node"),
  /** What the node's key is rolled over to. */
  next: key("next"),
  stranger: key("stranger"),
};

/** 2026-01-01T00:00:00Z. */
export const now = 1_767_225_600_000;
export const day = 86_400_000;
export const network = "testnet";
export const account = "acme";
export const accountKey = seedOf("account acme") as AccountKey;
export const nodeId = String(keys.node.kid) as NodeId;
export const otherNodeId = String(keys.otherNode.kid) as NodeId;
export const baseUrl = "http://127.0.0.1:8480";
export const audience = "ws://127.0.0.1:8480/v1/session";
export const agentVersion = "0.1.0";
export const jobId = (text: string): JobId => `job-${text}` as JobId;

export const rootPayload: RootPayload = {
  network,
  version: 1,
  keys: [...keys.roots, ...keys.configs, keys.delegation].map(({ jwk }) => jwk),
  roles: {
    root: { threshold: 2, kids: keys.roots.map(({ kid }) => kid) },
    config: { threshold: 2, kids: keys.configs.map(({ kid }) => kid) },
    delegation: { threshold: 1, kids: [keys.delegation.kid] },
  },
};
export const rootStatement: Statement = signRoot(rootPayload, keys.roots.slice(0, 2));
export const root = trustRoot(rootStatement, network);
export const delegationStatement: Statement = signDelegation(
  { network, key: keys.service.jwk, expires: now + day },
  [keys.delegation],
);

export const snapshot: Snapshot = {
  network,
  version: "2026.1",
  runtimes: [
    {
      engine: "vllm",
      image: `registry.test/vllm@sha256:${"a".repeat(64)}`,
      gpu_products: [],
      launcher: "shell",
      command: ["vllm", "serve", "{model}", "--host", "{host}", "--port", "{port}"],
    },
    {
      engine: "vllm",
      image: `registry.test/vllm-h100@sha256:${"b".repeat(64)}`,
      gpu_products: ["NVIDIA-H100-80GB-HBM3"],
      launcher: "shell",
      command: ["vllm", "serve", "{model}", "--host", "{host}", "--port", "{port}"],
    },
    {
      engine: "ollama",
      image: `registry.test/ollama@sha256:${"c".repeat(64)}`,
      gpu_products: [],
      launcher: "shell",
      command: ["ollama", "serve"],
    },
  ],
  models: [
    { name: "org/small", engines: [] },
    { name: "org/large:fp8", engines: ["vllm"] },
  ],
  participation: { testnet: true, mainnet: false },
  subclouds: ["research"],
  limits: { max_jobs: 4, max_output_bytes: 1_048_576 },
  min_agent_version: "0.1.0",
};
export const snapshotText = JSON.stringify(snapshot);
export const digest = digestOf(Buffer.from(snapshotText));
export const otherDigest = digestOf(Buffer.from("another snapshot"));

/** Base64url of JSON text, or of text as it is. */
export const encode = (value: unknown): string =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");

/** The text with its last character changed in bits that carry nothing. Its length must leave such bits. */
export function spelledOtherwise(text: string): string {
  if (text.length % 4 === 0) throw new Error("the text has no unused bits");
  return text.slice(0, -1) + String.fromCharCode(text.charCodeAt(text.length - 1) + 1);
}

/** The text with one bit of its first character's value flipped. */
export const flipped = (text: string): string => (text.startsWith("A") ? "B" : "A") + text.slice(1);
