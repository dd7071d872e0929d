import { type ChangeStep, type NodeInputs, planChange } from "../../protocol/config/change.ts";
import { abilitiesOf } from "../../protocol/config/engines.ts";
import { modelIdentities } from "../../protocol/config/weights.ts";
import type { Desired } from "../../protocol/desired.ts";
import { sizeText } from "../size.ts";
import type { NetworkConfig } from "../views.ts";
import { type Aim, aheadOf, aimAt, aimOf } from "./aim.ts";
import { digestOfImage, type PodFacts, pullFails, runs } from "./facts.ts";
import { podInputsHash } from "./inputs.ts";
import { resizeOf } from "./resize.ts";
import type { NodeObservation } from "./observation.ts";

/** What decides where a node goes: parts of the observation. */
export type Course = Pick<NodeObservation, "node" | "inPool" | "network" | "config" | "now">;

/** What the plan of one pod works on. */
export interface Scene {
  readonly o: NodeObservation;
  readonly pod: PodFacts;
  readonly desired: Desired;
  /** What is to run now; not ok = leave what runs. */
  readonly goal: Aim;
  /** What is got ready for, while the goal is another. */
  readonly ahead: (Aim & { readonly ok: true }) | undefined;
  readonly agentImage: string;
  readonly runtimeImage: string;
  readonly steps: readonly ChangeStep[];
}

/** Works out what a pod is to become and what that takes. */
export function sceneOf(o: NodeObservation, pod: PodFacts, desired: Desired, aim: Aim): Scene {
  const agentImage = o.network?.spec.agent.image ?? pod.agent.image;
  const goal = goalOf(o, pod, desired, aim);
  const runtimeImage = goal.ok ? goal.selection.runtime.image : pod.runtime.image;
  return {
    o,
    pod,
    desired,
    goal,
    ahead: aheadIn(o, desired),
    agentImage,
    runtimeImage,
    steps: stepsOf(o, pod, desired, goal, agentImage),
  };
}

function aheadIn({ node, inPool, config, now }: Course, desired: Desired): Scene["ahead"] {
  return config && aheadOf({ node, inPool, config, running: desired.target ?? undefined, now });
}

/**
 * A move whose agent has been told is finished before the next one begins, or agent and image would disagree; unless
 * its image does not come, for then the next one is the way out.
 */
function goalOf(o: Course, pod: PodFacts, desired: Desired, aim: Aim): Aim {
  const begun = desired.target;
  if (desired.plannedStop !== "runtime-image" || begun === null || begun === aim.digest || !o.config)
    return aim;
  const goal = aimAt(begun, { node: o.node, inPool: o.inPool, config: o.config, running: begun, now: o.now });
  if (!goal.ok || pullFails(pod.runtime)) return aim;
  return runs(pod, "runtime", goal.selection.runtime.image) ? aim : goal;
}

function stepsOf(
  o: NodeObservation,
  pod: PodFacts,
  desired: Desired,
  goal: Aim,
  agentImage: string,
): readonly ChangeStep[] {
  const { node, config } = o;
  if (!config) return [];
  const before =
    desired.target === null
      ? undefined
      : aimAt(desired.target, { node, inPool: o.inPool, config, running: undefined, now: o.now });
  const runtimeImage = goal.ok ? goal.selection.runtime.image : pod.runtime.image;
  const podTemplateHash = podInputsHash(node, config);
  // Where there is nothing to go to, no pod could be made in the place of this one.
  const resize = goal.ok ? resizeOf(node, pod, config, o.resizeRefused) : undefined;
  if (resize?.how === "new-pod") return [{ action: "recreate", reason: resize.reason }];
  const to: NodeInputs = {
    runtimeImage,
    launcher: "shell",
    agentImage,
    engine: node.spec.runtime.engine,
    command: goal.ok ? goal.selection.runtime.command : [],
    args: node.spec.runtime.args ?? [],
    models: modelsOf(goal, config),
    live: {},
    size: sizeText(node.spec.runtime.resources ?? {}),
    podTemplateHash,
  };
  const from: NodeInputs = {
    ...to,
    runtimeImage: sameImage(pod.runtime.image, runtimeImage) ? runtimeImage : pod.runtime.image,
    agentImage: sameImage(pod.agent.image, agentImage) ? agentImage : pod.agent.image,
    command: before?.ok ? before.selection.runtime.command : to.command,
    args: desired.args,
    models: before?.ok ? modelsOf(before, config) : to.models,
    size: resize ? `${sizeText(resize.from)}, as it was written` : to.size,
    podTemplateHash: goal.ok && !resize ? (pod.inputsHash ?? podTemplateHash) : podTemplateHash,
  };
  return planChange(from, to, abilitiesOf(to.engine));
}

/** Other weights under an old name are another model. */
function modelsOf(aim: Aim, { snapshots }: NetworkConfig): readonly string[] {
  const snapshot = aim.ok ? snapshots.get(aim.digest) : undefined;
  return aim.ok && snapshot ? modelIdentities(snapshot, aim.selection.models) : [];
}

/** Mirrors and webhooks change the place of an image, never its digest. */
export const sameImage = (a: string, b: string): boolean => digestOfImage(a) === digestOfImage(b);

/**
 * Images that the pod is to run and does not yet: the host has to keep them. Undefined while that cannot be told.
 */
export function imagesAhead(o: Course, pod: PodFacts): readonly string[] | undefined {
  const { node, network, config, inPool, now } = o;
  if (pod.finished || !pod.ours || node.spec.replicas === 0) return [];
  if (!network || !config || !pod.desired.ok) return undefined;
  const { desired } = pod.desired;
  const aim = aimOf({ node, inPool, config, running: desired.target ?? undefined, now });
  const goal = goalOf(o, pod, desired, aim);
  const agent = network.spec.agent.image;
  const ahead = aheadIn(o, desired);
  return [
    ...(ahead && !runs(pod, "runtime", ahead.places[0]) ? ahead.places : []),
    ...(goal.ok && !runs(pod, "runtime", goal.places[0]) ? goal.places : []),
    ...(runs(pod, "agent", agent) ? [] : [agent]),
  ];
}
