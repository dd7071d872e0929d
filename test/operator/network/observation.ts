import type { ResultityNetwork } from "../../../src/api/v1alpha1/network.ts";
import { type Knowledge, newKnowledge } from "../../../src/operator/network/knowledge.ts";
import type { NodeUse } from "../../../src/operator/network/observe.ts";
import { type NetworkObservation, planNetwork } from "../../../src/operator/network/plan.ts";
import { networkStatusOf, networkVerdicts } from "../../../src/operator/network/status.ts";
import type { Finding } from "../../../src/operator/network/refusal.ts";
import type { AccountKey } from "../../../src/protocol/binding.ts";
import { releaseSchema } from "../../../src/protocol/config/release.ts";
import type { Statement } from "../../../src/protocol/config/statement.ts";
import { parsePayload } from "../../../src/protocol/frame.ts";
import type { Signed, TestAuthority } from "./authority.ts";

export const now = Date.UTC(2026, 0, 1);

/** A network as the API server would answer it. */
export function networkObject(
  pin?: string,
  status?: ResultityNetwork["status"],
  endpoints: readonly string[] = ["https://io.test"],
): ResultityNetwork {
  return {
    apiVersion: "resultity.com/v1alpha1",
    kind: "ResultityNetwork",
    metadata: {
      name: "testnet",
      namespace: "inference",
      uid: "uid-network",
      resourceVersion: "1",
      generation: 1,
      creationTimestamp: "2026-01-01T00:00:00Z",
    },
    spec: {
      environment: "Testnet",
      endpoints: [...endpoints],
      trust: { rootConfigMap: { name: "root", key: "root.json" } },
      account: { id: "acme", secretName: "account" },
      config: {
        apply: "Automatic",
        maintenanceWindows: [],
        refreshIntervalSeconds: 30,
        ...(pin !== undefined && { pin }),
      },
      agent: { image: "agent@sha256:1" },
    },
    ...(status && { status }),
  };
}

export const accountKey = Buffer.alloc(32, 7) as AccountKey;

/** Knowledge after a fetch in which all went well: root, account key, `release`, and the snapshots that are given. */
export function knowledgeOf(
  authority: TestAuthority,
  release: Statement | undefined,
  snapshots: readonly Signed[] = [],
): Knowledge {
  const knowledge = newKnowledge("uid-network", 0);
  Object.assign(knowledge, { root: authority.root, accountKey, reached: "https://io.test" });
  if (release) {
    const payload = Buffer.from(release.payload, "base64url").toString();
    const parsed = parsePayload(releaseSchema, payload, "release");
    Object.assign(knowledge, { release: { release: parsed, statement: release }, sequence: parsed.sequence });
  }
  for (const { digest, snapshot, bytes } of snapshots) {
    knowledge.snapshots.set(digest, { snapshot, text: bytes.toString() });
  }
  return knowledge;
}

export function observed(
  more: Partial<NetworkObservation> & Pick<NetworkObservation, "knowledge">,
): NetworkObservation {
  return { network: networkObject(), nodes: [], published: undefined, now, monotonic: 0, ...more };
}

/** A node by what its status says. */
export const node = (target?: string, applied?: string, up = true): NodeUse => ({
  count: 1,
  target,
  applied,
  ready: up,
  connected: up,
});

export function verdictsOf(seen: NetworkObservation, refusal?: Finding) {
  const verdicts = networkVerdicts({ seen, plan: planNetwork(seen), refusal });
  const told = ({ status, reason }: { status: string; reason: string }) => `${status} ${reason}`;
  return {
    Reachable: told(verdicts.Reachable),
    Trusted: told(verdicts.Trusted),
    Fresh: told(verdicts.Fresh),
    Ready: told(verdicts.Ready),
    messages: verdicts,
  };
}

export const statusOf = (seen: NetworkObservation) =>
  networkStatusOf({ seen, plan: planNetwork(seen), refusal: undefined });
