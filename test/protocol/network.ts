import { randomBytes } from "node:crypto";
import { signDelegation } from "../../src/protocol/config/delegation.ts";
import { type Release, signRelease } from "../../src/protocol/config/release.ts";
import { type RootPayload, signRoot, trustRoot } from "../../src/protocol/config/root.ts";
import { digestOf, type Snapshot } from "../../src/protocol/config/snapshot.ts";
import { generateKey, importPrivateKey, type NodeId, type SigningKey } from "../../src/protocol/keys.ts";

/** A fresh signing key. */
export const newKey = (): SigningKey => importPrivateKey(generateKey());
/** 32 and 16 random bytes as the wire has them. */
export const random32 = (): string => randomBytes(32).toString("base64url");
export const random16 = (): string => randomBytes(16).toString("base64url");

/** Keys and statements of a whole network, made anew for each test. */
export function makeNetwork(network = "testnet", now = Date.UTC(2026, 0, 1)) {
  const rootKeys = [newKey(), newKey(), newKey()] as const;
  const configKeys = [newKey(), newKey(), newKey()] as const;
  const delegationKey = newKey();
  const service = newKey();
  const nodeKey = newKey();
  const rootPayload: RootPayload = {
    network,
    version: 1,
    keys: [...rootKeys, ...configKeys, delegationKey].map(({ jwk }) => jwk),
    roles: {
      root: { threshold: 2, kids: rootKeys.map(({ kid }) => kid) },
      config: { threshold: 2, kids: configKeys.map(({ kid }) => kid) },
      delegation: { threshold: 1, kids: [delegationKey.kid] },
    },
  };
  const rootStatement = signRoot(rootPayload, rootKeys.slice(0, 2));
  const root = trustRoot(rootStatement, network);
  const delegation = signDelegation({ network, key: service.jwk, expires: now + 86_400_000 }, [
    delegationKey,
  ]);
  const snapshot = makeSnapshot(network);
  const snapshotBytes = Buffer.from(JSON.stringify(snapshot));
  const digest = digestOf(snapshotBytes);
  const release: Release = {
    network,
    sequence: 5,
    released_at: now,
    current: digest,
    allowed: [{ digest, expires: now + 30 * 86_400_000 }],
  };
  const releaseStatement = signRelease(release, configKeys.slice(0, 2));
  return {
    network,
    now,
    rootKeys,
    configKeys,
    delegationKey,
    service,
    node: { key: nodeKey, id: String(nodeKey.kid) as NodeId },
    rootPayload,
    rootStatement,
    root,
    delegation,
    snapshot,
    snapshotBytes,
    digest,
    release,
    releaseStatement,
  };
}

/** A snapshot with one runtime and one model. */
export function makeSnapshot(network: string, version = "1", imageHex = "a".repeat(64)): Snapshot {
  return {
    network,
    version,
    runtimes: [
      {
        engine: "openai",
        image: `registry.test/engine@sha256:${imageHex}`,
        gpu_products: [],
        launcher: "shell",
        command: ["engine", "--host", "{host}", "--port", "{port}", "--model", "{model}"],
      },
    ],
    models: [{ name: "tiny", engines: [] }],
    participation: { testnet: true, mainnet: false },
    subclouds: [],
    limits: { max_jobs: 4, max_output_bytes: 1 << 20 },
    min_agent_version: "0.1.0",
  };
}
