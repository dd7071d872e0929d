import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { controllerOf } from "../../kube/object.ts";
import type { Pod } from "../../kube/resources.ts";
import { desiredAnnotation } from "../../protocol/desired.ts";
import { inputsHashAnnotation } from "../names.ts";
import { type ReadDesired, readDesired } from "./desired.ts";
import {
  agentContainer,
  identityHashAnnotation,
  resourcesAnnotation,
  runtimeContainer,
} from "./pod-parts.ts";

/** One container, as far as it matters here. */
export interface ContainerFacts {
  /** Image that the spec asks for; a mirror or webhook may have moved its place. */
  readonly image: string;
  readonly state: "none" | "waiting" | "running" | "terminated";
  /** The kubelet's word for waiting or terminated: ErrImagePull, CrashLoopBackOff, OOMKilled, … */
  readonly reason: string;
  readonly message: string;
  /** Passed its startup probe since its last start. */
  readonly started: boolean;
  /** When the present run began, ms; absent while it does not run. */
  readonly since?: number;
  /** Ran in this pod at some time. */
  readonly hasRun: boolean;
  readonly restarts: number;
  /** What the kubelet runs, as it names it; empty until it runs. */
  readonly running: readonly string[];
}

/** A node's pod, as far as it matters here. */
export interface PodFacts {
  readonly uid: string;
  readonly name: string;
  /** Controlled by this very ResultityNode. */
  readonly ours: boolean;
  readonly ip: string | undefined;
  readonly host: string | undefined;
  readonly finished:
    | {
        readonly reason: string;
        readonly message: string;
        /** It was made to end: evicted, preempted, deleted. */
        readonly disrupted: boolean;
      }
    | undefined;
  readonly terminating:
    | {
        readonly deadline: number;
        /** When it was asked to end, ms. */
        readonly began: number;
        readonly disruption: string | undefined;
        /** When the cluster made it to end, ms: later than it began where it was ending already. */
        readonly disrupted: number | undefined;
        /** The cluster ends it for a taint of its host: that is how it gives up a lost one. */
        readonly tainted: boolean;
        /** The scheduler ends it in favour of a pod of higher priority. */
        readonly preempted: boolean;
      }
    | undefined;
  readonly ready: boolean;
  readonly scheduled: { readonly ok: boolean; readonly reason: string; readonly message: string };
  /** The kubelet has seen the newest spec, where it says so (1.34 on). */
  readonly observedSpec: boolean;
  readonly desired: ReadDesired;
  readonly inputsHash: string | undefined;
  readonly identityHash: string | undefined;
  /** `spec.runtime.resources` that it was given, as JSON; undefined for a pod that does not say. */
  readonly resources: string | undefined;
  /** Why it has not the size that its spec asks for; undefined = it has, or is about to. */
  readonly resize:
    | { readonly state: "deferred" | "infeasible" | "failed"; readonly message: string }
    | undefined;
  readonly agent: ContainerFacts;
  readonly runtime: ContainerFacts;
  /** Wall times, ms: of its creation, since when it is (not) ready, since when it is (not) scheduled. */
  readonly since: { readonly created: number; readonly ready: number; readonly scheduled: number };
  /** Devices of the runtime that their plugin or driver calls unhealthy (KEP-4680: Kubernetes 1.36 on). */
  readonly deviceFaults: readonly DeviceFault[];
  /** Containers that somebody has put into the running pod; the API server never takes one out again. */
  readonly ephemeral: readonly {
    readonly name: string;
    readonly image: string;
    readonly volumes: readonly string[];
  }[];
}

/** A device that is not well. */
export interface DeviceFault {
  /** As the pod asks for it: `nvidia.com/gpu`, or `claim:<claim>/<request>`. */
  readonly resource: string;
  /** As its plugin names it: the UUID of a GPU. */
  readonly id: string;
  readonly message: string;
}

/** Reasons of a waiting container that no patience mends. */
const pullFailures: ReadonlySet<string> = new Set([
  "ErrImagePull",
  "ImagePullBackOff",
  "InvalidImageName",
  "ErrImageNeverPull",
  "RegistryUnavailable",
]);
const startFailures: ReadonlySet<string> = new Set([
  "CrashLoopBackOff",
  "CreateContainerError",
  "CreateContainerConfigError",
  "RunContainerError",
]);

/** True while the container waits because its image does not come. */
export const pullFails = ({ state, reason }: ContainerFacts): boolean =>
  state === "waiting" && pullFailures.has(reason);

/** True while the container waits because it cannot start or does not stay up. */
export const startFails = ({ state, reason }: ContainerFacts): boolean =>
  state === "waiting" && startFailures.has(reason);

/**
 * True if the kubelet runs `image`, told by the digest: mirrors change the place, never the digest. Some container
 * runtimes name what runs by the digest of the image's config, which says nothing here; then it has to do that the pod
 * is ready and the kubelet has seen the newest spec.
 */
export function runs(pod: PodFacts, container: "agent" | "runtime", image: string): boolean {
  const { state, running } = pod[container];
  if (state !== "running") return false;
  const digest = digestOfImage(image);
  if (running.some((name) => name.includes(digest))) return true;
  return !running.some((name) => name.includes("@sha256:")) && pod.ready && pod.observedSpec;
}

/** The part of an image reference that says what it is: the digest, else the whole reference. */
export function digestOfImage(image: string): string {
  const at = image.lastIndexOf("@");
  return at < 0 ? image : image.slice(at + 1);
}

/** Reads the facts of a pod. */
export function podFacts(pod: Pod, node: ResultityNode): PodFacts {
  const { metadata, spec, status } = pod;
  const conditions = status?.conditions ?? [];
  const condition = (type: string) => conditions.find((candidate) => candidate.type === type);
  const scheduled = condition("PodScheduled");
  const disruption = condition("DisruptionTarget");
  const { annotations } = metadata;
  const phase = status?.phase;
  return {
    uid: metadata.uid,
    name: metadata.name,
    ours: controllerOf(pod)?.uid === node.metadata.uid,
    ip: status?.podIP || undefined,
    host: spec?.nodeName || undefined,
    finished:
      phase === "Failed" || phase === "Succeeded"
        ? {
            reason: status?.reason || phase,
            message: status?.message ?? "",
            disrupted: disruption?.status === "True" || metadata.deletionTimestamp !== undefined,
          }
        : undefined,
    terminating:
      metadata.deletionTimestamp === undefined
        ? undefined
        : {
            deadline: Date.parse(metadata.deletionTimestamp),
            began: Date.parse(metadata.deletionTimestamp) - (metadata.deletionGracePeriodSeconds ?? 0) * 1000,
            disruption:
              disruption?.status === "True" ? (disruption.message ?? disruption.reason ?? "") : undefined,
            disrupted: disruption?.status === "True" ? timeOf(disruption.lastTransitionTime) : undefined,
            tainted: disruption?.status === "True" && disruption.reason === "DeletionByTaintManager",
            preempted: disruption?.status === "True" && disruption.reason === "PreemptionByScheduler",
          },
    ready: condition("Ready")?.status === "True",
    scheduled: {
      ok: scheduled?.status === "True" || Boolean(spec?.nodeName),
      reason: scheduled?.reason ?? "",
      message: scheduled?.message ?? "",
    },
    observedSpec: (status?.observedGeneration ?? 0) >= (metadata.generation ?? Number.POSITIVE_INFINITY),
    desired: readDesired(annotations?.[desiredAnnotation]),
    inputsHash: annotations?.[inputsHashAnnotation],
    identityHash: annotations?.[identityHashAnnotation],
    resources: annotations?.[resourcesAnnotation],
    resize: readResize(pod),
    agent: containerFacts(
      spec?.initContainers?.find(({ name }) => name === agentContainer)?.image,
      status?.initContainerStatuses?.find(({ name }) => name === agentContainer),
    ),
    runtime: containerFacts(
      spec?.containers.find(({ name }) => name === runtimeContainer)?.image,
      status?.containerStatuses?.find(({ name }) => name === runtimeContainer),
    ),
    since: {
      created: timeOf(metadata.creationTimestamp),
      ready: timeOf(condition("Ready")?.lastTransitionTime ?? metadata.creationTimestamp),
      scheduled: timeOf(scheduled?.lastTransitionTime ?? metadata.creationTimestamp),
    },
    deviceFaults: deviceFaultsOf(status?.containerStatuses?.find(({ name }) => name === runtimeContainer)),
    ephemeral: (spec?.ephemeralContainers ?? []).map(({ name, image, volumeMounts }) => ({
      name,
      image: image ?? "",
      volumes: (volumeMounts ?? []).map((mount) => mount.name),
    })),
  };
}

const timeOf = (text: string | undefined): number => (text === undefined ? 0 : Date.parse(text));

/** `Unknown` is no fault: a plugin that is being updated has no word of its devices for a while. */
function deviceFaultsOf(status: ContainerStatus | undefined): readonly DeviceFault[] {
  return (status?.allocatedResourcesStatus ?? []).flatMap(({ name, resources }) =>
    (resources ?? [])
      .filter(({ health }) => health === "Unhealthy")
      .map((device) => ({
        resource: name,
        id: device.resourceID,
        // Newer than the generated types (ResourceHealthStatusMessage).
        message: "message" in device && typeof device.message === "string" ? device.message : "",
      })),
  );
}

/** What the kubelet says of a new size (1.33 on) that it has not given; what it said of the size before does not count. */
function readResize({ metadata, status }: Pod): PodFacts["resize"] {
  const newest = metadata.generation ?? 0;
  for (const { type, status: held, reason, message = "", observedGeneration } of status?.conditions ?? []) {
    if (held !== "True" || (observedGeneration ?? newest) < newest) continue;
    if (type === "PodResizePending")
      return { state: reason === "Infeasible" ? "infeasible" : "deferred", message };
    if (type === "PodResizeInProgress" && reason === "Error") return { state: "failed", message };
  }
  return undefined;
}

type ContainerStatus = NonNullable<NonNullable<Pod["status"]>["containerStatuses"]>[number];

/** Reads the facts of one container. @param image what the spec asks for. */
export function containerFacts(
  image: string | undefined,
  status: ContainerStatus | undefined,
): ContainerFacts {
  const { waiting, running, terminated } = status?.state ?? {};
  return {
    image: image ?? "",
    state: running ? "running" : terminated ? "terminated" : waiting ? "waiting" : "none",
    reason: waiting?.reason ?? terminated?.reason ?? "",
    message: waiting?.message ?? terminated?.message ?? "",
    started: status?.started ?? false,
    ...(running?.startedAt === undefined ? {} : { since: Date.parse(running.startedAt) }),
    hasRun:
      Boolean(running ?? terminated ?? status?.lastState?.terminated) || (status?.restartCount ?? 0) > 0,
    restarts: status?.restartCount ?? 0,
    running: [status?.imageID, status?.image].filter((name): name is string => Boolean(name)),
  };
}
