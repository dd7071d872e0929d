import { join } from "node:path";
import { rmSync } from "node:fs";
import { type Clock, sleep, type Timer } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import { isStatus } from "./api.ts";
import { StartError } from "./container-process.ts";
import { ContainerRecord } from "./container-record.ts";
import { killRun } from "./container-kill.ts";
import { ConfigError, handlerTarget, startRun } from "./container-start.ts";
import { CrashLoop, goDuration } from "./crash-loop.ts";
import type { HostFacts } from "./fields.ts";
import { gpuResource } from "./gpus.ts";
import { runHook } from "./handler.ts";
import type { Host } from "./host.ts";
import { ImageError } from "./images.ts";
import { type ContainerView, type KillReason, planPod } from "./pod-plan.ts";
import { PodSources } from "./pod-sources.ts";
import { type ContainerReport, type PodFailure, podStatus } from "./status.ts";
import { StatusWriter } from "./status-writer.ts";
import { type Container, isSidecar, type Pod, podName, type PodStatus, wireTime } from "./types.ts";
import { PodVolumes } from "./volumes.ts";

const defaultGraceSeconds = 30;
/** Pause before something that failed for a reason outside the pod is tried again. */
const retryMs = 500;

const killMessages: Readonly<Record<KillReason, string>> = {
  changed: "definition changed, will be restarted",
  startup: "failed startup probe, will be restarted",
  liveness: "failed liveness probe, will be restarted",
};

/** Where a pod is in its life on the host; it only moves down this list. */
type Stage = "new" | "running" | "terminating" | "over";

/**
 * One pod on the host. Events only say that something changed; one loop looks at everything and does what is to be
 * done, never twice at once. While it waits for a hook, a pull or an end, the pod is not synced: that is the
 * kubelet's own behaviour, and what makes a drain safe from changes in mid-way.
 */
export class PodWorker {
  readonly #host: Host;
  readonly #uid: string;
  readonly #records = new Map<string, ContainerRecord>();
  readonly #volumes: PodVolumes;
  readonly #sources: PodSources;
  readonly #restarts: CrashLoop;
  readonly #pulls: CrashLoop;
  readonly #status: StatusWriter;
  readonly #closed = new AbortController();
  readonly #startTime: number;
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
  #previous: PodStatus | undefined;
  #looping: Promise<void> | undefined;
  #due = false;
  #timers = new Map<string, Timer>();

  constructor(host: Host, pod: Pod) {
    this.#host = host;
    this.#uid = pod.metadata.uid;
    this.#latest = pod;
    this.#synced = pod;
    this.#previous = pod.status;
    this.#startTime = pod.status?.startTime ? Date.parse(pod.status.startTime) : host.clock.now();
    this.#volumes = new PodVolumes(join(host.dir, "volumes", this.#uid), join(host.dir, "memory", this.#uid));
    this.#sources = new PodSources(host.api, host.images, host.clock);
    this.#restarts = new CrashLoop(host.crashLoop);
    this.#pulls = new CrashLoop(host.crashLoop);
    this.#status = new StatusWriter(host, pod, this.#closed.signal);
    for (const { name } of [...(pod.spec.initContainers ?? []), ...pod.spec.containers]) {
      this.#records.set(name, new ContainerRecord(name));
    }
    for (const status of [
      ...(pod.status?.initContainerStatuses ?? []),
      ...(pod.status?.containerStatuses ?? []),
    ]) {
      this.#records.get(status.name)?.adopt(status, host.clock.now(), host.clock.monotonic());
    }
    if (isTerminal(pod)) this.#stage = "over";
    this.notify();
  }

  /** The pod as the API server has it now. */
  update(pod: Pod): void {
    const before = this.#latest;
    this.#latest = pod;
    const sooner = graceOf(pod) < graceOf(before) || (isEnding(pod) && !isEnding(before));
    if (sooner) this.#breakOff();
    if (sooner || sawChange(before, pod)) {
      this.#volumesDue = true;
      this.notify();
    }
  }

  /** The API server has no such pod any more: it was deleted without waiting for this kubelet. */
  remove(): void {
    this.#removed = true;
    this.#breakOff();
    this.notify();
  }

  /** Ends the pod and marks it Failed, as an eviction for want of resources of the host does. */
  evict(message: string): void {
    this.#failure ??= { reason: "Evicted", message };
    this.#breakOff();
    this.notify();
  }

  /** Everything has ended, and the API server knows. */
  get done(): boolean {
    return this.#stage === "over" && this.#looping === undefined && (this.#removed || isEnding(this.#latest));
  }

  /** Runs of containers that are under way, for tests that look inside. */
  running(): { container: string; pid: number; attempt: number }[] {
    return [...this.#records.values()].flatMap(({ name, run, attempt }) =>
      run ? [{ container: name, pid: run.process.pid, attempt: attempt - 1 }] : [],
    );
  }

  get pod(): Pod {
    return this.#latest;
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
    this.#breakOff();
    for (const timer of this.#timers.values()) timer.cancel();
    while (this.#looping) await this.#looping;
    const runs = [...this.#records.values()].flatMap(({ run }) => (run ? [run] : []));
    for (const run of runs) run.process.signal("SIGKILL");
    await Promise.all(runs.map((run) => run.process.exited));
    this.#host.gpus.release(this.#uid);
  }

  #breakOff(): void {
    this.#interrupt.abort();
  }

  async #loop(): Promise<void> {
    while (this.#due && !this.#closed.signal.aborted) {
      this.#due = false;
      this.#interrupt = new AbortController();
      try {
        await this.#sync(AbortSignal.any([this.#interrupt.signal, this.#closed.signal]));
      } catch (thrown) {
        if (this.#closed.signal.aborted) return;
        this.#host.log.warn(
          { pod: podName(this.#latest), why: messageOf(thrown) },
          "pod sync failed, trying again",
        );
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
    if (!(await this.#mount(pod, signal))) return;
    await this.#act(pod, signal);
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
    this.#later("volumes", this.#host.syncPeriodMs, () => (this.#volumesDue = true));
    const failures = await this.#volumes.refresh(pod, this.#facts(), this.#sources.forVolumes(pod, signal));
    if (failures.length === 0 || signal.aborted) return !signal.aborted;
    this.#volumesDue = true;
    this.#later("retry", retryMs);
    for (const { volume, message, pull } of failures) {
      if (pull) continue;
      this.#host.events.warning(
        pod,
        "FailedMount",
        `MountVolume.SetUp failed for volume "${volume}" : ${message}`,
      );
    }
    const pulls = failures.filter((failure) => failure.pull);
    for (const container of [...(pod.spec.initContainers ?? []), ...pod.spec.containers]) {
      const pull = pulls.find(({ volume }) => container.volumeMounts?.some((mount) => mount.name === volume));
      const record = this.#records.get(container.name);
      if (pull && record) record.waiting = { reason: "ErrImagePull", message: pull.message };
    }
    return failures.every((failure) => failure.mounted);
  }

  async #act(pod: Pod, signal: AbortSignal): Promise<void> {
    const plan = planPod(pod.spec, this.#views(pod, "init"), this.#views(pod, "regular"));
    if (plan.finished) {
      this.#finished = true;
      this.notify();
      return;
    }
    const endedBefore = new Map([...this.#records].map(([name, { ended }]) => [name, ended]));
    for (const { name, reason } of shuffled(plan.kill, this.#host.random)) {
      const run = this.#records.get(name)?.run;
      if (!run) continue;
      const probe = {
        startup: run.container.startupProbe,
        liveness: run.container.livenessProbe,
        changed: undefined,
      };
      const seconds = probe[reason]?.terminationGracePeriodSeconds ?? graceSeconds(pod);
      await killRun({
        host: this.#host,
        pod,
        podIP: this.#facts().podIP,
        run,
        graceMs: seconds * 1000,
        message: `Container ${name} ${killMessages[reason]}`,
        signal,
      });
      if (signal.aborted) return;
    }
    for (const name of plan.start) {
      const container = containerNamed(pod, name);
      const record = this.#records.get(name);
      if (!container || !record || record.run) continue;
      await this.#start(pod, container, record, endedBefore.get(name)?.at, signal);
      if (signal.aborted) return;
    }
  }

  /** @param endedAt monotonic time of the last end that was known when this sync began */
  async #start(
    pod: Pod,
    container: Container,
    record: ContainerRecord,
    endedAt: number | undefined,
    signal: AbortSignal,
  ): Promise<void> {
    const { clock, events } = this.#host;
    const { name, image: reference } = container;
    if (endedAt !== undefined) {
      const key = `${name} ${reference}`;
      const wait = this.#restarts.remaining(key, endedAt, clock.monotonic());
      if (wait > 0) {
        const where = `${pod.metadata.name}_${pod.metadata.namespace}(${this.#uid})`;
        const length = goDuration(this.#restarts.wait(key));
        record.waiting = {
          reason: "CrashLoopBackOff",
          message: `back-off ${length} restarting failed container=${name} pod=${where}`,
        };
        events.warning(pod, "BackOff", `Back-off restarting failed container ${name} in pod ${where}`, name);
        this.#later(`restart ${name}`, wait);
        return;
      }
      this.#restarts.next(key, endedAt, clock.monotonic());
    }
    const image = await this.#pull(pod, container, record, signal);
    if (!image || signal.aborted) return;
    try {
      const attempt = record.attempt;
      const run = await startRun({
        host: this.#host,
        pod,
        facts: this.#facts(),
        container,
        image,
        attempt,
        gpus: this.#gpus.get(name),
        volumes: this.#volumes,
        sources: this.#sources.forEnv(pod, this.#volumes, signal),
        onVerdict: () => {
          this.#publish();
          this.notify();
        },
        onExit: (ended) => {
          record.run = undefined;
          record.ended = ended;
          this.#publish();
          this.notify();
        },
      });
      Object.assign(record, { run, waiting: undefined, created: true, attempt: attempt + 1 });
      events.normal(pod, "Created", `Container created: ${name}`, name);
      events.normal(pod, "Started", `Container started`, name);
      // Sidecars and containers without a startup probe let the next one start at once.
      this.notify();
      await this.#postStart(pod, record, signal);
    } catch (thrown) {
      if (signal.aborted) return;
      this.#startFailed(pod, record, container, thrown);
    } finally {
      this.#publish();
    }
  }

  #startFailed(pod: Pod, record: ContainerRecord, container: Container, thrown: unknown): void {
    const { clock, events } = this.#host;
    const message = messageOf(thrown);
    if (!(thrown instanceof ConfigError) && !(thrown instanceof StartError)) throw thrown;
    events.warning(pod, "Failed", `Error: ${message}`, container.name);
    if (thrown instanceof ConfigError) {
      record.waiting = { reason: thrown.reason, message };
      this.#later(`restart ${container.name}`, retryMs);
      return;
    }
    const now = wireTime(clock.now());
    const state = { exitCode: 128, reason: "StartError", message, startedAt: now, finishedAt: now };
    record.ended = { state, image: container.image, id: "", at: clock.monotonic() };
    record.waiting = { reason: "RunContainerError", message };
    record.created = true;
    record.attempt++;
    this.notify();
  }

  async #postStart(pod: Pod, record: ContainerRecord, signal: AbortSignal): Promise<void> {
    const run = record.run;
    const hook = run?.container.lifecycle?.postStart;
    if (!run || !hook) return;
    const { podIP } = this.#facts();
    const target = handlerTarget(this.#host, run.container, podIP, run.process.pid, run.env);
    try {
      await runHook(hook, target, this.#host.clock, signal);
    } catch (thrown) {
      if (signal.aborted) return;
      this.#host.events.warning(
        pod,
        "FailedPostStartHook",
        `PostStartHook failed: ${messageOf(thrown)}`,
        record.name,
      );
      const message = "FailedPostStartHook";
      await killRun({
        host: this.#host,
        pod,
        podIP,
        run,
        graceMs: graceSeconds(pod) * 1000,
        message,
        signal,
      });
    }
  }

  async #pull(pod: Pod, container: Container, record: ContainerRecord, signal: AbortSignal) {
    const { clock, events, images } = this.#host;
    const { name, image: reference } = container;
    const failedAt = this.#pullFailures.get(reference);
    const wait =
      failedAt === undefined ? 0 : this.#pulls.remaining(reference, failedAt.at, clock.monotonic());
    if (failedAt && wait > 0) {
      record.waiting = {
        reason: "ImagePullBackOff",
        message: `Back-off pulling image "${reference}": ${failedAt.message}`,
      };
      events.normal(pod, "BackOff", `Back-off pulling image "${reference}"`, name);
      events.warning(pod, "Failed", "Error: ImagePullBackOff", name);
      this.#later(`restart ${name}`, wait);
      return undefined;
    }
    try {
      if (!images.has(reference)) events.normal(pod, "Pulling", `Pulling image "${reference}"`, name);
      const { image, pulled } = await images.ensure(reference, container.imagePullPolicy, signal);
      const text = pulled
        ? `Successfully pulled image "${reference}"`
        : `Container image "${reference}" already present on machine`;
      events.normal(pod, "Pulled", text, name);
      this.#pullFailures.delete(reference);
      return image;
    } catch (thrown) {
      if (signal.aborted) return undefined;
      if (!(thrown instanceof ImageError)) throw thrown;
      const now = clock.monotonic();
      const message = `${thrown.reason}: ${thrown.message}`;
      this.#pulls.next(reference, failedAt?.at ?? now, now);
      this.#pullFailures.set(reference, { at: now, message });
      record.waiting = { reason: thrown.reason, message: thrown.message };
      events.warning(pod, "Failed", `Failed to pull image "${reference}": ${thrown.message}`, name);
      events.warning(pod, "Failed", `Error: ${thrown.reason}`, name);
      this.#later(`restart ${name}`, retryMs);
      return undefined;
    }
  }

  readonly #pullFailures = new Map<string, { readonly at: number; readonly message: string }>();

  /** Ends every container: all at once, but sidecars get SIGTERM only when those before them are gone. */
  async #terminate(pod: Pod, signal: AbortSignal): Promise<void> {
    this.#stage = "terminating";
    const graceMs = Math.max(1, Math.min(graceOf(pod), graceSeconds(pod))) * 1000;
    const sidecars = new Set((pod.spec.initContainers ?? []).filter(isSidecar).map(({ name }) => name));
    const runs = [...this.#records.values()].flatMap(({ run }) => (run ? [run] : []));
    const first = runs.filter((run) => !sidecars.has(run.container.name));
    const rest = runs.filter((run) => sidecars.has(run.container.name)).toReversed();
    const ends: Promise<unknown>[] = [];
    let gone: readonly (typeof first)[number][] = [];
    const kill = (run: (typeof first)[number], after: readonly (typeof first)[number][]) => {
      run.prober.stop("startup");
      run.prober.stop("liveness");
      return killRun({
        host: this.#host,
        pod,
        podIP: this.#facts().podIP,
        run,
        graceMs,
        message: `Stopping container ${run.container.name}`,
        ...(after.length > 0 ? { turn: Promise.all(after.map((earlier) => earlier.process.exited)) } : {}),
        signal,
      });
    };
    for (const run of first) ends.push(kill(run, []));
    gone = first;
    for (const run of rest) {
      ends.push(kill(run, gone));
      gone = [...gone, run];
    }
    this.#publish();
    await Promise.all(ends);
    if (signal.aborted) {
      this.#due = true;
      return;
    }
    this.#stage = "over";
    this.#synced = pod;
    this.#volumes.remove();
    rmSync(join(this.#host.dir, "run", this.#uid), { recursive: true, force: true });
    this.#host.gpus.release(this.#uid);
    this.notify();
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
    if (this.#stage === "over" && isTerminal(this.#synced) && !this.#failure && !this.#finished) return;
    const status = podStatus({
      pod: { ...this.#synced, ...(this.#latest.status ? { status: this.#latest.status } : {}) },
      init: this.#views(this.#synced, "init"),
      regular: this.#views(this.#synced, "regular"),
      podIP: this.#podIP,
      hostIP: this.#host.addresses.hostIP,
      startTime: this.#startTime,
      now: this.#host.clock.now(),
      failure: this.#failure,
      over: this.#stage === "over",
      previous: this.#previous,
    });
    this.#previous = status;
    this.#status.write(status);
  }

  #views(pod: Pod, kind: "init" | "regular"): ContainerReport[] & ContainerView[] {
    const containers = kind === "init" ? (pod.spec.initContainers ?? []) : pod.spec.containers;
    return containers.flatMap((container) => this.#records.get(container.name)?.report(container) ?? []);
  }

  #facts(): HostFacts {
    const hostIP = this.#host.addresses.hostIP;
    return { hostName: this.#host.name, hostIP, podIP: this.#podIP ?? "" };
  }

  /** Looks again after `ms`; a second call with the same name replaces the first. */
  #later(name: string, ms: number, before?: () => void): void {
    const clock: Clock = this.#host.clock;
    this.#timers.get(name)?.cancel();
    const timer = clock.setTimer(() => {
      before?.();
      this.notify();
    }, ms);
    this.#timers.set(name, timer);
  }
}

function isEnding(pod: Pod): boolean {
  return pod.metadata.deletionTimestamp !== undefined;
}

function isTerminal(pod: Pod): boolean {
  return pod.status?.phase === "Failed" || pod.status?.phase === "Succeeded";
}

function graceSeconds(pod: Pod): number {
  return pod.spec.terminationGracePeriodSeconds ?? defaultGraceSeconds;
}

/** Seconds that a deletion leaves the pod; endless without a deletion. */
function graceOf(pod: Pod): number {
  return isEnding(pod)
    ? (pod.metadata.deletionGracePeriodSeconds ?? graceSeconds(pod))
    : Number.POSITIVE_INFINITY;
}

/** Something other than the status changed, or somebody else ended the pod. */
function sawChange(before: Pod, after: Pod): boolean {
  const content = ({ metadata, spec }: Pod) =>
    JSON.stringify([
      metadata.annotations,
      metadata.labels,
      metadata.generation,
      metadata.deletionTimestamp,
      spec,
    ]);
  return content(before) !== content(after) || isTerminal(before) !== isTerminal(after);
}

function containerNamed(pod: Pod, name: string): Container | undefined {
  return [...(pod.spec.initContainers ?? []), ...pod.spec.containers].find((entry) => entry.name === name);
}

function shuffled<T>(items: readonly T[], random: () => number): T[] {
  return items
    .map((item) => ({ item, order: random() }))
    .sort((a, b) => a.order - b.order)
    .map(({ item }) => item);
}
