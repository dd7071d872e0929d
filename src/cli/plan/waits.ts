import { findCondition, rfc3339 } from "../../api/v1alpha1/conditions.ts";
import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import {
  isLeaving,
  isMoving,
  isParked,
  type PoolObservation,
  wantedDigest,
} from "../../operator/pool/plan.ts";
import { shortRef } from "../subject.ts";
import { counted } from "../text/words.ts";
import type { Forecast } from "./forecast.ts";

/** What keeps a config from a network whose owner wants to be asked. */
export function approvalWait({ metadata: { name, namespace } }: ResultityNetwork, digest: string): string {
  return `config ${digest} waits for approval, and nodes move to it only then: kubectl resultity approve ${name} --digest ${digest} -n ${namespace}`;
}

/** What a pool waits for beside its next actions: each with what ends the waiting. Empty when all is done. */
export function waitsOf(seen: PoolObservation, { held, unwell, trial }: Forecast): readonly string[] {
  const { pool, children } = seen;
  const { name, namespace, deletionTimestamp } = pool.metadata;
  if (deletionTimestamp !== undefined) {
    return [`the pool is being deleted, and its nodes with it: ${counted(children.length, "node")} left`];
  }
  const network = pool.spec.template.spec.networkRef.name;
  const waits: string[] = [];
  if (!seen.networkKnown) {
    waits.push(
      `there is no ResultityNetwork ${network} in namespace ${namespace}: create it; until then nodes get no config`,
    );
  } else if (wantedDigest(seen) === undefined) {
    waits.push(
      `network ${network} has no verified config, so that nodes are told none: kubectl resultity why ${shortRef("ResultityNetwork", network)} -n ${namespace}`,
    );
  }
  waits.push(...children.filter((child) => isLeaving(child) && seen.hasPod(child)).map(leavingWait));
  const { waitingOn } = pool.status?.rollout ?? {};
  for (const child of children.filter((child) => !isLeaving(child) && !isParked(child) && isMoving(child))) {
    waits.push(movingWait(child, waitingOn));
  }
  const { canary } = pool.spec.strategy.rollingUpdate;
  if (canary && trial.length > 0) {
    waits.push(
      `${listed(trial)} ${trial.length === 1 ? "tries" : "try"} the config first: in service for ${canary.soakSeconds} s, and ${counted(canary.jobs, "job")} answered, of which at most ${canary.maxErrorRatePercent} % may fail; what comes after is told as if they pass`,
    );
  }
  if (held.length > 0 && pool.spec.strategy.paused) {
    waits.push(
      `updates are paused: ${listed(held)} ${held.length === 1 ? "has" : "have"} yet to move; to go on: kubectl resultity rollout resume ${name} -n ${namespace}`,
    );
  } else if (held.length > 0 && !seen.mayRestart) {
    const opens = seen.restartsUntil === undefined ? "" : `, which opens at ${rfc3339(seen.restartsUntil)}`;
    waits.push(
      `${listed(held)} ${held.length === 1 ? "waits" : "wait"} for the network's maintenance window${opens}`,
    );
  } else if (held.length > 0) {
    const cause =
      unwell.length > 0
        ? `${listed(unwell)} ${unwell.length === 1 ? "is" : "are"} out of service, so that no other may be: mend ${unwell.length === 1 ? "it" : "them"}, or raise spec.strategy.rollingUpdate.maxUnavailable`
        : "no more may be out of service now: raise spec.strategy.rollingUpdate.maxUnavailable, or wait";
    waits.push(`${listed(held)} cannot move yet: ${cause}`);
  }
  for (const unwellNode of unwell) {
    const child = children.find(({ metadata }) => metadata.name === unwellNode);
    const ready = findCondition(child?.status?.conditions, "Ready");
    waits.push(
      `${unwellNode} is out of service (${ready ? `${ready.reason}: ${ready.message}` : "not looked at yet"}): kubectl resultity why ${shortRef("ResultityNode", unwellNode)} -n ${namespace}`,
    );
  }
  return waits;
}

function leavingWait({ metadata }: ResultityNode): string {
  return `${metadata.name} leaves: it is deleted when its jobs have ended and its pod is gone`;
}

function movingWait(
  { metadata, status }: ResultityNode,
  waitingOn:
    | { readonly node: string; readonly reason: string; readonly since?: string | undefined }
    | undefined,
): string {
  const said = findCondition(status?.conditions, "ConfigApplied");
  const reason =
    waitingOn?.node === metadata.name
      ? `${waitingOn.reason}${waitingOn.since === undefined ? "" : `, since ${waitingOn.since}`}`
      : said && said.status !== "True"
        ? `${said.reason}: ${said.message}`
        : "its controller has yet to look";
  const told = status?.config?.target === undefined ? "is new" : "was told to move";
  return `${metadata.name} ${told} and has not arrived (${reason})`;
}

/** Names, the first few of many. */
function listed(names: readonly string[]): string {
  const few = 5;
  const more = names.length - few;
  return more > 0 ? `${names.slice(0, few).join(", ")} and ${more} more` : names.join(", ");
}
