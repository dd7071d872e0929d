import { rfc3339 } from "../../../api/v1alpha1/conditions.ts";
import type { Recovery, RecoveryStep } from "../../../api/v1alpha1/node.ts";
import type { Trouble } from "./trouble.ts";

/** How the node's neighbours fare; see `fleet.ts`. */
export interface FleetHealth {
  /** Nodes of the same pool, and of the whole network, that are to run; those of them that recovery is at work on. */
  readonly pool: { readonly nodes: number; readonly failing: number };
  readonly network: { readonly nodes: number; readonly failing: number };
  /** Steps taken for other nodes of the network within {@link rateWindowMs}. */
  readonly recentSteps: number;
  /** Whether other nodes of the network serve this node's config, and whether they serve another. */
  readonly servesSame: boolean;
  readonly servesOther: boolean;
}

/** What the ladder is asked with. */
export interface Rung {
  readonly now: number;
  readonly trouble: Trouble;
  /** The node's record, as it is stored. */
  readonly steps: NonNullable<Recovery["steps"]>;
  readonly podUid: string;
  readonly host: string | undefined;
  /** Undefined while it is not known yet: no step is taken. */
  readonly fleet: FleetHealth | undefined;
  /** Whether a pod could be made in place of this one. */
  readonly canRun: boolean;
}

/** What it answers. */
export interface Decision {
  /** The step, to be put into the record; it is taken once it stands there. */
  readonly take: RecoveryStep | undefined;
  readonly next: { readonly step: RecoveryStep; readonly at: number } | undefined;
  readonly held: Recovery["held"];
}

/** For how long steps count and hosts are avoided, and how many one node may have in that time. */
export const windowMs = 6 * 3_600_000;
export const stepsPerWindow = 4;
/** Pause after the n-th step: this · 3ⁿ⁻¹, ms. A model has to be loaded before it shows whether a step helped. */
const pauseMs = 5 * 60_000;
/** A step that stands in the record is done within this time, or decided anew, ms. */
const intentMs = 120_000;
/** At most one node in twenty of a network within ten minutes, and always one. */
export const rateWindowMs = 10 * 60_000;
const rateShare = 0.05;
/** From three on, and more than one in five: a cause that they share. Two may be chance. */
const commonCount = 3;
const commonShare = 0.2;
/** When to look again at what only the neighbours change, ms. */
export const heldMs = 60_000;

/**
 * What is done about a node that does not come back: a new pod, then other hosts, later each time, and a few times only. A function of
 * what is stored and seen, so an operator that has just started goes on where the last one was.
 */
export function climb(rung: Rung): Decision {
  const { now, trouble, fleet, steps } = rung;
  const counted = steps.filter(({ step, cause }) => step !== "LostHost" && cause !== "PodFailed");
  const last = counted.at(-1);
  const step = stepAfter(
    trouble,
    counted.some(({ cause }) => cause === trouble.cause),
  );
  const patient = trouble.since + trouble.patienceMs;
  const paused = last ? Date.parse(last.time) + pauseMs * 3 ** (counted.length - 1) : 0;
  const due = Math.max(patient, step === "AnyHost" ? 0 : paused);
  if (step !== "AnyHost" && counted.length >= stepsPerWindow) {
    const free = Date.parse(counted[0]?.time ?? "") + windowMs;
    return { take: undefined, next: { step, at: Math.max(free, due) }, held: "BudgetSpent" };
  }
  const held = holdOf(rung);
  if (now < due) return { take: undefined, next: { step, at: due }, held };
  if (held !== undefined) return { take: undefined, next: undefined, held };
  const rate = Math.max(1, Math.ceil((fleet?.network.nodes ?? 0) * rateShare));
  if (!fleet || fleet.recentSteps >= rate) return { take: undefined, next: undefined, held };
  return { take: step, next: undefined, held };
}

/** What did not help once does not help twice; hosts differ. */
const stepAfter = ({ first }: Trouble, tried: boolean): RecoveryStep =>
  tried && first === "NewPod" ? "OtherHost" : first;

function holdOf({ trouble, fleet, canRun }: Rung): Recovery["held"] {
  if (!canRun) return "NothingToRun";
  if (!fleet || trouble.first === "AnyHost") return undefined;
  if (isCommon(fleet.pool) || isCommon(fleet.network)) return "SharedCause";
  return trouble.byConfig && fleet.servesOther && !fleet.servesSame ? "ConfigUnproven" : undefined;
}

const isCommon = ({ nodes, failing }: { readonly nodes: number; readonly failing: number }): boolean =>
  failing >= commonCount && failing > nodes * commonShare;

/** The step that stands in the record for this very pod and is yet to be done. */
export function intended(
  steps: NonNullable<Recovery["steps"]>,
  podUid: string,
  now: number,
): RecoveryStep | undefined {
  const last = steps.at(-1);
  return last?.podUid === podUid && now - Date.parse(last.time) < intentMs ? last.step : undefined;
}

/** The record without what is too old to count. */
export function recent(recovery: Recovery | undefined, now: number): NonNullable<Recovery["steps"]> {
  return (recovery?.steps ?? []).filter(({ time }) => now - Date.parse(time) < windowMs).slice(-8);
}

/** Milliseconds until the oldest step of a record is too old to count; undefined where there is none. */
export function expiryMs(steps: NonNullable<Recovery["steps"]>, now: number): number | undefined {
  const [oldest] = steps;
  return oldest && Date.parse(oldest.time) + windowMs - now;
}

/** The record with one more step. */
export function withStep(
  steps: NonNullable<Recovery["steps"]>,
  step: RecoveryStep,
  { now, podUid, host }: Pick<Rung, "now" | "podUid" | "host">,
  cause: string,
): NonNullable<Recovery["steps"]> {
  return [
    ...steps,
    { step, cause, time: rfc3339(now), podUid, ...(host === undefined ? {} : { host }) },
  ].slice(-8);
}
