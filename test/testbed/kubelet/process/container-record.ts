import type { Prober } from "./prober.ts";
import type { Program } from "./backend.ts";
import type { ContainerReport } from "./status.ts";
import { type Container, type ContainerStatus, type TerminatedState, wireTime } from "./types.ts";

/** One run of a container. */
export interface Run {
  readonly id: string;
  /** Reference that it was started from. */
  readonly image: string;
  /** Wall time, milliseconds. */
  readonly startedAt: number;
  readonly process: Program;
  /** Resolves when the program has ended. */
  readonly ended: Promise<Ended>;
  readonly prober: Prober;
  /** The spec that it was started from: its hooks are the ones that count. */
  readonly container: Container;
}

/** How and when the last run ended. */
export interface Ended {
  readonly state: TerminatedState;
  readonly image: string;
  readonly id: string;
  /** Monotonic time, for back-off. */
  readonly at: number;
}

/** Everything that the kubelet remembers of one container of a pod. */
export class ContainerRecord {
  readonly name: string;
  run: Run | undefined;
  ended: Ended | undefined;
  waiting: { readonly reason: string; readonly message?: string } | undefined;
  /** Started at least once since the pod came to this host or the host booted. */
  created = false;
  /** Number of the next run, from 0. */
  attempt = 0;

  constructor(name: string) {
    this.name = name;
  }

  /** Takes over what an earlier life of this kubelet wrote: whatever ran then ended with the host. */
  adopt(status: ContainerStatus, nowWall: number, nowMonotonic: number): void {
    const ended =
      status.state?.terminated ?? (status.state?.waiting ? status.lastState?.terminated : undefined);
    if (!status.containerID && !ended) return;
    const state: TerminatedState = ended ?? {
      exitCode: 255,
      reason: "Unknown",
      startedAt: status.state?.running?.startedAt ?? null,
      finishedAt: wireTime(nowWall),
      ...(status.containerID ? { containerID: status.containerID } : {}),
    };
    this.attempt = status.restartCount + 1;
    this.ended = { state, image: status.image, id: status.containerID ?? "", at: nowMonotonic };
  }

  /** What is to be seen of it from outside. */
  report(container: Container): ContainerReport {
    const { run, ended, waiting } = this;
    const containerID = run?.id ?? ended?.id;
    const image = run?.image ?? ended?.image;
    return {
      container,
      created: this.created,
      ready: run?.prober.ready ?? false,
      restartCount: Math.max(0, this.attempt - 1),
      ...(run
        ? {
            running: {
              image: run.image,
              started: run.prober.started,
              startupFailed: run.prober.startupFailed,
              livenessFailed: run.prober.livenessFailed,
            },
            startedAt: run.startedAt,
          }
        : {}),
      ...(containerID ? { containerID } : {}),
      ...(image ? { image } : {}),
      ...(ended ? { exitCode: ended.state.exitCode, terminated: ended.state } : {}),
      ...(waiting && !run ? { waiting } : {}),
    };
  }
}
