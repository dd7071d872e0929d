import type { Desired } from "../../protocol/desired.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import type { AgentStatus } from "../../protocol/status.ts";
import { asksFor, type Moves, revise, type Wish, wishOf } from "./desired.ts";
import type { PodFacts } from "./facts.ts";
import { getReady } from "./get-ready.ts";
import type { NodeObservation } from "./observation.ts";
import type { Action, Note } from "./plan.ts";
import { echoed, revisionOf } from "./plan-stop.ts";
import type { Scene } from "./scene.ts";

/** What is done about a pod that runs, and what is said of its config. */
export interface Decision {
  readonly actions: readonly Action[];
  readonly note?: Note;
  /** What the agent has staged is not all: the host has yet to get the image. */
  readonly awaitsImage?: boolean;
}

/** Nothing is left to move: the annotation says only what lasts, and the agent is asked until all is as it should be. */
export function settle(scene: Scene, target: ConfigDigest | null): Decision {
  const { o, pod, desired, steps } = scene;
  const ahead = scene.ahead?.digest ?? null;
  const lasting: Moves = { stage: ahead, target, plannedStop: null };
  if (!asksFor(desired, wishFor(scene, lasting))) {
    const staging = ahead !== null && ahead !== desired.stage;
    const reason = desired.plannedStop
      ? `the planned stop (${desired.plannedStop}) is over`
      : staging
        ? `get ready for config ${ahead}, which comes next`
        : (steps[0]?.reason ?? "the spec changed what the agent applies live");
    // The next node waits for this one's word.
    return {
      actions: order(scene, lasting, reason),
      note: isQuiet(scene, lasting) ? appliedNote(o, desired) : awaited(o),
    };
  }
  const still = isSettled(o, pod, desired);
  const settled: Decision = {
    actions: still ? [] : [{ type: "ask-agent", reason: "is all applied and serving?" }],
    note: appliedNote(o, desired),
  };
  const ready = getReady(scene);
  if (!ready) return settled;
  const { note } = settled;
  return {
    actions: [...settled.actions, ...ready.actions],
    awaitsImage: ready.awaitsImage,
    ...(note ? { note: note.status === "True" ? ready.told(note) : note } : {}),
  };
}

/** Whether there is nothing left to learn from the agent. */
function isSettled(o: NodeObservation, pod: PodFacts, desired: Desired): boolean {
  const { status, silentMs } = o.agent;
  if (!pod.ready || silentMs > 0) return false;
  // After a restart of the operator nobody has asked yet: a ready pod whose config was applied need not be.
  if (!status) {
    const { applied } = o.node.status?.config ?? {};
    return hasRead(o, desired) && applied === desired.target && o.nodeId !== undefined;
  }
  return (
    echoed(o, desired) &&
    status.report.config.applied === desired.target &&
    status.report.engine.health === "healthy" &&
    status.drain.state === "serving"
  );
}

function appliedNote(o: NodeObservation, desired: Desired): Note {
  const { target } = desired;
  const { status } = o.agent;
  const said = status ? status.report.config.applied : o.node.status?.config?.applied;
  if (target !== null && said === target && hasRead(o, desired)) {
    return { status: "True", reason: "Applied", message: `config ${target} is applied` };
  }
  const error = status?.config_error;
  return error ? failedNote(target, error) : awaited(o);
}

/**
 * The agent acts on all that it was told of what it applies. The end of a stop it may have yet to read, which a kubelet may take a
 * minute to bring to it. Where it was told nothing since the operator began, and has not been asked, the node's status holds.
 */
function hasRead({ agent: { status }, mustRead }: NodeObservation, { revision }: Desired): boolean {
  if (!status) return mustRead === undefined;
  return status.desired_revision >= Math.min(mustRead ?? revision, revision);
}

/** Whether an order changes nothing of what is applied: only what is staged, or that a stop begins or ends. */
function isQuiet(scene: Scene, moves: Moves): boolean {
  const { stage, plannedStop } = scene.desired;
  return asksFor(scene.desired, wishFor(scene, { ...moves, stage, plannedStop }));
}

/** The agent has been told to move. */
export const movingTo = (digest: ConfigDigest | null): Note =>
  moveNote("Moving", `the node moves to config ${digest ?? ""}: running jobs end first`);

/** The agent cannot apply a config. */
export function failedNote(
  digest: ConfigDigest | null,
  { code, message }: NonNullable<AgentStatus["config_error"]>,
): Note {
  return moveNote("StageFailed", `the agent cannot apply config ${digest ?? ""} (${code}): ${message}`);
}

function awaited({ agent, pod }: NodeObservation): Note {
  if (agent.silentMs > 0) {
    return moveNote("Waiting", `the agent does not answer at ${pod?.ip ?? "its pod"}: ${agent.problem}`);
  }
  const weights = weightsOnTheirWay(agent);
  return moveNote("Waiting", weights ?? "waiting for the agent to confirm");
}

/** Which weights the agent fetches; without bytes, which would be a write to the API server at each look. */
function weightsOnTheirWay({ status }: NodeObservation["agent"]): string | undefined {
  const states = status?.report.models.states ?? [];
  const coming = states.find(({ state }) => state === "downloading" || state === "verifying");
  return coming && `the agent fetches the weights of model ${coming.model}: its status says how far it is`;
}

/** Says where a move is. */
export const moveNote = (
  reason: "Staging" | "StageFailed" | "Moving" | "Waiting",
  message: string,
): Note => ({
  status: "False",
  reason,
  message,
});

/** The moves that an agent has been told. */
export const movesOf = ({ stage: staged, target, plannedStop }: Desired): Moves => ({
  stage: staged,
  target,
  plannedStop,
});

/** What is wanted of the agent. Where there is nothing to go to, how its engine runs stays as it was told. */
function wishFor({ o, desired, goal }: Scene, moves: Moves): Wish {
  const wish = wishOf(o, moves);
  if (goal.ok) return wish;
  const { engine, image, gpuProduct, gpuCount, models, withheld, args } = desired;
  const { withheld: _, ...rest } = wish;
  const told = { engine, image, gpuProduct, gpuCount, models, args, ...(withheld && { withheld }) };
  return { ...rest, ...told };
}

/** Writes the annotation if it does not say this yet, else does `then`. */
export function order(
  scene: Scene,
  moves: Moves,
  reason: string,
  then: readonly Action[] = [],
): readonly Action[] {
  const { o, pod, desired } = scene;
  const wish = wishFor(scene, moves);
  if (asksFor(desired, wish)) return then;
  return [
    {
      type: "annotate",
      desired: revise(wish, revisionOf(o, pod)),
      quiet: isQuiet(scene, moves),
      reason: reason || "the spec changed what the agent applies live",
    },
  ];
}
