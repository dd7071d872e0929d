import { noModelPolicy } from "../../../src/operator/node/model-policy.ts";
import { noImagePolicy } from "../../../src/operator/node/places.ts";
import { randomBytes } from "node:crypto";
import type { ResultityNetwork } from "../../../src/api/v1alpha1/network.ts";
import type { NetworkConfig } from "../../../src/operator/views.ts";
import { parseAccountKey } from "../../../src/protocol/binding.ts";
import type { Release } from "../../../src/protocol/config/release.ts";
import { signRoot, trustRoot } from "../../../src/protocol/config/root.ts";
import { digestOf, type Snapshot } from "../../../src/protocol/config/snapshot.ts";
import type { ConfigDigest } from "../../../src/protocol/fields.ts";
import { generateKey, importPrivateKey, type PublicJwk } from "../../../src/protocol/keys.ts";

/** A network's trust and account, with real keys, for the tests of the node controller. */
export const testNetworkId = "testnet";

const rootKey = importPrivateKey(generateKey());
const publicJwk: PublicJwk = rootKey.jwk;
const role = { threshold: 1, kids: [rootKey.kid] };
const root = trustRoot(
  signRoot(
    {
      network: testNetworkId,
      version: 1,
      keys: [{ kty: publicJwk.kty, crv: publicJwk.crv, x: publicJwk.x }],
      roles: { root: role, config: role, delegation: role },
    },
    [rootKey],
  ),
);
const accountKey = parseAccountKey(randomBytes(32).toString("base64url"));
if (!accountKey) throw new Error("no account key");

/** `registry.example/<name>@sha256:…` whose digest is made of `version`. */
export function imageOf(name: string, version: string): string {
  return `registry.example/${name}@${digestOf(Buffer.from(`${name} ${version}`))}`;
}

/** A snapshot of the test network: engine `openai` at `version`, models a and b. */
export function snapshotOf(version: string, changes: Partial<Snapshot> = {}): Snapshot {
  return {
    network: testNetworkId,
    version,
    runtimes: [
      {
        engine: "openai",
        image: imageOf("engine", version),
        gpu_products: [],
        launcher: "shell",
        command: ["serve"],
      },
    ],
    models: [
      { name: "model-a", engines: [] },
      { name: "model-b", engines: [] },
    ],
    participation: { testnet: true, mainnet: false },
    subclouds: [],
    limits: { max_jobs: 8, max_output_bytes: 1 << 20 },
    min_agent_version: "0.1.0",
    ...changes,
  };
}

export const digestOfSnapshot = (snapshot: Snapshot): ConfigDigest =>
  digestOf(Buffer.from(JSON.stringify(snapshot)));

/** Far away, for releases that do not expire in a test. */
export const farAway = Date.UTC(2100, 0, 1);

/** What the network controller would have verified: the first snapshot is current, all are allowed. */
export function configOf(
  snapshots: readonly Snapshot[],
  changes: Partial<NetworkConfig> = {},
): NetworkConfig {
  const byDigest = new Map(snapshots.map((snapshot) => [digestOfSnapshot(snapshot), snapshot]));
  const [current] = byDigest.keys();
  if (!current || !accountKey) throw new Error("no snapshot");
  const release: Release = {
    network: testNetworkId,
    sequence: 1,
    released_at: 0,
    current,
    allowed: [...byDigest.keys()].map((digest) => ({ digest, expires: farAway })),
  };
  return {
    uid: "network-uid",
    root,
    account: "acme",
    accountKey,
    endpoints: ["http://io.example:8000"],
    release,
    current,
    snapshots: byDigest,
    images: noImagePolicy,
    models: noModelPolicy,
    mayRestart: true,
    restartsUntil: undefined,
    ...changes,
  };
}

/** The ResultityNetwork as the API server would answer it. */
export function networkOf(agentVersion = "v1"): ResultityNetwork {
  return {
    apiVersion: "resultity.com/v1alpha1",
    kind: "ResultityNetwork",
    metadata: {
      name: "testnet",
      namespace: "inference",
      uid: "network-uid",
      resourceVersion: "1",
      generation: 1,
      creationTimestamp: "2026-01-01T00:00:00Z",
    },
    spec: {
      environment: "Testnet",
      endpoints: ["http://io.example:8000"],
      trust: { root: JSON.stringify(root.statement) },
      account: { id: "acme", secretName: "account" },
      config: { apply: "Automatic", maintenanceWindows: [], refreshIntervalSeconds: 30 },
      agent: { image: imageOf("agent", agentVersion) },
    },
  };
}
