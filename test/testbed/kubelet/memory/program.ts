/** What an image of the memory backend runs: a program as a function, in this process. */
import type { FilesInMemory, Life } from "./life.ts";
import type { MemoryPod } from "./pod.ts";

/** What a program sees of the container that it runs in. */
export interface MemoryContainer {
  readonly name: string;
  /** What the containers of the pod share. */
  readonly pod: MemoryPod;
  /** `command` and `args` of the container, with variables replaced. */
  readonly command: readonly string[];
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** The container's mounts; elsewhere a file lives as long as the container. */
  readonly files: FilesInMemory;
  /** Number of the run, from 0. */
  readonly attempt: number;
  /** Over as soon as the container has ended, however. */
  readonly life: Life;
  /** Ends the container, as the program's own exit. The first call counts. */
  exit(code: number, message?: string): void;
}

/** A program that was started. */
export interface StartedProgram {
  /** SIGTERM. Whoever does not call `exit` is killed after the grace period. */
  term(): void;
}

/** Runs in a container; what it throws while it starts is exit code 1. */
export type ProgramInMemory = (container: MemoryContainer) => StartedProgram;
