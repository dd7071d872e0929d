/** The containers of one pod: what is remembered of each, and how a run of one is begun and ended. */
import { messageOf } from "../../../../src/lib/errors.ts";
import type { PodVolumeStore } from "./backend.ts";
import { StartError } from "./container-process.ts";
import { ContainerRecord, type Run } from "./container-record.ts";
import { killRun } from "./container-kill.ts";
import { ConfigError, handlerTarget, startRun } from "./container-start.ts";
import { CrashLoop, goDuration } from "./crash-loop.ts";
import type { HostFacts } from "./fields.ts";
import { runHook } from "./handler.ts";
import type { Host } from "./host.ts";
import { type HostImage, ImageError } from "./images.ts";
import type { PodSources } from "./pod-sources.ts";
import type { ContainerReport } from "./status.ts";
import { type Container, type Pod, wireTime } from "./types.ts";

/** Pause before something that failed for a reason outside the pod is tried again. */
const retryMs = 500;

/** What the containers of a pod share with its worker. */
export interface PodContainersOptions {
  readonly host: Host;
  readonly volumes: PodVolumeStore;
  readonly sources: PodSources;
  readonly facts: () => HostFacts;
  /** GPUs of a container of that name. */
  readonly gpus: (name: string) => readonly number[] | undefined;
  /** Something is to be seen that was not there before. */
  readonly changed: () => void;
  /** The worker is to look again after `ms`; a later call with the same name replaces an earlier one. */
  readonly later: (name: string, ms: number) => void;
}

/** A container that is to be started. */
export interface StartOrder {
  readonly pod: Pod;
  readonly container: Container;
  /** Monotonic time of its last end that was known when the sync began. */
  readonly endedAt: number | undefined;
  /** Aborts when the pod is to be ended instead. */
  readonly signal: AbortSignal;
}

/** The containers of one pod. */
export class PodContainers {
  readonly #options: PodContainersOptions;
  readonly #records = new Map<string, ContainerRecord>();
  readonly #restarts: CrashLoop;
  readonly #pulls: CrashLoop;
  readonly #pullFailures = new Map<string, { readonly at: number; readonly error: ImageError }>();

  constructor(pod: Pod, options: PodContainersOptions) {
    this.#options = options;
    const { clock, crashLoop } = options.host;
    this.#restarts = new CrashLoop(crashLoop);
    this.#pulls = new CrashLoop(crashLoop);
    for (const { name } of containersOf(pod)) this.#records.set(name, new ContainerRecord(name));
    const { initContainerStatuses = [], containerStatuses = [] } = pod.status ?? {};
    for (const status of [...initContainerStatuses, ...containerStatuses]) {
      this.#records.get(status.name)?.adopt(status, clock.now(), clock.monotonic());
    }
  }

  /** What is to be seen of the init containers or the regular ones, in the order of the spec. */
  reports(pod: Pod, kind: "init" | "regular"): ContainerReport[] {
    const containers = kind === "init" ? (pod.spec.initContainers ?? []) : pod.spec.containers;
    return containers.flatMap((container) => this.#records.get(container.name)?.report(container) ?? []);
  }

  /** Runs under way, in the order of the spec, init containers first. */
  runs(): Run[] {
    return [...this.#records.values()].flatMap(({ run }) => (run ? [run] : []));
  }

  run(name: string): Run | undefined {
    return this.#records.get(name)?.run;
  }

  /** Restart count of the present or last run. */
  attempt(name: string): number {
    return Math.max(0, (this.#records.get(name)?.attempt ?? 0) - 1);
  }

  /** When each container ended last, as far as it did: monotonic time by name. */
  ends(): Map<string, number | undefined> {
    return new Map([...this.#records].map(([name, { ended }]) => [name, ended?.at]));
  }

  /** Notes that a container waits for something that is not its own. */
  wait(name: string, reason: string, message: string): void {
    const record = this.#records.get(name);
    if (record) record.waiting = { reason, message };
  }

  /** Starts a container, unless it is in back-off or lacks something; then its waiting state says so. */
  async start(order: StartOrder): Promise<void> {
    const { pod, container, signal } = order;
    const record = this.#records.get(container.name);
    if (!record || record.run || this.#inBackoff(order, record)) return;
    const image = await this.#pull(order, record);
    if (!image || signal.aborted) return;
    const { host, volumes, sources, facts, gpus, changed } = this.#options;
    let run: Run;
    try {
      run = await startRun({
        host,
        pod,
        facts: facts(),
        container,
        image,
        attempt: record.attempt,
        gpus: gpus(container.name),
        volumes,
        sources: sources.forEnv(pod, volumes, signal),
        onVerdict: changed,
      });
    } catch (thrown) {
      if (!signal.aborted) this.#startFailed(order, record, thrown);
      return;
    }
    record.run = run;
    record.waiting = undefined;
    record.created = true;
    record.attempt++;
    void this.#noteEnd(record, run);
    host.events.normal(pod, "Created", `Container created: ${container.name}`, container.name);
    host.events.normal(pod, "Started", "Container started", container.name);
    changed();
    await this.#postStart(order, run);
  }

  async #noteEnd(record: ContainerRecord, run: Run): Promise<void> {
    const ended = await run.ended;
    record.run = undefined;
    record.ended = ended;
    this.#options.changed();
  }

  #inBackoff({ pod, container, endedAt }: StartOrder, record: ContainerRecord): boolean {
    if (endedAt === undefined) return false;
    const { clock, events } = this.#options.host;
    const { name, image } = container;
    const key = `${name} ${image}`;
    const wait = this.#restarts.remaining(key, endedAt, clock.monotonic());
    if (wait <= 0) {
      this.#restarts.next(key, endedAt, clock.monotonic());
      return false;
    }
    const where = `${pod.metadata.name}_${pod.metadata.namespace}(${pod.metadata.uid})`;
    record.waiting = {
      reason: "CrashLoopBackOff",
      message: `back-off ${goDuration(this.#restarts.wait(key))} restarting failed container=${name} pod=${where}`,
    };
    events.warning(pod, "BackOff", `Back-off restarting failed container ${name} in pod ${where}`, name);
    this.#options.later(`restart ${name}`, wait);
    return true;
  }

  async #pull(
    { pod, container, signal }: StartOrder,
    record: ContainerRecord,
  ): Promise<HostImage | undefined> {
    const { clock, events, images } = this.#options.host;
    const { name, image: reference } = container;
    const failed = this.#pullFailures.get(reference);
    const wait = failed ? this.#pulls.remaining(reference, failed.at, clock.monotonic()) : 0;
    if (failed && wait > 0) {
      const text = `Back-off pulling image "${reference}"`;
      const { reason, message } = failed.error;
      record.waiting = { reason: "ImagePullBackOff", message: `${text}: ${reason}: ${message}` };
      events.normal(pod, "BackOff", text, name);
      events.warning(pod, "Failed", "Error: ImagePullBackOff", name);
      this.#options.later(`restart ${name}`, wait);
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
      this.#pulls.next(reference, failed?.at ?? now, now);
      this.#pullFailures.set(reference, { at: now, error: thrown });
      record.waiting = { reason: thrown.reason, message: thrown.message };
      events.warning(pod, "Failed", `Failed to pull image "${reference}": ${thrown.message}`, name);
      events.warning(pod, "Failed", `Error: ${thrown.reason}`, name);
      this.#options.later(`restart ${name}`, retryMs);
      return undefined;
    }
  }

  #startFailed({ pod, container }: StartOrder, record: ContainerRecord, thrown: unknown): void {
    if (!(thrown instanceof ConfigError) && !(thrown instanceof StartError)) throw thrown;
    const { clock, events } = this.#options.host;
    const message = messageOf(thrown);
    events.warning(pod, "Failed", `Error: ${message}`, container.name);
    if (thrown instanceof ConfigError) {
      record.waiting = { reason: thrown.reason, message };
      this.#options.later(`restart ${container.name}`, retryMs);
      return;
    }
    const now = wireTime(clock.now());
    const state = { exitCode: 128, reason: "StartError", message, startedAt: now, finishedAt: now };
    record.ended = { state, image: container.image, id: "", at: clock.monotonic() };
    record.waiting = { reason: "RunContainerError", message };
    record.created = true;
    record.attempt++;
    this.#options.changed();
  }

  async #postStart({ pod, signal }: StartOrder, run: Run): Promise<void> {
    const hook = run.container.lifecycle?.postStart;
    if (!hook) return;
    const { host, facts } = this.#options;
    const { podIP } = facts();
    const target = handlerTarget(host, run.container, podIP, run.process);
    try {
      await runHook(hook, target, host.clock, signal);
    } catch (thrown) {
      if (signal.aborted) return;
      const message = `PostStartHook failed: ${messageOf(thrown)}`;
      host.events.warning(pod, "FailedPostStartHook", message, run.container.name);
      await killRun({
        host,
        pod,
        podIP,
        run,
        graceMs: graceSeconds(pod) * 1000,
        message: "FailedPostStartHook",
        signal,
      });
    }
  }
}

const defaultGraceSeconds = 30;

/** The pod's own grace period in seconds. */
export function graceSeconds(pod: Pod): number {
  return pod.spec.terminationGracePeriodSeconds ?? defaultGraceSeconds;
}

/** All containers of a pod, init containers first. */
export function containersOf(pod: Pod): Container[] {
  return [...(pod.spec.initContainers ?? []), ...pod.spec.containers];
}
