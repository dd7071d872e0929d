import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import { canonical } from "../hash.ts";
import type { Snapshot } from "../../protocol/config/snapshot.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { modelPolicyOf } from "../node/model-policy.ts";
import { imagePolicyOf } from "../node/places.ts";
import type { NetworkConfig } from "../views.ts";
import { type Choice, chooseDigests, hasRoom } from "./choose.ts";
import { entriesOf, isOurs } from "./entries.ts";
import { bytesIn, type Knowledge } from "./knowledge.ts";
import type { NodeUse } from "./observe.ts";
import { type Restarts, restartsAt } from "./windows.ts";

// `kubectl resultity plan` asks them about the spec that it has read.
export { modelPolicyOf } from "../node/model-policy.ts";
export { imagePolicyOf } from "../node/places.ts";
export { chooseDigests } from "./choose.ts";
export { type KnownConfig, knownConfig } from "./known.ts";
export { restartsAt } from "./windows.ts";

/** All that the plan of a network depends on. */
export interface NetworkObservation {
  readonly network: ResultityNetwork;
  readonly nodes: readonly NodeUse[];
  readonly knowledge: Readonly<Knowledge>;
  /** What the other controllers see of the network now. */
  readonly published: NetworkConfig | undefined;
  /** Wall and monotonic time, ms. */
  readonly now: number;
  readonly monotonic: number;
}

/** One step, with the reason for people. To be done in this order. */
export type NetworkAction =
  | { readonly type: "fetch-snapshot"; readonly digest: ConfigDigest; readonly reason: string }
  | {
      readonly type: "apply-config-map";
      readonly data: Readonly<Record<string, string>>;
      readonly reason: string;
    }
  | { readonly type: "publish"; readonly config: NetworkConfig; readonly reason: string };

/** What is to be done, and what it follows from. */
export interface NetworkPlan {
  readonly choice: Choice;
  readonly restarts: Restarts;
  readonly actions: readonly NetworkAction[];
}

/** Plans. The same observation gives the same plan; a plan that was carried out gives an empty one. */
export function planNetwork(seen: NetworkObservation): NetworkPlan {
  const { network, nodes, knowledge, now } = seen;
  const choice = chooseDigests({
    release: knowledge.release?.release,
    pin: network.spec.config.pin,
    apply: network.spec.config.apply,
    approved: network.spec.config.approved,
    previous: knowledge.current ?? network.status?.config?.digest,
    nodes,
    has: (digest) => knowledge.snapshots.has(digest),
    bytes: bytesIn(knowledge),
    now,
  });
  const restarts = restartsAt(network.spec.config.maintenanceWindows, now);
  return {
    choice,
    restarts,
    actions: [
      ...planFetches(seen, choice),
      ...planConfigMap(seen, choice),
      ...planPublish(seen, choice, restarts),
    ],
  };
}

/** Snapshots that are wanted, that the release still lists, and that are not there. */
export function missingOf(
  { release, snapshots }: Readonly<Knowledge>,
  { next, held, pending }: Choice,
): readonly ConfigDigest[] {
  const allowed = new Set(release?.release.allowed.map(({ digest }) => digest));
  // What waits for approval is fetched too: a person approves what it changes.
  const wanted = new Set([next, ...held, pending].filter((digest) => digest !== undefined));
  return [...wanted].filter((digest) => allowed.has(digest) && !snapshots.has(digest));
}

function planFetches({ knowledge, monotonic }: NetworkObservation, choice: Choice): NetworkAction[] {
  const due = (digest: ConfigDigest) => (knowledge.missed.get(digest)?.at ?? 0) <= monotonic;
  return missingOf(knowledge, choice)
    .filter(due)
    .map((digest) => ({
      type: "fetch-snapshot",
      digest,
      reason:
        digest === choice.next
          ? "nodes are to move to it"
          : digest === choice.pending
            ? "it waits for approval"
            : "a node of the network runs it or moves to it",
    }));
}

function planConfigMap({ knowledge }: NetworkObservation, choice: Choice): NetworkAction[] {
  const { configMap, release } = knowledge;
  if (!release || (configMap && !configMap.ours)) return [];
  // What waits for approval is there too where it takes nobody's place: whoever approves it looks at what it would do.
  const { held, pending } = choice;
  const data = entriesOf(
    knowledge,
    pending !== undefined && !held.includes(pending) && hasRoom({ bytes: bytesIn(knowledge) }, held)
      ? [...held, pending]
      : held,
  );
  const reason = difference(configMap?.data, data, knowledge.foreign);
  return reason === undefined ? [] : [{ type: "apply-config-map", data, reason }];
}

/** How what is there differs from what should be, in our entries; undefined where it does not. */
function difference(
  there: Readonly<Record<string, string>> | undefined,
  wanted: Readonly<Record<string, string>>,
  foreign: ReadonlySet<string>,
): string | undefined {
  if (!there) return "there is no ConfigMap yet";
  const changed = Object.keys(wanted).filter((entry) => there[entry] !== wanted[entry]);
  const surplus = Object.keys(there).filter(
    (entry) => isOurs(entry) && !(entry in wanted) && !foreign.has(entry),
  );
  if (changed.length === 0 && surplus.length === 0) return undefined;
  return [
    ...(changed.length > 0 ? [`${changed.join(", ")} changed`] : []),
    ...(surplus.length > 0 ? [`${surplus.join(", ")} is no longer used`] : []),
  ].join("; ");
}

function planPublish(
  { network, knowledge, published }: NetworkObservation,
  choice: Choice,
  restarts: Restarts,
): NetworkAction[] {
  const { root, accountKey } = knowledge;
  if (!root || !accountKey) return [];
  const snapshots = new Map<ConfigDigest, Snapshot>();
  for (const digest of choice.held) {
    const found = knowledge.snapshots.get(digest);
    if (found) snapshots.set(digest, found.snapshot);
  }
  const config: NetworkConfig = {
    uid: network.metadata.uid,
    root,
    account: network.spec.account.id,
    accountKey,
    endpoints: network.spec.endpoints,
    release: knowledge.release?.release,
    current: choice.current,
    snapshots,
    images: imagePolicyOf(network.spec),
    models: modelPolicyOf(network.spec),
    mayRestart: restarts.allowed,
    restartsUntil: restarts.until,
  };
  if (published && sameConfig(published, config)) return [];
  const reason = published
    ? "what is known of the network changed"
    : "the network is trusted and its account known";
  return [{ type: "publish", config, reason }];
}

function sameConfig(a: NetworkConfig, b: NetworkConfig): boolean {
  return (
    a.uid === b.uid &&
    a.root === b.root &&
    a.account === b.account &&
    a.accountKey === b.accountKey &&
    canonical(a.endpoints) === canonical(b.endpoints) &&
    a.release === b.release &&
    a.current === b.current &&
    canonical(a.images) === canonical(b.images) &&
    canonical(a.models) === canonical(b.models) &&
    a.mayRestart === b.mayRestart &&
    a.restartsUntil === b.restartsUntil &&
    canonical([...a.snapshots.keys()].sort()) === canonical([...b.snapshots.keys()].sort())
  );
}
