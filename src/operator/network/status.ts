import {
  type Condition,
  type NetworkConditionType,
  type NetworkReason,
  setCondition,
} from "../../api/v1alpha1/conditions.ts";
import type { NetworkStatus } from "../../api/v1alpha1/network.ts";
import { timeText } from "./choose.ts";
import { snapshotDifference } from "../../protocol/config/difference.ts";
import type { NodeUse } from "./observe.ts";
import { missingOf, type NetworkObservation, type NetworkPlan } from "./plan.ts";
import type { Finding } from "./refusal.ts";
import { expiryOf } from "./trust.ts";

/** Part of a config's life that is left when `Fresh` begins to say `ExpiresSoon`. */
export const expiresSoonShare = 0.25;
/** Configs that the history keeps. */
const historyLength = 10;

type ConditionStatus = Condition["status"];

/** A condition as it is found, without what follows from the object. */
export interface Verdict extends Finding {
  readonly status: ConditionStatus;
}

/** Everything a status is computed from. */
export interface StatusInputs {
  readonly seen: NetworkObservation;
  readonly plan: NetworkPlan;
  /** Why the network refuses the account; undefined where it does not. */
  readonly refusal: Finding | undefined;
}

/** The whole status, computed from what is seen; `seen.network.status` gives only what has to be kept: times and history. */
export function networkStatusOf(inputs: StatusInputs): NetworkStatus {
  const { seen } = inputs;
  const { network, nodes, now } = seen;
  const generation = network.metadata.generation;
  const config = configOf(inputs);
  const verdicts = networkVerdicts(inputs);
  let conditions: readonly Condition<NetworkConditionType>[] = (network.status?.conditions ?? []).map(
    (each) => ({
      ...each,
    }),
  );
  for (const type of ["Reachable", "Trusted", "Fresh", "Ready"] as const) {
    const { status, reason, message } = verdicts[type];
    conditions = setCondition(
      conditions,
      { type, status, reason, message, observedGeneration: generation },
      now,
    );
  }
  const history = historyOf(seen, config);
  const pending = pendingOf(inputs);
  return {
    observedGeneration: generation,
    ...(config && { config }),
    ...(pending && { pending }),
    ...(history.length > 0 && { history }),
    nodes: {
      total: countOf(nodes),
      ready: countOf(nodes.filter(({ ready }) => ready)),
      connected: countOf(nodes.filter(({ connected }) => connected)),
    },
    conditions: [...conditions],
  };
}

const countOf = (nodes: readonly NodeUse[]): number => nodes.reduce((sum, { count }) => sum + count, 0);

/** The four conditions. */
export function networkVerdicts(inputs: StatusInputs): Record<NetworkConditionType, Verdict> {
  const [reachable, trusted, fresh] = [reachableOf(inputs), trustedOf(inputs), freshOf(inputs)];
  return {
    Reachable: reachable,
    Trusted: trusted,
    Fresh: fresh,
    Ready: readyOf(inputs, [reachable, trusted, fresh]),
  };
}

const failed = (finding: Finding): Verdict => ({ status: "False", ...finding });
const unknown = (message: string): Verdict => ({ status: "Unknown", reason: "NotYetKnown", message });
const well = (reason: NetworkReason, message: string): Verdict => ({ status: "True", reason, message });

/** Findings about snapshots that are wanted and could not be had. */
function missedFindings({ seen, plan }: StatusInputs): readonly Finding[] {
  return missingOf(seen.knowledge, plan.choice)
    .map((digest) => seen.knowledge.missed.get(digest)?.finding)
    .filter((finding) => finding !== undefined);
}

function reachableOf(inputs: StatusInputs): Verdict {
  const { knowledge } = inputs.seen;
  const reach =
    knowledge.findings.reach ?? missedFindings(inputs).find(({ reason }) => reason === "EndpointUnreachable");
  if (reach) return failed(reach);
  if (knowledge.reached !== undefined) return well("EndpointAnswers", `${knowledge.reached} answers`);
  return unknown(
    knowledge.root
      ? "no endpoint has been asked yet"
      : "no endpoint is asked before there is a root to trust",
  );
}

function trustedOf(inputs: StatusInputs): Verdict {
  const { knowledge } = inputs.seen;
  const { findings, root, release } = knowledge;
  const wrong = findings.root ?? findings.served;
  if (wrong) return failed(wrong);
  if (findings.release) {
    const { reason, message } = findings.release;
    return reason === "NotYetKnown" ? unknown(message) : failed(findings.release);
  }
  if (!root) return unknown("the root that spec.trust names has not been read yet");
  if (!release) {
    return findings.stored
      ? failed(findings.stored)
      : unknown("no release of the network has been verified yet");
  }
  const { pinFinding } = inputs.plan.choice;
  if (pinFinding) return failed(pinFinding);
  const snapshot = missedFindings(inputs).find(({ reason }) => reason !== "EndpointUnreachable");
  if (snapshot) return failed(snapshot);
  const { sequence } = release.release;
  return well(
    "Verified",
    `release ${sequence} of network ${root.network} is verified by root version ${root.version}`,
  );
}

function freshOf({ seen, plan }: StatusInputs): Verdict {
  const { expired, current } = plan.choice;
  if (expired) return failed(expired);
  const approval = approvalOf({ seen, plan });
  if (approval && current === undefined) return failed(approval);
  const release = seen.knowledge.release?.release;
  const expires = expiryOf(release, current);
  if (!release || expires === undefined) return unknown("no config of the network is in force yet");
  const until = `config ${current} is valid until ${timeText(expires)} by release ${release.sequence}`;
  if (seen.now < expiresSoonAt(release.released_at, expires))
    return approval ? well("ApprovalNeeded", approval.message) : well("Current", until);
  return well("ExpiresSoon", `${until}, which is soon: the network has to publish a new release before`);
}

/** That a config waits for a person, and how to let it through. */
function approvalOf({ seen, plan }: Pick<StatusInputs, "seen" | "plan">): Finding | undefined {
  const { pending, current } = plan.choice;
  if (pending === undefined) return undefined;
  const { name, namespace } = seen.network.metadata;
  const stay = current === undefined ? "no node runs until then" : `nodes stay at ${current} until then`;
  return {
    reason: "ApprovalNeeded",
    message: `config ${pending} waits for approval (status.pending says what it changes): kubectl resultity approve ${name} -n ${namespace}; ${stay}`,
  };
}

function pendingOf({ seen, plan }: StatusInputs): NetworkStatus["pending"] {
  const { pending, current } = plan.choice;
  if (pending === undefined) return undefined;
  const { snapshots } = seen.knowledge;
  const snapshot = snapshots.get(pending)?.snapshot;
  // Until it has been fetched nobody can say what it changes.
  if (!snapshot) return undefined;
  const before = current === undefined ? undefined : snapshots.get(current)?.snapshot;
  return {
    digest: pending,
    version: snapshot.version,
    changes: [...snapshotDifference(before, snapshot)],
  };
}

/** Wall time, ms, from which a config counts as one that expires soon. */
function expiresSoonAt(released: number, expires: number): number {
  return expires - expiresSoonShare * Math.max(0, expires - released);
}

/** Wall times, ms, at which something changes by itself. */
export function turningPoints({ seen, plan }: Pick<StatusInputs, "seen" | "plan">): readonly number[] {
  const release = seen.knowledge.release?.release;
  const expires = expiryOf(release, plan.choice.current);
  const windows = plan.restarts.until === undefined ? [] : [plan.restarts.until];
  if (!release || expires === undefined) return windows;
  return [...windows, expiresSoonAt(release.released_at, expires), expires];
}

function readyOf({ seen, plan, refusal }: StatusInputs, others: readonly Verdict[]): Verdict {
  const { findings, configMap } = seen.knowledge;
  const { name, namespace } = seen.network.metadata;
  const wrong = others.find(({ status }) => status === "False");
  if (wrong) return wrong;
  if (findings.kube) return failed(findings.kube);
  if (findings.account) return failed(findings.account);
  if (refusal) return failed(refusal);
  if (configMap && !configMap.ours) {
    const message = `ConfigMap ${namespace}/${name}-config is there and is not this network's: delete or rename it, or give the network another name`;
    return failed({ reason: "SpecInvalid", message });
  }
  if (plan.choice.tooMany) return failed(plan.choice.tooMany);
  if (plan.restarts.finding) return failed(plan.restarts.finding);
  const open = others.find(({ status }) => status === "Unknown");
  if (open) return open;
  const soon = others.find(({ reason }) => reason === "ExpiresSoon" || reason === "ApprovalNeeded");
  return well("AllWell", soon ? soon.message : `nodes move to config ${plan.choice.current}`);
}

function configOf({ seen, plan }: StatusInputs): NetworkStatus["config"] {
  const { knowledge, network } = seen;
  const { current } = plan.choice;
  const release = knowledge.release?.release;
  const before = network.status?.config;
  const expires = expiryOf(release, current);
  const snapshot = current === undefined ? undefined : knowledge.snapshots.get(current)?.snapshot;
  if (current === undefined || !release || !snapshot || expires === undefined) {
    // What nodes last moved to, and how far releases have come, stays told.
    return before && { ...before, releaseSequence: Math.max(before.releaseSequence, knowledge.sequence) };
  }
  return {
    digest: current,
    version: snapshot.version,
    releaseSequence: knowledge.sequence,
    releasedAt: timeText(release.released_at),
    expiresAt: timeText(expires),
    runtimes: snapshot.runtimes.map(({ engine, image }) => ({ engine, image })),
    models: [...new Set(snapshot.models.map(({ name }) => name))],
  };
}

function historyOf({ network, now }: NetworkObservation, config: NetworkStatus["config"]) {
  const before = network.status?.history ?? [];
  if (!config || before[0]?.digest === config.digest) return before;
  const { digest, version } = config;
  const others = before.filter((entry) => entry.digest !== digest);
  return [{ digest, version, since: timeText(now) }, ...others].slice(0, historyLength);
}
