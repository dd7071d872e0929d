import { networkConditionTypes } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { observeNode } from "../../operator/network/observe.ts";
import type { MaybeRead } from "../read.ts";
import type { AnyEvent } from "../resources.ts";
import { expiry } from "../text/words.ts";
import { verdictOf } from "../verdict.ts";
import { adviceOf, networkAdvice } from "./advice.ts";
import { notesOf } from "./pool.ts";
import { conditionViews, eventViews, type WhyView } from "./view.ts";

/**
 * Why a network is as it is: its conditions, its config, and which configs its nodes run. What the operator fetches
 * next depends on what it holds in memory, so only what the spec says about that is told.
 */
export function whyNetwork(
  network: ResultityNetwork,
  nodes: readonly ResultityNode[],
  events: MaybeRead<readonly AnyEvent[]>,
  now: number,
): WhyView {
  const { namespace, name } = network.metadata;
  const { spec, status } = network;
  const { config } = status ?? {};
  const every = spec.config.refreshIntervalSeconds;
  return {
    kind: network.kind,
    namespace,
    name,
    ready: verdictOf(network),
    conditions: conditionViews(status?.conditions, networkConditionTypes, [], ({ reason }) =>
      adviceOf(networkAdvice, reason, { namespace, name }),
    ),
    facts: [
      ["environment", spec.environment],
      ["endpoints", spec.endpoints.join(", ")],
      ["account", spec.account.id],
      ...(config
        ? [
            ["config", `${config.digest} (${config.version})`] as const,
            [
              "release",
              `${config.releaseSequence}, allows the config ${until(config.expiresAt, now)}`,
            ] as const,
          ]
        : []),
      ...(spec.config.pin === undefined ? [] : [["pinned to", spec.config.pin] as const]),
      ...(status?.pending
        ? [
            ["waits for approval", `${status.pending.digest} (${status.pending.version})`] as const,
            ...status.pending.changes.map((line) => ["which changes", line] as const),
          ]
        : []),
      ...usesOf(network, nodes),
    ],
    next: [
      {
        what: `asks the endpoints for a newer release every ${every} s`,
        why:
          spec.config.pin === undefined
            ? "nodes move to what the newest release calls current"
            : "spec.config.pin holds the nodes at one config; the release still has to allow it",
      },
    ],
    waits: [],
    notes: notesOf(events),
    events: eventViews(events.value ?? [], [network.kind]),
  };
}

function until(expiresAt: string, now: number): string {
  return Date.parse(expiresAt) > now
    ? `until ${expiresAt} (${expiry(expiresAt, now)})`
    : `no longer: it ${expiry(expiresAt, now)}`;
}

/** How many nodes run each config. */
function usesOf(
  { metadata }: ResultityNetwork,
  nodes: readonly ResultityNode[],
): readonly (readonly [string, string])[] {
  const counts = new Map<string, { applied: number; ready: number; toMove: number }>();
  const countOf = (digest: string) => {
    const known = counts.get(digest) ?? { applied: 0, ready: 0, toMove: 0 };
    counts.set(digest, known);
    return known;
  };
  for (const node of nodes) {
    if (node.spec.networkRef.name !== metadata.name) continue;
    const { applied, target, ready } = observeNode(node);
    if (applied !== undefined) {
      const count = countOf(applied);
      count.applied++;
      if (ready) count.ready++;
    }
    if (target !== undefined && target !== applied) countOf(target).toMove++;
  }
  return [...counts]
    .sort(([, a], [, b]) => b.applied - a.applied)
    .map(([digest, { applied, ready, toMove }]) => [
      "nodes",
      `${applied} run ${digest}, ${ready} of them Ready${toMove > 0 ? `; ${toMove} more move to it` : ""}`,
    ]);
}
