/**
 * What is to be done about the containers of a pod, from what is seen: computePodActions of the kubelet
 * (pkg/kubelet/kuberuntime/kuberuntime_manager.go) and its rules for native sidecars (KEP-753), as a pure function.
 */
import { isSidecar, type Container, type Pod, type RestartPolicy } from "./types.ts";

/** What is seen of one container. */
export interface ContainerView {
  readonly container: Container;
  readonly running?: {
    /** Reference that it was started from. */
    readonly image: string;
    readonly started: boolean;
    readonly startupFailed: boolean;
    readonly livenessFailed: boolean;
  };
  /** It was started since the pod is on the host (a reboot begins anew). */
  readonly created: boolean;
  /** Exit code of its last run, also of one before a reboot. */
  readonly exitCode?: number;
}

/** Why a running container is ended. */
export type KillReason = "changed" | "startup" | "liveness";

/** What to do: ends first, one after the other in any order; then starts, in this order. */
export interface PodActions {
  readonly kill: readonly { readonly name: string; readonly reason: KillReason }[];
  readonly start: readonly string[];
  /** No regular container runs or will run again: the pod has Succeeded or Failed. */
  readonly finished: boolean;
}

/** All init containers are done, or the pod got past them once. */
export function isInitialized(init: readonly ContainerView[], regular: readonly ContainerView[]): boolean {
  return regular.some((view) => view.created) || init.every(isInitDone);
}

/** A sidecar is done when it has started, another init container when it has ended well. */
export function isInitDone(view: ContainerView): boolean {
  if (isSidecar(view.container)) return view.running?.started === true;
  return view.created && view.running === undefined && view.exitCode === 0;
}

/** Computes the actions for a pod that is meant to run. */
export function planPod(
  spec: Pod["spec"],
  init: readonly ContainerView[],
  regular: readonly ContainerView[],
): PodActions {
  const policy = spec.restartPolicy ?? "Always";
  const kill: { name: string; reason: KillReason }[] = [];
  const start: string[] = [];
  const wanted: string[] = [];
  let alive = 0;
  for (const view of regular) {
    const name = view.container.name;
    if (!view.running) {
      if (view.exitCode === undefined || restarts(policy, view.exitCode)) wanted.push(name);
      continue;
    }
    alive++;
    const reason = reasonToKill(view);
    if (!reason) continue;
    kill.push({ name, reason });
    if (reason === "changed" || policy !== "Never") wanted.push(name);
  }
  if (alive === 0 && wanted.length === 0) return { kill: [], start: [], finished: true };

  const passed = regular.some((view) => view.created);
  const reached = init.findLastIndex((view) => view.created);
  for (const [index, view] of init.entries()) {
    if (!isSidecar(view.container) || (index > reached && !passed)) continue;
    const name = view.container.name;
    if (!view.running) start.push(name);
    else {
      const reason = reasonToKill(view);
      if (reason) {
        kill.push({ name, reason });
        start.push(name);
      }
    }
  }
  if (passed) return { kill, start: [...start, ...wanted], finished: false };

  const current = init[reached];
  if (current && !isSidecar(current.container) && !current.running && current.exitCode !== 0) {
    if (policy === "Never") return { kill: [], start: [], finished: true };
    return { kill, start: [...start, current.container.name], finished: false };
  }
  if (current && !isInitDone(current)) return { kill, start, finished: false };
  const next = init[reached + 1];
  if (next) return { kill, start: [...start, next.container.name], finished: false };
  return { kill, start: [...start, ...wanted], finished: false };
}

function restarts(policy: RestartPolicy, exitCode: number): boolean {
  return policy === "Always" || (policy === "OnFailure" && exitCode !== 0);
}

/** A sidecar's new image is not looked at before its startup has passed; a regular container's is. */
function reasonToKill({ container, running }: ContainerView): KillReason | undefined {
  if (!running) return undefined;
  if (running.startupFailed) return "startup";
  if (isSidecar(container) && !running.started) return undefined;
  if (running.image !== container.image) return "changed";
  return running.livenessFailed ? "liveness" : undefined;
}
