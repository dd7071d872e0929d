import type { ChangeStep } from "../../protocol/config/change.ts";
import { type Aim, noteOf } from "./aim.ts";
import { asksFor, type Moves, revise, wishOf } from "./desired.ts";
import { type PodFacts, pullFails, runs } from "./facts.ts";
import { rotateKeyAnnotation } from "./identity-secret.ts";
import { identityInputsHash } from "./inputs.ts";
import type { NodeObservation } from "./observation.ts";
import { nextPlace } from "./places.ts";
import type { Action, Note, Notes, Plan } from "./plan.ts";
import { agentFails, echoed, isIdle, patienceMs, revisionOf, stopPod } from "./plan-stop.ts";
import { type Fetched, fetchImage } from "./prefetch/plan.ts";
import { isEdited } from "./resize.ts";
import { sameImage, type Scene, sceneOf } from "./scene.ts";
import { type Decision, failedNote, movesOf, moveNote, movingTo, order, settle } from "./settle.ts";

/** When to look again whether it is this node's turn, if nobody who had it has called. */
const turnMs = 30_000;
/** When to look again whether the pool can do without this node. */
const roomMs = 2_000;

/** Plans for a node whose pod is there and has not ended. */
export function planPod(o: NodeObservation, pod: PodFacts, aim: Aim): Plan {
  const blocked: Notes = aim.ok ? {} : { ConfigApplied: noteOf(aim) };
  if (!pod.desired.ok) {
    const target = aim.ok ? aim.digest : null;
    const wish = wishOf(o, { stage: null, target, plannedStop: null });
    const reason = `write the agent's orders again: ${pod.desired.problem}`;
    const desired = revise(wish, revisionOf(o, pod));
    return { target: aim.digest, actions: [{ type: "annotate", desired, reason }], notes: blocked };
  }
  const scene = sceneOf(o, pod, pod.desired.desired, aim);
  const { actions, note, awaitsImage = false } = decide(scene);
  const identity = refreshIdentity(o, pod);
  const resize = resizing(scene, actions);
  return {
    target: aim.digest,
    actions: [...identity, ...actions, ...resize],
    notes: note ? { ConfigApplied: note, ...blocked } : blocked,
    awaitsImage,
  };
}

/** A new size waits for nothing and holds up nothing: it comes when nothing else is written. */
function resizing({ steps }: Scene, others: readonly Action[]): readonly Action[] {
  const step = steps.find(({ action }) => action === "resize");
  const busy = others.some(({ type }) => type !== "ask-agent" && type !== "wait");
  return step && !busy ? [{ type: "resize", reason: step.reason }] : [];
}

function decide(scene: Scene): Decision {
  const { o, pod, desired, steps } = scene;
  const first = steps.find(({ action }) => action !== "live" && action !== "load-models");
  const moving = isMoving(scene);
  const onlyPod = steps.find(({ action }) => action === "recreate");
  const patched = first?.action === "resize" || first?.action.startsWith("patch");
  if (isIdle(pod) && (patched || onlyPod || moving)) {
    const reason = onlyPod?.reason ?? first?.reason ?? `config ${scene.goal.digest}`;
    const remove: Action = {
      type: "delete-pod",
      uid: pod.uid,
      finished: false,
      reason: `${reason}; nothing runs in this pod yet`,
    };
    return { actions: [remove], note: moveNote("Moving", reason) };
  }
  if (onlyPod) {
    if (!mayDisturb(scene)) return awaitTurn(scene, onlyPod);
    if (desired.plannedStop !== "recreate" && isNeeded(scene)) return awaitRoom(scene, onlyPod.reason);
    const lacking = desired.plannedStop === "recreate" ? undefined : lackingImage(scene);
    if (lacking) return lacking;
    return {
      actions: stopPod(o, pod, "recreate", onlyPod.reason),
      note: moveNote("Moving", `the pod is replaced: ${onlyPod.reason}`),
    };
  }
  const elsewhere = otherPlace(scene);
  if (elsewhere) return elsewhere;
  const newAgent = steps.find(({ action }) => action === "patch-agent");
  // Nothing else can be done to a node without its agent.
  if (newAgent && isDown(pod)) return swapImage(scene, "agent");
  if (moving) return stage(scene);
  const newRuntime = steps.find(({ action }) => action === "patch-runtime");
  if (newRuntime) {
    const begun = desired.plannedStop === "runtime-image";
    return !begun && isNeeded(scene) ? awaitRoom(scene, newRuntime.reason) : swapImage(scene, "runtime");
  }
  if (desired.plannedStop === "runtime-image" && !runtimeMoved(scene)) return awaitRuntime(scene);
  if (newAgent) {
    if (!pod.agent.started) return awaitStartup(scene, newAgent);
    if (!mayDisturb(scene)) return awaitTurn(scene, newAgent);
    const begun = desired.plannedStop === "agent-image";
    return !begun && isNeeded(scene) ? awaitRoom(scene, newAgent.reason) : swapImage(scene, "agent");
  }
  if (desired.plannedStop === "agent-image" && !agentMoved(scene)) {
    const reason = "is the new agent up?";
    return { actions: order(scene, movesOf(desired), "", [{ type: "ask-agent", reason }]) };
  }
  return settle(scene, scene.goal.ok ? scene.goal.digest : desired.target);
}

function isMoving({ desired, goal }: Scene): boolean {
  return goal.ok && desired.target !== goal.digest;
}

/** The new config is fetched, verified and downloaded while the old one serves; only then is the agent told to move. */
function stage(scene: Scene): Decision {
  const { o, pod, desired, goal, steps, runtimeImage } = scene;
  if (!goal.ok) return { actions: [] };
  const { digest } = goal;
  // One message for all of it: each new one is a write to the API server.
  const staging = moveNote(
    "Staging",
    `config ${digest} is being staged while ${desired.target ?? "none"} serves`,
  );
  const change = steps.find(({ action }) => action === "patch-runtime");
  // Weights and image come side by side.
  const image: Fetched = change
    ? fetchImage(o, pod, "runtime", goal.places)
    : { ok: true, image: runtimeImage };
  const fetching = image.ok ? [] : image.actions;
  const begin: Moves = { stage: digest, target: desired.target, plannedStop: null };
  if (!asksFor(desired, wishOf(o, begin))) {
    return {
      actions: [...order(scene, begin, `stage config ${digest}`), ...fetching],
      note: staging,
    };
  }
  const { status } = o.agent;
  const ask: Action = { type: "ask-agent", reason: `has the agent staged config ${digest}?` };
  const waiting = (note: Note): Decision => ({
    actions: [...fetching, ask],
    note: image.ok || image.note.reason === "Staging" ? note : image.note,
  });
  if (!status || !echoed(o, desired)) return waiting(staging);
  const { applied, staged } = status.report.config;
  if (staged !== digest && applied !== digest) {
    const error = status.config_error;
    if (error?.digest !== digest) return waiting(staging);
    const message = `the agent cannot stage config ${digest} (${error.code}): ${error.message}`;
    return { actions: [...fetching, ask], note: moveNote("StageFailed", message) };
  }
  if (!image.ok) return { actions: fetching, note: image.note };
  if (isInterrupted(scene) && isNeeded(scene)) {
    const reason = `config ${digest} is staged, and too few other nodes of the pool serve to move to it now`;
    return { actions: [{ type: "wait", ms: roomMs, reason }], note: moveNote("Staging", reason) };
  }
  const rehearsal: Action[] = change
    ? [{ type: "rehearse-image", container: "runtime", image: image.image, reason: change.reason }]
    : [];
  const moves: Moves = { stage: null, target: digest, plannedStop: change ? "runtime-image" : null };
  return {
    actions: [
      ...rehearsal,
      {
        type: "annotate",
        desired: revise(wishOf(o, moves), revisionOf(o, pod)),
        reason: `config ${digest} is staged: ${change?.reason ?? "the agent moves to it by itself"}`,
      },
    ],
    note: movingTo(digest),
  };
}

/** Tells the agent of the stop, waits for its echo, then patches the image alone; the kubelet drains by `preStop`. */
function swapImage(scene: Scene, container: "agent" | "runtime"): Decision {
  const { o, pod, desired } = scene;
  const fetched = fetchFor(scene, container);
  const plannedStop = container === "agent" ? "agent-image" : "runtime-image";
  // What the agent was told of goes on even if the image cannot be had any more: the way out is to turn back from there.
  const begun = desired.plannedStop === plannedStop;
  if (!fetched.ok && (!begun || fetched.note.reason === "Staging")) return fetched;
  const image = fetched.ok ? fetched.image : imageOf(scene, container);
  const reason = `${container} image → ${image}`;
  const note = container === "runtime" ? { note: movingTo(desired.target) } : {};
  const moves: Moves = { stage: null, target: desired.target, plannedStop };
  if (!asksFor(desired, wishOf(o, moves))) {
    const rehearse: Action = { type: "rehearse-image", container, image, reason };
    return { actions: [rehearse, ...order(scene, moves, `plan the stop: ${reason}`)], ...note };
  }
  // Even where no runtime runs: one that begins before its agent has read the target begins with the old config.
  const untold = container === "runtime" ? pullFails(pod.runtime) && agentFails(pod) : isDown(pod);
  if (echoed(o, desired) || untold) {
    return { actions: [{ type: "patch-image", container, image, reason }], ...note };
  }
  return {
    actions: [{ type: "ask-agent", reason: `has the agent read revision ${desired.revision}?` }],
    ...note,
  };
}

const imageOf = ({ agentImage, runtimeImage }: Scene, container: "agent" | "runtime"): string =>
  container === "agent" ? agentImage : runtimeImage;

function fetchFor(scene: Scene, container: "agent" | "runtime"): Fetched {
  const { o, pod, goal } = scene;
  if (container === "agent" && isDown(pod)) return { ok: true, image: scene.agentImage };
  const places = container === "runtime" && goal.ok ? goal.places : ([imageOf(scene, container)] as const);
  return fetchImage(o, pod, container, places);
}

/** What a new pod runs and the host does not have: it most likely comes to the same host. */
function lackingImage(scene: Scene): Decision | undefined {
  const { pod, agentImage, runtimeImage } = scene;
  const changed = [
    ...(sameImage(pod.runtime.image, runtimeImage) ? [] : ["runtime" as const]),
    ...(sameImage(pod.agent.image, agentImage) ? [] : ["agent" as const]),
  ];
  for (const container of changed) {
    const fetched = fetchFor(scene, container);
    if (!fetched.ok) return fetched;
  }
  return undefined;
}

/** The image does not come from where the pod has it: it is tried from the next place. Nothing runs that could be lost. */
function otherPlace({ pod, goal }: Scene): Decision | undefined {
  if (!goal.ok || pod.runtime.reason !== "ImagePullBackOff") return undefined;
  if (!sameImage(pod.runtime.image, goal.selection.runtime.image)) return undefined;
  const image = nextPlace(pod.runtime.image, goal.places);
  if (image === undefined) return undefined;
  const reason = `the image does not come from ${pod.runtime.image} (${pod.runtime.message.slice(0, 200)})`;
  return {
    actions: [{ type: "patch-image", container: "runtime", image, reason }],
    note: movingTo(goal.digest),
  };
}

/** The agent is not there to be told or to be drained, and the kubelet starts it from the newest spec. */
const isDown = ({ agent }: PodFacts): boolean => agent.state !== "running";

/**
 * The kubelet ignores a new image of a sidecar that runs and whose startup has not passed [seen]: it is given a minute to
 * start or to end, then its pod goes.
 */
function awaitStartup({ o, pod }: Scene, { reason }: ChangeStep): Decision {
  const left = (pod.agent.since ?? o.now) + patienceMs - o.now;
  if (left > 0)
    return { actions: [{ type: "wait", ms: left, reason: `${reason}: the present agent starts` }] };
  const why = `${reason}; the present agent runs and does not start, and only a new pod changes that`;
  return { actions: [{ type: "delete-pod", uid: pod.uid, finished: false, reason: why }] };
}

function awaitRuntime(scene: Scene): Decision {
  const { o, pod, desired } = scene;
  const failed = o.agent.status?.config_error;
  if (missedStop(scene)) {
    const why = `the new runtime image runs, and the agent serves under the config before ${desired.target}`;
    return {
      actions: [{ type: "delete-pod", uid: pod.uid, finished: false, reason: why }],
      note: movingTo(desired.target),
    };
  }
  return {
    actions: order(scene, movesOf(desired), "", [
      { type: "ask-agent", reason: "is the new config applied?" },
    ]),
    note: failed ? failedNote(desired.target, failed) : movingTo(desired.target),
  };
}

/**
 * The agent took the stop for none and awaits it still, long after the new image began: agents of older images did
 * where the container began without a drain. It knows of a planned stop; a new pod begins with the target.
 */
function missedStop({ o, pod, desired, runtimeImage }: Scene): boolean {
  const { status } = o.agent;
  const { since } = pod.runtime;
  if (!status || since === undefined || status.time - since <= patienceMs) return false;
  const serves = pod.ready && status.drain.state === "serving" && status.config_error === null;
  const { applied } = status.report.config;
  return serves && echoed(o, desired) && applied !== desired.target && runs(pod, "runtime", runtimeImage);
}

/** The kubelet runs the new image, and the agent's signed status says that the config is applied. */
function runtimeMoved({ o, pod, desired, runtimeImage }: Scene): boolean {
  const applied = o.agent.status?.report.config.applied;
  if (!echoed(o, desired) || applied !== desired.target) return false;
  return runs(pod, "runtime", runtimeImage);
}

function agentMoved({ pod, agentImage }: Scene): boolean {
  return pod.agent.started && runs(pod, "agent", agentImage);
}

/**
 * A config moves when the pool says so, and a node's own spec when its owner changes it. What all nodes share (agent
 * image, endpoints) has no such conductor, so they take turns, within the network's maintenance windows; a node that does
 * not serve loses nothing.
 */
function mayDisturb({ o, pod, desired, steps }: Scene): boolean {
  const begun = desired.plannedStop === "agent-image" || desired.plannedStop === "recreate";
  if (begun || !pod.ready || !o.config) return true;
  if (o.turn && o.config.mayRestart) return true;
  return steps.some(({ action }) => action === "recreate") && isEdited(o.node, pod, o.config);
}

/** It serves, and its pool cannot do without it now. */
const isNeeded = ({ o, pod }: Scene): boolean => pod.ready && o.isNeeded?.() === true;

/** The move that is planned takes the engine out of service. */
const isInterrupted = ({ steps }: Scene): boolean =>
  steps.some(({ action }) => action === "patch-runtime" || action === "restart-engine");

/** Serves on until others of its pool are back. */
function awaitRoom(scene: Scene, reason: string): Decision {
  const { actions, note } = settle(scene, scene.desired.target);
  const why = `${reason}: too few other nodes of the pool serve`;
  const wait: Action = { type: "wait", ms: roomMs, reason: why };
  return { actions: [...actions, wait], ...(note ? { note } : {}) };
}

function awaitTurn(scene: Scene, step: ChangeStep): Decision {
  // A move to another config waits too: it would take an image patch that the new pod makes needless.
  const { actions, note } = settle(scene, scene.desired.target);
  const whom =
    scene.o.config?.mayRestart === false ? "the maintenance window is closed" : "another node goes first";
  const wait: Action = { type: "wait", ms: turnMs, reason: `${step.reason}: ${whom}` };
  return { actions: [...actions, wait], ...(note ? { note } : {}) };
}

function refreshIdentity({ config, node }: NodeObservation, pod: PodFacts): readonly Action[] {
  if (!config) return [];
  const wish = node.metadata.annotations?.[rotateKeyAnnotation];
  const hash = identityInputsHash(config, wish);
  if (pod.identityHash === hash) return [];
  const reason = `the network's root or account changed, or annotation ${rotateKeyAnnotation}`;
  return [{ type: "refresh-identity", hash, reason }];
}
