/** The status that the kubelet writes, from what is seen; pure. */
import { imageID } from "./images.ts";
import { isInitDone, isInitialized, type ContainerView } from "./pod-plan.ts";
import {
  type Container,
  type ContainerState,
  type ContainerStatus,
  isSidecar,
  type Pod,
  type PodCondition,
  type PodPhase,
  type PodStatus,
  type TerminatedState,
  wireTime,
} from "./types.ts";

/** What is seen of one container, with what only the status tells. */
export interface ContainerReport extends ContainerView {
  readonly containerID?: string;
  /** Wall time at which the present run began, milliseconds. */
  readonly startedAt?: number;
  /** Reference of the present or last run. */
  readonly image?: string;
  readonly ready: boolean;
  readonly restartCount: number;
  /** The last run's end. */
  readonly terminated?: TerminatedState;
  /** Why it does not run, when it is to. */
  readonly waiting?: { readonly reason: string; readonly message?: string };
}

/** A pod that the kubelet gave up. */
export interface PodFailure {
  readonly reason: string;
  readonly message: string;
}

/** What a status is made of. */
export interface StatusInput {
  /** As it was last synced: its generation is the one observed. */
  readonly pod: Pod;
  readonly init: readonly ContainerReport[];
  readonly regular: readonly ContainerReport[];
  readonly podIP: string | undefined;
  readonly hostIP: string;
  /** Wall times, milliseconds. */
  readonly startTime: number;
  readonly now: number;
  readonly failure: PodFailure | undefined;
  /** Nothing of the pod runs any more, or ever will. */
  readonly over: boolean;
  /** Last written, for the times of conditions and the conditions of others. */
  readonly previous: PodStatus | undefined;
}

/** Builds the status. The same input gives the same status, so that an equal one need not be written. */
export function podStatus(input: StatusInput): PodStatus {
  const { pod, init, regular, podIP, hostIP, failure } = input;
  const phase = phaseOf(input);
  const generation = pod.metadata.generation;
  return {
    phase,
    reason: failure?.reason ?? null,
    message: failure?.message ?? null,
    ...(generation === undefined ? {} : { observedGeneration: generation }),
    conditions: conditionsOf(input, phase),
    hostIP,
    hostIPs: [{ ip: hostIP }],
    ...(podIP === undefined ? {} : { podIP, podIPs: [{ ip: podIP }] }),
    startTime: wireTime(input.startTime),
    ...(failure && regular.every((report) => !report.created)
      ? {}
      : {
          initContainerStatuses: init.map((report) => containerStatus(report, input)),
          containerStatuses: regular.map((report) => containerStatus(report, input)),
        }),
  };
}

function phaseOf({ init, regular, failure, over }: StatusInput): PodPhase {
  if (failure) return "Failed";
  if (over) {
    const well = regular.every((report) => report.exitCode === 0);
    return well ? "Succeeded" : "Failed";
  }
  if (!isInitialized(init, regular)) return "Pending";
  return regular.some((report) => !report.running && report.terminated === undefined) ? "Pending" : "Running";
}

function conditionsOf(input: StatusInput, phase: PodPhase): PodCondition[] {
  const { pod, init, regular, podIP, previous, over, failure } = input;
  const names = (reports: readonly ContainerReport[]) =>
    `[${reports.map((report) => report.container.name).join(" ")}]`;
  const pastInit = regular.some((report) => report.created);
  const incomplete = pastInit ? [] : init.filter((report) => !isInitDone(report));
  const unready = [...init.filter((report) => isSidecar(report.container)), ...regular].filter(
    (report) => !report.ready,
  );
  const done = over || failure !== undefined;
  const completed = phase === "Succeeded" ? "PodCompleted" : done ? "PodFailed" : undefined;
  const containersReady = !done && unready.length === 0 && incomplete.length === 0;
  const gate = pod.spec.readinessGates?.find(
    ({ conditionType }) =>
      pod.status?.conditions?.find((entry) => entry.type === conditionType)?.status !== "True",
  );
  const notReady = {
    reason: completed ?? "ContainersNotReady",
    message: done ? null : `containers with unready status: ${names(unready)}`,
  };
  const wanted: PodCondition[] = [
    condition("PodReadyToStartContainers", podIP !== undefined && !done),
    condition("Initialized", incomplete.length === 0 && !failure, {
      reason: completed ?? "ContainersNotInitialized",
      message: done ? null : `containers with incomplete status: ${names(incomplete)}`,
    }),
    condition(
      "Ready",
      containersReady && !gate,
      containersReady && gate
        ? {
            reason: "ReadinessGatesNotReady",
            message: `the status of pod readiness gate "${gate.conditionType}" is not "True", but False`,
          }
        : notReady,
    ),
    condition("ContainersReady", containersReady, notReady),
    condition("PodScheduled", true),
  ];
  const generation = pod.metadata.generation;
  return wanted.map((entry) => {
    const before = previous?.conditions?.find((old) => old.type === entry.type);
    const same = before?.status === entry.status && before.lastTransitionTime !== undefined;
    return {
      ...entry,
      lastProbeTime: null,
      lastTransitionTime: (same ? before.lastTransitionTime : undefined) ?? wireTime(input.now),
      ...(generation === undefined ? {} : { observedGeneration: generation }),
    };
  });
}

function condition(
  type: string,
  holds: boolean,
  why: { reason: string; message: string | null } = { reason: "", message: null },
): PodCondition {
  // Explicit nulls clear what an earlier patch wrote.
  if (holds) return { type, status: "True", reason: null, message: null };
  return { type, status: "False", reason: why.reason || null, message: why.message };
}

function containerStatus(report: ContainerReport, input: StatusInput): ContainerStatus {
  const { container, terminated, running } = report;
  const started = sidecarOrRegular(container, input) ? running?.started === true : false;
  const image = report.image ?? container.image;
  return {
    name: container.name,
    ...stateOf(report, input),
    ready: sidecarOrRegular(container, input) ? report.ready : !running && report.exitCode === 0,
    started,
    restartCount: report.restartCount,
    image,
    imageID: report.containerID || terminated ? imageID(image) : "",
    ...(report.containerID ? { containerID: report.containerID } : {}),
    ...(container.resources?.requests ? { allocatedResources: container.resources.requests } : {}),
    ...(container.resources ? { resources: container.resources } : {}),
  };
}

function sidecarOrRegular(container: Container, { pod }: StatusInput): boolean {
  return isSidecar(container) || !pod.spec.initContainers?.includes(container);
}

function stateOf(report: ContainerReport, input: StatusInput): Pick<ContainerStatus, "state" | "lastState"> {
  const last: ContainerState = report.terminated ? { terminated: report.terminated } : {};
  if (report.running && report.startedAt !== undefined) {
    return { state: { running: { startedAt: wireTime(report.startedAt) } }, lastState: last };
  }
  // The kubelet takes an init container that ended well for done, a sidecar too: nothing is said of its next start.
  const done = input.pod.spec.initContainers?.includes(report.container) && report.terminated?.exitCode === 0;
  if (report.waiting && !input.over && !done) return { state: { waiting: report.waiting }, lastState: last };
  if (report.terminated) return { state: { terminated: report.terminated }, lastState: {} };
  const reason = input.pod.spec.initContainers?.length ? "PodInitializing" : "ContainerCreating";
  return { state: { waiting: { reason } }, lastState: {} };
}
