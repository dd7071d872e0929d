import { findCondition } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { Canary } from "../../api/v1alpha1/pool.ts";
import { isMoving, isParked, isReady, stuckReason } from "./child.ts";

/** What the network has seen of a node's jobs since the node applied its present config. */
export interface Work {
  /** Config that the counts are about. */
  readonly config: string | null;
  readonly completed: number;
  readonly failed: number;
  /** All completed jobs together, ms. */
  readonly durationMs: number;
}

/** Which nodes try a config first, and how it goes. */
export type Trial =
  /** There is nothing to try it against, or it has been tried. */
  | { readonly state: "none" | "passed" }
  /** Only the members move. `message` says what is waited for, without figures that change by the second. */
  | {
      readonly state: "running";
      readonly members: ReadonlySet<string>;
      readonly message: string;
      /** Ms until time alone may change the answer. */
      readonly againInMs: number;
    }
  | { readonly state: "failed"; readonly reason: string };

/** What the trial depends on. */
export interface TrialInputs {
  readonly canary: Canary;
  /** Config that is tried. */
  readonly wanted: string;
  /** Nodes that the update is about, in the order in which they move. */
  readonly nodes: readonly ResultityNode[];
  readonly work: (node: ResultityNode) => Work | undefined;
  /** Wall time, ms, since when one of its members is told to move to it. */
  readonly begun: number;
  /** Wall time, ms. */
  readonly now: number;
}

/** How long at least a node that cannot come up is borne, ms: what it says may still be about the config before. */
const leastBorneMs = 60_000;

/** How often figures are looked at, ms. */
const lookMs = 5_000;

/**
 * Judges a config by the first nodes that run it. They have to come up and stay in service for the soak time, answer the
 * asked number of jobs, fail no more of them than is allowed, and take not much longer than those that run the old
 * config. Too many failures end the trial at once; without traffic it waits.
 */
export function judge(inputs: TrialInputs): Trial {
  const { canary, wanted, nodes, work, begun, now } = inputs;
  const serving = nodes.filter((node) => !isParked(node));
  const others = serving.filter((node) => {
    const applied = node.status?.config?.applied;
    return applied !== undefined && applied !== wanted;
  });
  const chosen = serving.slice(0, canary.replicas);
  const members = new Set(chosen.map(({ metadata }) => metadata.name));
  // Nobody is left that a bad config could be kept from.
  if (others.length === 0) return { state: "none" };

  const failed = (reason: string): Trial => ({ state: "failed", reason });
  const running = (message: string, againInMs = lookMs): Trial => ({
    state: "running",
    members,
    message,
    againInMs,
  });
  const figures = chosen.map((node) => workUnder(wanted, work(node)));
  const sum = total(figures);
  const tried = sum.completed + sum.failed;
  const allowed = (canary.maxErrorRatePercent / 100) * Math.max(canary.jobs, tried);
  if (sum.failed > allowed)
    return failed(
      `${sum.failed} of ${tried} jobs failed on ${listed(members)}, at most ${canary.maxErrorRatePercent} % may`,
    );

  const isTold = (node: ResultityNode) => node.status?.config?.target === wanted;
  // Nor may others that were told it, when they were the first or new, be left where they are stuck.
  for (const node of serving.filter(isTold)) {
    const stuck = stuckReason(node);
    // It may have been out of service since long before, for another reason.
    const borneMs = now - Math.max(stuck?.since ?? now, members.has(node.metadata.name) ? begun : 0);
    if (stuck && borneMs >= Math.max(canary.soakSeconds * 1000, leastBorneMs))
      return failed(`${node.metadata.name} does not come up: ${stuck.text}`);
  }
  for (const node of chosen) {
    const { name } = node.metadata;
    if (!isTold(node) || isMoving(node) || !isReady(node))
      return running(`${name} has yet to serve under it`);
  }
  const soaked = Math.min(...chosen.map((node) => now - servingSince(node)));
  const left = canary.soakSeconds * 1000 - soaked;
  if (left > 0) return running(`${listed(members)} serve under it for ${canary.soakSeconds} s first`, left);
  if (tried < canary.jobs)
    return running(`${listed(members)} have to answer ${canary.jobs} jobs first; without traffic it waits`);
  return slower(inputs, others, sum) ?? { state: "passed" };

  function slower({ canary }: TrialInputs, old: readonly ResultityNode[], mine: Work): Trial | undefined {
    const theirs = total(old.map((node) => workUnder(node.status?.config?.applied, work(node))));
    // Nothing to compare with: `jobs` may be 0, and jobs of no length are those of no engine.
    if (theirs.completed < canary.jobs || mine.completed === 0 || theirs.durationMs === 0) return undefined;
    const increase = (mine.durationMs / mine.completed / (theirs.durationMs / theirs.completed) - 1) * 100;
    if (increase <= canary.maxLatencyIncreasePercent) return undefined;
    return failed(
      `jobs take ${Math.round(increase)} % longer on ${listed(members)} than under the old config, at most ${canary.maxLatencyIncreasePercent} % may`,
    );
  }
}

const noWork = { completed: 0, failed: 0, durationMs: 0 };

/** Counts are good for one config: those of an earlier one say nothing. */
function workUnder(config: string | undefined, work: Work | undefined): Omit<Work, "config"> {
  return work && work.config === config ? work : noWork;
}

function total(works: readonly Omit<Work, "config">[]): Work {
  const sum = { config: null, ...noWork };
  for (const { completed, failed, durationMs } of works) {
    sum.completed += completed;
    sum.failed += failed;
    sum.durationMs += durationMs;
  }
  return sum;
}

/** Wall time, ms, since when a node is in service under the config that it has applied. */
function servingSince({ status }: ResultityNode): number {
  const since = (type: "Ready" | "ConfigApplied") =>
    Date.parse(findCondition(status?.conditions, type)?.lastTransitionTime ?? "") || 0;
  return Math.max(since("Ready"), since("ConfigApplied"));
}

function listed(names: ReadonlySet<string>): string {
  const all = [...names];
  return all.length <= 5 ? all.join(", ") : `${all.slice(0, 5).join(", ")} and ${all.length - 5} more`;
}
