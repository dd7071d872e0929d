import type { ContainerProcess } from "./container-process.ts";
import type { Env } from "./env.ts";
import type { HostFacts } from "./fields.ts";
import type { HandlerOutcome } from "./handler.ts";
import type { HostImage } from "./images.ts";
import type { Container, Pod } from "./types.ts";
import type { VolumeFailure, VolumeSources } from "./volumes.ts";

/** The volumes of one pod, wherever they are kept. */
export interface PodVolumeStore {
  /** Brings every volume up to date and returns those that could not be. */
  refresh(pod: Pod, facts: HostFacts, sources: VolumeSources): Promise<VolumeFailure[]>;
  /** Text of a file in one of the volumes, or undefined. */
  readText(pod: Pod, volumeName: string, path: string): string | undefined;
  /** Removes everything that is not the host's own. */
  remove(): void;
}

/** What a program is started with. */
export interface ProgramSpec {
  readonly pod: Pod;
  readonly facts: HostFacts;
  readonly container: Container;
  readonly image: HostImage;
  /** Number of the run, from 0. */
  readonly attempt: number;
  readonly env: Env;
  readonly volumes: PodVolumeStore;
}

/** The program of a container that runs. */
export interface Program extends ContainerProcess {
  /** Runs a command beside it, for probes and hooks. */
  exec(command: readonly string[], signal: AbortSignal): Promise<HandlerOutcome>;
  /** Its termination message, once it has ended with `exitCode`; `""` without one. */
  lastWords(exitCode: number): string;
}

/** What the containers of a virtual host are made of. All that is a kubelet's own business is not in here. */
export interface ContainerBackend {
  /** Scheme of container IDs. */
  readonly name: string;
  /** Volumes of a pod; those of one that was here before the host went down are found again. */
  volumes(pod: Pod): PodVolumeStore;
  /**
   * Starts a program; resolves when it runs.
   *
   * @throws FieldError for what the pod asks and the host cannot give
   * @throws StartError when the program could not be run
   */
  start(spec: ProgramSpec): Promise<Program>;
  /** Answers a probe of the pod without the way over the network: status, or undefined where that way must be taken. */
  answer?(podIP: string, port: number, path: string): number | undefined;
  /** Nothing of the pod runs any more, or ever will. */
  gone(uid: string): void;
  /** The pods that the host has when it boots: what others left is removed. */
  keepOnly(uids: ReadonlySet<string>): void;
}
