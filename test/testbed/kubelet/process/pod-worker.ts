import { sleep, type Timer } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import { isStatus } from "./api.ts";
import type { PodVolumeStore } from "./backend.ts";
import { killRun } from "./container-kill.ts";
import type { Run } from "./container-record.ts";
import type { HostFacts } from "./fields.ts";
import { gpuResource } from "./gpus.ts";
import type { Host } from "./host.ts";
import { containersOf, graceSeconds, PodContainers } from "./pod-containers.ts";
import { endPod } from "./pod-end.ts";
import { type KillReason, planPod } from "./pod-plan.ts";
import { PodSources } from "./pod-sources.ts";
import { type PodFailure, podStatus } from "./status.ts";
import { StatusWriter } from "./status-writer.ts";
import { type Pod, podName, type PodStatus } from "./types.ts";
import type { VolumeFailure } from "./volumes.ts";

/** Pauses before something that failed for a reason outside the pod is tried again: doubling from the first. */
const retryMs = 500;
const longestRetryMs = 8_000;

const killMessages: Readonly<Record<KillReason, string>> = {
  changed: "definition changed, will be restarted",
  startup: "failed startup probe, will be restarted",
  liveness: "failed liveness probe, will be restarted",
};

/** Where a pod is in its life on the host; it only moves on. */
type Stage = "new" | "running" | "terminating" | "over";

/**
 * One pod on the host. Events only say that something changed; one loop looks at everything and does what is to be
 * done, never twice at once. While it waits for a hook, a pull or an end, the pod is not synced: that is the
 * kubelet's own behaviour, and what keeps a drain safe from changes in mid-way.
 */
export class PodWorker {
  readonly #host: Host;
  readonly #uid: string;
  readonly #containers: PodContainers;
  readonly #volumes: PodVolumeStore;
  readonly #sources: PodSources;
  readonly #status: StatusWriter;
  readonly #closed = new AbortController();
  readonly #startTime: number;
  readonly #timers = new Map<string, Timer>();
  /** Aborts the sync under way, because the pod is to end now, or sooner. */
  #interrupt = new AbortController();
  #latest: Pod;
  #synced: Pod;
  #stage: Stage = "new";
  #removed = false;
  #failure: PodFailure | undefined;
  #finished = false;
  #podIP: string | undefined;
  #gpus = new Map<string, number[]>();
  #volumesDue = true;
  #mountRetries = 0;
  #previous: PodStatus | undefined;
  #looping: Promise<void> | undefined;
  #due = false;

  constructor(host: Host, pod: Pod) {
    this.#host = host;
    this.#uid = pod.metadata.uid;
    this.#latest = pod;
    this.#synced = pod;
    this.#previous = pod.status;
    this.#startTime = pod.status?.startTime ? Date.parse(pod.status.startTime) : host.clock.now();
    this.#volumes = host.backend.volumes(pod);
    this.#sources = new PodSources(host.api, host.images, host.clock);
    this.#status = new StatusWriter(host, pod, this.#closed.signal);
    this.#containers = new PodContainers(pod, {
      host,
      volumes: this.#volumes,
      sources: this.#sources,
      facts: () => this.#facts(),
      gpus: (name) => this.#gpus.get(name),
      changed: () => {
        this.#publish();
        this.notify();
      },
      later: (name, ms) => this.#later(name, ms),
    });
    if (isTerminal(pod)) this.#stage = "over";
    this.notify();
  }

  /** The pod as the API server has it. */
  get pod(): Pod {
    return this.#latest;
  }

  /** The pod as the API server has it now. */
  update(pod: Pod): void {
    const before = this.#latest;
    this.#latest = pod;
    this.#status.see(pod);
    const sooner = deletionGrace(pod) < deletionGrace(before);
    if (sooner) this.#interrupt.abort();
    if (sooner || sawChange(before, pod)) {
      this.#volumesDue = true;
      this.notify();
    }
  }

  /** The API server has no such pod any more: it was deleted without waiting for this kubelet. */
  remove(): void {
    this.#removed = true;
    this.#interrupt.abort();
    this.notify();
  }

  /** Ends the pod and marks it Failed, as an eviction for want of resources of the host does. */
  evict(message: string): void {
    this.#failure ??= { reason: "Evicted", message };
    this.#interrupt.abort();
    this.notify();
  }

  /** Everything has ended, and the API server knows. */
  get done(): boolean {
    return this.#stage === "over" && this.#looping === undefined && (this.#removed || isEnding(this.#latest));
  }

  /** Containers that run now. */
  running(): { container: string; pid: number; attempt: number }[] {
    return this.#containers.runs().map(({ container: { name }, process }) => ({
      container: name,
      pid: process.pid,
      attempt: this.#containers.attempt(name),
    }));
  }

  /** Says that something changed. */
  notify(): void {
    this.#due = true;
    this.#looping ??= this.#loop().finally(() => {
      this.#looping = undefined;
      if (this.#due && !this.#closed.signal.aborted) this.notify();
    });
  }

  /** SIGKILL to everything, nothing written: the host lost its power. */
  async crash(): Promise<void> {
    this.#closed.abort();
    this.#cancelTimers();
    const kill = (runs: readonly Run[]) => {
      for (const run of runs) run.process.signal("SIGKILL");
      return Promise.all(runs.map((run) => run.ended));
    };
    await kill(this.#containers.runs());
    while (this.#looping) await this.#looping;
    // One that was being started when the first were killed.
    await kill(this.#containers.runs());
    this.#host.gpus.release(this.#uid);
  }

  async #loop(): Promise<void> {
    while (this.#due && !this.#closed.signal.aborted) {
      this.#due = false;
      this.#interrupt = new AbortController();
      try {
        await this.#sync(AbortSignal.any([this.#interrupt.signal, this.#closed.signal]));
      } catch (thrown) {
        if (this.#closed.signal.aborted) return;
        const pod = podName(this.#latest);
        this.#host.log.warn({ pod, why: messageOf(thrown) }, "pod sync failed, trying again");
        this.#later("retry", retryMs);
      }
      this.#publish();
    }
  }

  async #sync(signal: AbortSignal): Promise<void> {
    const pod = this.#latest;
    if (this.#stage === "over") return this.#finish(pod);
    if (isEnding(pod) || this.#removed || this.#failure || this.#finished || isTerminal(pod)) {
      return this.#terminate(pod, signal);
    }
    this.#synced = pod;
    if (this.#stage === "new" && !this.#admit(pod)) return;
    this.#publish();
    if (await this.#mount(pod, signal)) await this.#act(pod, signal);
  }

  /** Takes the pod in, unless the host has too few GPUs for it. */
  #admit(pod: Pod): boolean {
    const given = this.#host.gpus.allocate(pod);
    if (!(given instanceof Map)) {
      const message =
        `Pod was rejected: Allocate failed due to requested number of devices unavailable for ${gpuResource}. ` +
        `Requested: ${given.wanted}, Available: ${given.free}, which is unexpected`;
      this.#failure = { reason: "UnexpectedAdmissionError", message };
      this.#host.events.warning(pod, "UnexpectedAdmissionError", message);
      this.#stage = "over";
      return false;
    }
    this.#gpus = given;
    this.#podIP = pod.spec.hostNetwork ? this.#host.addresses.hostIP : this.#host.addresses.podIP();
    this.#stage = "running";
    return true;
  }

  /** Brings the volumes up to date. False when a container would miss one. */
  async #mount(pod: Pod, signal: AbortSignal): Promise<boolean> {
    if (!this.#volumesDue) return true;
    this.#volumesDue = false;
    const failures = await this.#volumes.refresh(pod, this.#facts(), this.#sources.forVolumes(pod, signal));
    if (signal.aborted) return false;
    if (failures.length === 0) {
      this.#mountRetries = 0;
      this.#later("volumes", this.#host.syncPeriodMs, () => (this.#volumesDue = true));
      return true;
    }
    const pause = Math.min(longestRetryMs, retryMs * 2 ** this.#mountRetries++);
    this.#later("volumes", pause, () => (this.#volumesDue = true));
    for (const failure of failures) this.#reportMountFailure(pod, failure);
    if (failures.every((failure) => failure.mounted)) return true;
    // The next event must not start a container that would miss a volume.
    this.#volumesDue = true;
    return false;
  }

  #reportMountFailure(pod: Pod, { volume, message, pull }: VolumeFailure): void {
    if (!pull) {
      const text = `MountVolume.SetUp failed for volume "${volume}" : ${message}`;
      this.#host.events.warning(pod, "FailedMount", text);
      return;
    }
    this.#host.events.warning(pod, "Failed", message);
    for (const { name, volumeMounts } of containersOf(pod)) {
      if (volumeMounts?.some((mount) => mount.name === volume)) {
        this.#containers.wait(name, "ErrImagePull", message);
      }
    }
  }

  async #act(pod: Pod, signal: AbortSignal): Promise<void> {
    const plan = planPod(
      pod.spec,
      this.#containers.reports(pod, "init"),
      this.#containers.reports(pod, "regular"),
    );
    if (plan.finished) {
      this.#finished = true;
      this.notify();
      return;
    }
    const ends = this.#containers.ends();
    for (const { name, reason } of shuffled(plan.kill, this.#host.random)) {
      const run = this.#containers.run(name);
      if (run) await this.#restart(pod, run, reason, signal);
      if (signal.aborted) return;
    }
    for (const name of plan.start) {
      const container = containersOf(pod).find((entry) => entry.name === name);
      if (container) await this.#containers.start({ pod, container, endedAt: ends.get(name), signal });
      if (signal.aborted) return;
    }
  }

  /** Ends a run that is to be followed by another. */
  async #restart(pod: Pod, run: Run, reason: KillReason, signal: AbortSignal): Promise<void> {
    const { name, startupProbe, livenessProbe } = run.container;
    const probe = { startup: startupProbe, liveness: livenessProbe, changed: undefined }[reason];
    await killRun({
      host: this.#host,
      pod,
      podIP: this.#facts().podIP,
      run,
      graceMs: (probe?.terminationGracePeriodSeconds ?? graceSeconds(pod)) * 1000,
      message: `Container ${name} ${killMessages[reason]}`,
      signal,
    });
  }

  async #terminate(pod: Pod, signal: AbortSignal): Promise<void> {
    this.#stage = "terminating";
    this.#publish();
    await endPod({
      host: this.#host,
      pod,
      podIP: this.#facts().podIP,
      runs: this.#containers.runs(),
      // The kubelet gives a second even to a pod that was deleted with no grace at all.
      graceMs: Math.max(1, Math.min(deletionGrace(pod), graceSeconds(pod))) * 1000,
      signal,
    });
    this.notify();
    if (signal.aborted) return;
    this.#stage = "over";
    this.#synced = pod;
    this.#cancelTimers();
    this.#volumes.remove();
    this.#host.backend.gone(this.#uid);
    this.#host.gpus.release(this.#uid);
  }

  /** Nothing runs any more: lets the API server drop a pod that is to be deleted. */
  async #finish(pod: Pod): Promise<void> {
    if (this.#removed || !isEnding(pod)) return;
    this.#publish();
    await this.#status.settled();
    const { namespace, name, uid } = pod.metadata;
    while (!this.#removed && !this.#closed.signal.aborted) {
      try {
        await this.#host.api.delete(
          `/api/v1/namespaces/${namespace}/pods/${name}`,
          { apiVersion: "v1", kind: "DeleteOptions", gracePeriodSeconds: 0, preconditions: { uid } },
          { signal: this.#closed.signal },
        );
        return;
      } catch (thrown) {
        if (isStatus(thrown, 404) || isStatus(thrown, 409)) return;
        this.#host.log.debug({ pod: podName(pod), why: messageOf(thrown) }, "pod not deleted, trying again");
        await sleep(this.#host.clock, retryMs, this.#closed.signal);
      }
    }
  }

  #publish(): void {
    if (this.#removed || this.#closed.signal.aborted) return;
    // A pod that had ended before this kubelet saw it keeps the status that it has.
    const over = this.#stage === "over";
    if (over && isTerminal(this.#synced) && !this.#failure && !this.#finished) return;
    const status = podStatus({
      pod: { ...this.#synced, ...(this.#latest.status ? { status: this.#latest.status } : {}) },
      init: this.#containers.reports(this.#synced, "init"),
      regular: this.#containers.reports(this.#synced, "regular"),
      podIP: this.#podIP,
      hostIP: this.#host.addresses.hostIP,
      startTime: this.#startTime,
      now: this.#host.clock.now(),
      // A pod is not called Failed while something of it still runs: whoever replaces it counts on that.
      failure: over ? this.#failure : undefined,
      over,
      previous: this.#previous,
    });
    this.#previous = status;
    this.#status.write(status);
  }

  #facts(): HostFacts {
    const hostIP = this.#host.addresses.hostIP;
    return { hostName: this.#host.name, hostIP, podIP: this.#podIP ?? "" };
  }

  /** Looks again after `ms`; a later call with the same name replaces an earlier one. */
  #later(name: string, ms: number, before?: () => void): void {
    this.#timers.get(name)?.cancel();
    const timer = this.#host.clock.setTimer(() => {
      before?.();
      this.notify();
    }, ms);
    this.#timers.set(name, timer);
  }

  #cancelTimers(): void {
    for (const timer of this.#timers.values()) timer.cancel();
    this.#timers.clear();
  }
}

function isEnding(pod: Pod): boolean {
  return pod.metadata.deletionTimestamp !== undefined;
}

function isTerminal(pod: Pod): boolean {
  return pod.status?.phase === "Failed" || pod.status?.phase === "Succeeded";
}

/** Seconds that a deletion leaves the pod; endless without a deletion. */
function deletionGrace(pod: Pod): number {
  if (!isEnding(pod)) return Number.POSITIVE_INFINITY;
  return pod.metadata.deletionGracePeriodSeconds ?? graceSeconds(pod);
}

/** Something that this kubelet does not write itself changed. */
function sawChange(before: Pod, after: Pod): boolean {
  const gates = new Set(after.spec.readinessGates?.map(({ conditionType }) => conditionType));
  const content = ({ metadata, spec, status }: Pod) =>
    JSON.stringify([
      metadata.annotations,
      metadata.labels,
      metadata.generation,
      metadata.deletionTimestamp,
      spec,
      status?.conditions?.filter(({ type }) => gates.has(type)),
    ]);
  return content(before) !== content(after) || isTerminal(before) !== isTerminal(after);
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  return items
    .map((item) => ({ item, order: random() }))
    .sort((a, b) => a.order - b.order)
    .map(({ item }) => item);
}
