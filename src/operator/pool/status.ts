import {
  type Condition,
  findCondition,
  type NewCondition,
  type PoolConditionType,
  type PoolReason,
  setCondition,
  rfc3339,
} from "../../api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { PoolStatus } from "../../api/v1alpha1/pool.ts";
import { hasNoCapacity } from "../capacity.ts";
import { poolLabel } from "../names.ts";
import { censusOf } from "./census.ts";
import { hasSpec, isMoving, isParked, isReady, stuckReasons } from "./child.ts";
import { askedDigest, commonDigest, isHeldBack, rejectionOf, trialOf, wantedDigest } from "./digest.ts";
import type { PoolObservation } from "./observation.ts";
import type { Refused } from "./refusal.ts";

/**
 * The pool's status as it follows from what is seen; what was there before lends only its times.
 *
 * @param refused what the API server did not let the operator do.
 */
export function poolStatus(seen: PoolObservation, refused?: Refused): PoolStatus {
  const { pool, children, now } = seen;
  const wanted = wantedDigest(seen);
  const { staying } = censusOf(seen);
  // An update neither waits for those that are parked nor counts them: they come back with what is wanted by then.
  const present = staying.filter((child) => !isParked(child));
  const ready = staying.filter(isReady);
  const allUpdated = staying.filter((child) => isUpdated(seen, child, wanted));
  const updated = allUpdated.filter((child) => !isParked(child));
  const podReady = staying.filter((child) => isTrueNow(child, "RuntimeReady"));
  const before = pool.status ?? {};
  let list: readonly Condition<PoolConditionType>[] = before.conditions ?? [];
  for (const condition of conditionsOf(seen, { staying: present, ready, updated }, refused))
    list = setCondition(list, condition, now);
  const rollout = rolloutOf(seen, wanted, present, updated.length);
  const rejected = rejectedOf(seen);
  return {
    observedGeneration: pool.metadata.generation,
    replicas: children.length,
    readyReplicas: podReady.length,
    availableReplicas: ready.length,
    updatedReplicas: allUpdated.length,
    // Absent where there are none: an operator that learns to say more writes nothing to a fleet that is as it was.
    ...(present.length < staying.length ? { parkedReplicas: staying.length - present.length } : {}),
    selector: `${poolLabel}=${pool.metadata.name}`,
    ...(rollout ? { rollout } : {}),
    ...(rejected.length > 0 ? { rejected } : {}),
    conditions: [...list],
  };
}

function isTrueNow(child: ResultityNode, type: "RuntimeReady"): boolean {
  return findCondition(child.status?.conditions, type)?.status === "True";
}

/** Has the newest template and has applied the wanted config. */
function isUpdated({ pool }: PoolObservation, child: ResultityNode, wanted: string | undefined): boolean {
  return (
    wanted !== undefined &&
    hasSpec(pool, child) &&
    child.status?.config?.applied === wanted &&
    !isMoving(child)
  );
}

/** The node that an update waits for: one that cannot go on before one that is on its way, and of those the longest. */
function waitingOn(
  staying: readonly ResultityNode[],
): { child: ResultityNode; reason: string; since: string; stuck: boolean } | undefined {
  const moving = staying
    .filter((child) => !isParked(child) && isMoving(child))
    .map((child) => {
      const { conditions } = child.status ?? {};
      const runtime = findCondition(conditions, "RuntimeReady");
      const config = findCondition(conditions, "ConfigApplied");
      const shown = runtime && stuckReasons.has(runtime.reason) ? runtime : config;
      return {
        child,
        reason: shown ? `${shown.reason}: ${shown.message}`.slice(0, 512) : "it has just been told",
        since: shown?.lastTransitionTime ?? child.metadata.creationTimestamp,
        stuck: shown !== undefined && stuckReasons.has(shown.reason),
      };
    });
  return moving.sort((a, b) => Number(b.stuck) - Number(a.stuck) || (a.since < b.since ? -1 : 1))[0];
}

/** Most rejections that are kept. */
const keptRejections = 10;

/** The rejections so far, and the one that a failed trial adds. */
function rejectedOf(seen: PoolObservation): NonNullable<PoolStatus["rejected"]> {
  const { pool, now } = seen;
  const before = pool.status?.rejected ?? [];
  const trial = trialOf(seen);
  const digest = wantedDigest(seen);
  if (trial.state !== "failed" || digest === undefined || !pool.spec.strategy.rollingUpdate.autoRollback)
    return before;
  const instead = commonDigest(seen, digest);
  if (instead === undefined) return before;
  const at = rfc3339(now);
  const others = before.filter((entry) => entry.digest !== digest);
  return [{ digest, instead, reason: trial.reason.slice(0, 512), at }, ...others].slice(0, keptRejections);
}

const trialStates = { none: undefined, running: "Running", passed: "Passed", failed: "Failed" } as const;

function rolloutOf(
  seen: PoolObservation,
  wanted: string | undefined,
  staying: readonly ResultityNode[],
  updated: number,
): PoolStatus["rollout"] {
  if (wanted === undefined) return undefined;
  const { pool, now } = seen;
  const before = pool.status?.rollout;
  const trial = trialOf(seen);
  const canary = trialStates[trial.state];
  const waiting = waitingOn(staying);
  // Held by a pause, a window or a full budget it has not begun, and a trial not before one of its members is told.
  const told = staying.filter(({ status }) => status?.config?.target === wanted);
  const names = new Set(told.map(({ metadata }) => metadata.name));
  const begun =
    trial.state === "running" ? [...trial.members].some((name) => names.has(name)) : told.length > 0;
  const startedAt = (before?.target === wanted ? before.startedAt : undefined) ?? rfc3339(now);
  return {
    target: wanted,
    updated,
    total: staying.length,
    ...(waiting
      ? { waitingOn: { node: waiting.child.metadata.name, reason: waiting.reason, since: waiting.since } }
      : {}),
    ...(begun ? { startedAt } : {}),
    ...(canary === undefined ? {} : { canary }),
  };
}

interface Counted {
  /** Those that are not parked; `updated` are among them. */
  readonly staying: readonly ResultityNode[];
  readonly ready: readonly ResultityNode[];
  readonly updated: readonly ResultityNode[];
}

type PoolCondition = NewCondition<PoolConditionType, PoolReason>;

function conditionsOf(
  seen: PoolObservation,
  counted: Counted,
  refused: Refused | undefined,
): readonly PoolCondition[] {
  const { pool } = seen;
  const observedGeneration = pool.metadata.generation;
  const available = { ...availableOf(seen, counted), observedGeneration } as const;
  const progress = refused
    ? ({ type: "Progressing", status: "False", ...refused } as const)
    : progressOf(seen, counted);
  const progressing = { ...progress, observedGeneration };
  const unwell = (refused ? [progressing] : [available, progressing]).find(({ status }) => status !== "True");
  const allReady =
    counted.ready.length >= censusOf(seen).size && counted.updated.length === counted.staying.length;
  const well =
    available.reason === "NoCapacity"
      ? { reason: available.reason, message: available.message }
      : {
          reason: "AllWell" as const,
          message: `${counted.ready.length} nodes are in service${withoutCapacity(seen)}`,
        };
  const ready: PoolCondition = unwell
    ? { type: "Ready", status: "False", reason: unwell.reason, message: unwell.message, observedGeneration }
    : allReady
      ? { ...well, type: "Ready", status: "True", observedGeneration }
      : { ...unready(seen, counted, progressing), type: "Ready", status: "False", observedGeneration };
  return [available, progressing, ready];
}

type Verdict = Omit<PoolCondition, "observedGeneration">;

/** How many nodes wait for GPUs to be lent to them, as the end of a sentence; empty where none does. */
function withoutCapacity(seen: PoolObservation): string {
  const count = censusOf(seen).staying.filter(hasNoCapacity).length;
  return count === 0 ? "" : `; ${count} more ${count === 1 ? "is" : "are"} parked for want of capacity`;
}

/** What a trial, or one that has failed, has to say about the update. */
function trialProgress(seen: PoolObservation): readonly [Verdict["status"], PoolReason, string] | undefined {
  const { name, namespace } = seen.pool.metadata;
  const anyway = `to take it all the same: kubectl resultity rollout promote ${name} -n ${namespace}`;
  const rejection = rejectionOf(seen);
  if (rejection) {
    const { digest, instead, reason, at } = rejection;
    return [
      "False",
      "RolledBack",
      `the pool went back to config ${instead} at ${at}: under ${digest} ${reason}; ${anyway}`,
    ];
  }
  const trial = trialOf(seen);
  if (trial.state === "running")
    return ["True", "Canary", `config ${wantedDigest(seen)} is tried: ${trial.message}`];
  // The figures of what is not taken back go on: what was said when it failed stays.
  const said = findCondition(seen.pool.status?.conditions, "Progressing");
  const { rollout } = seen.pool.status ?? {};
  if (trial.state === "failed" && said?.reason === "CanaryFailed" && rollout?.target === wantedDigest(seen))
    return [said.status, "CanaryFailed", said.message];
  if (trial.state === "failed")
    return [
      "False",
      "CanaryFailed",
      `config ${wantedDigest(seen)} goes no further: ${trial.reason}; ${anyway}`,
    ];
  return undefined;
}

/** Why not every node serves, though enough of them do: an update is under way, or a node is not well. */
function unready(
  seen: PoolObservation,
  { ready, staying }: Counted,
  progressing: Verdict,
): Pick<PoolCondition, "reason" | "message"> {
  const worst = worstOf(staying);
  if (progressing.reason !== "NewestConfig" || !worst) return progressing;
  const why = findCondition(worst.status?.conditions, "Ready");
  // Each text is a write: what passes by itself is told by the node alone.
  const lasting = why && stuckReasons.has(why.reason) ? `${why.reason}: ${why.message}` : "it is on its way";
  return {
    reason: "WaitingForNode",
    message: `${ready.length} of ${censusOf(seen).size} nodes are in service; ${worst.metadata.name}: ${lasting}`,
  };
}

/** A node that should serve and does not; of several one that will not by itself. */
function worstOf(staying: readonly ResultityNode[]): ResultityNode | undefined {
  const unwell = staying.filter((child) => !isParked(child) && !isReady(child));
  const stuck = unwell.find(({ status }) =>
    stuckReasons.has(findCondition(status?.conditions, "Ready")?.reason ?? ""),
  );
  return stuck ?? unwell[0];
}

function availableOf(seen: PoolObservation, { ready, staying }: Counted): Verdict {
  const { size, minAvailable: needed } = censusOf(seen);
  const parked = withoutCapacity(seen);
  if (size === 0 && parked !== "")
    return {
      type: "Available",
      status: "True",
      reason: "NoCapacity",
      message: `no node is in service${parked}; they come back by themselves`,
    };
  if (size === 0)
    return { type: "Available", status: "True", reason: "ScaledToZero", message: "no nodes are wanted" };
  if (ready.length >= needed) {
    return {
      type: "Available",
      status: "True",
      reason: "MinimumAvailable",
      message: `${ready.length} of ${size} nodes are in service, ${needed} are needed${parked}`,
    };
  }
  const worst = worstOf(staying);
  const why = findCondition(worst?.status?.conditions, "Ready")?.message;
  return {
    type: "Available",
    status: "False",
    reason: "MinimumUnavailable",
    message: `${ready.length} of ${size} nodes are in service, ${needed} are needed${worst ? `; ${worst.metadata.name}: ${why ?? "starting"}` : ""}`,
  };
}

function progressOf(seen: PoolObservation, { staying, updated }: Counted): Verdict {
  const { pool, children, networkKnown } = seen;
  const network = pool.spec.template.spec.networkRef.name;
  const say = (status: Verdict["status"], reason: PoolReason, message: string): Verdict => ({
    type: "Progressing",
    status,
    reason,
    message,
  });
  if (!networkKnown)
    return say(
      "False",
      "NetworkNotFound",
      `there is no ResultityNetwork ${network} in this namespace: create it, or correct networkRef`,
    );
  const asked = askedDigest(seen);
  if (asked === undefined)
    return say(
      "False",
      "NetworkNotTrusted",
      `ResultityNetwork ${network} has no verified config yet: see its conditions`,
    );
  if (children.length !== pool.spec.replicas) {
    return say("True", "Scaling", `${children.length} nodes exist, ${pool.spec.replicas} are wanted`);
  }
  const stopped = trialProgress(seen);
  if (stopped) return say(...stopped);
  if (!seen.allows(asked))
    return say(
      "False",
      "Stalled",
      `config ${asked} is not allowed by the network's newest release, so that no node is told to move to it: ${pool.spec.template.spec.config?.pin === asked ? "remove spec.template.spec.config.pin, or name one that is allowed" : "the network must publish a new release"}`,
    );
  if (updated.length === staying.length)
    return say(
      "True",
      "NewestConfig",
      `all ${staying.length} nodes have the newest template and config${withoutCapacity(seen)}`,
    );
  const waiting = waitingOn(staying);
  if (waiting?.stuck)
    return say(
      "False",
      "WaitingForNode",
      `${waiting.child.metadata.name} cannot go on since ${waiting.since}: ${waiting.reason}`,
    );
  if (pool.spec.strategy.paused)
    return say(
      "False",
      "Paused",
      `${updated.length} of ${staying.length} nodes are updated; set strategy.paused to false to go on`,
    );
  const done = new Set(updated);
  const held = staying.filter((child) => isHeldBack(pool, child) && !done.has(child)).length;
  if (held > 0 && held === staying.length - updated.length)
    return say(
      "True",
      "Partitioned",
      `${updated.length} of ${staying.length} nodes are updated; the others are under strategy.rollingUpdate.partition, which is ${pool.spec.strategy.rollingUpdate.partition}`,
    );
  if (!seen.mayRestart && !waiting)
    return say(
      "True",
      "MaintenanceWindow",
      `${updated.length} of ${staying.length} nodes are updated; the others wait for the network's maintenance window${seen.restartsUntil === undefined ? ", and none is to come" : ` at ${rfc3339(seen.restartsUntil)}`}`,
    );
  return say(
    "True",
    "RollingOut",
    `${updated.length} of ${staying.length} nodes are updated${waiting ? `; ${waiting.child.metadata.name} is on its way` : ""}`,
  );
}
