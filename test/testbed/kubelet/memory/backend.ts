/** Containers as functions of this process, their volumes as maps. */
import type { ContainerBackend, Program, ProgramSpec } from "../process/backend.ts";
import { expand } from "../process/env.ts";
import { FieldError } from "../process/fields.ts";
import type { ContainerExit } from "../process/container-process.ts";
import type { Pod } from "../process/types.ts";
import { Life, mortalFiles } from "./life.ts";
import { MemoryPod } from "./pod.ts";
import type { StartedProgram } from "./program.ts";
import { MemoryVolumes } from "./volumes.ts";

const sigkill = 128 + 9;
let lastPid = 0;

/** Containers of one host in memory. */
export class MemoryBackend implements ContainerBackend {
  readonly name = "memory";
  readonly #volumes = new Map<string, MemoryVolumes>();
  readonly #pods = new Map<string, MemoryPod>();
  readonly #kills = new Map<number, () => void>();

  volumes(pod: Pod): MemoryVolumes {
    const { uid } = pod.metadata;
    const volumes = this.#volumes.get(uid) ?? new MemoryVolumes();
    volumes.reboot(pod);
    this.#volumes.set(uid, volumes);
    return volumes;
  }

  async start({ pod, facts, container, image, attempt, env, volumes }: ProgramSpec): Promise<Program> {
    if (!("program" in image) || !(volumes instanceof MemoryVolumes))
      throw new FieldError(`image ${container.image}: it is no program in memory`);
    const life = new Life();
    const { promise: exited, resolve } = Promise.withResolvers<ContainerExit>();
    let words = "";
    const exit = (exitCode: number, message = "") => {
      if (life.over) return;
      words = message;
      life.end();
      resolve({ exitCode });
    };
    const files = volumes.view(pod, container);
    const expanded = (list: readonly string[] = []) => list.map((word) => expand(word, env));
    let started: StartedProgram | undefined;
    try {
      started = image.program({
        name: container.name,
        pod: this.#pod(pod, facts.podIP, facts.hostName),
        command: expanded(container.command),
        args: expanded(container.args),
        env,
        files: mortalFiles(files, life),
        attempt,
        life,
        exit,
      });
    } catch (thrown) {
      exit(1, String(thrown));
    }
    const pid = ++lastPid;
    this.#kills.set(pid, () => exit(sigkill));
    life.onEnd(() => this.#kills.delete(pid));
    return {
      pid,
      exited,
      signal(name) {
        if (name === "SIGKILL") exit(sigkill);
        else if (!life.over) started?.term();
      },
      exec: () => Promise.resolve({ passed: false, message: "a program in memory runs no commands" }),
      lastWords: () => words,
    };
  }

  answer(podIP: string, port: number, path: string): number | undefined {
    return this.#pods.get(podIP)?.probe?.(port, path);
  }

  gone(uid: string): void {
    this.#volumes.delete(uid);
    for (const [ip, pod] of this.#pods) if (pod.uid === uid) this.#pods.delete(ip);
  }

  keepOnly(uids: ReadonlySet<string>): void {
    for (const uid of this.#volumes.keys()) if (!uids.has(uid)) this.gone(uid);
  }

  /** SIGKILL to a program; nothing happens when it has ended. */
  kill(pid: number): void {
    this.#kills.get(pid)?.();
  }

  #pod({ metadata }: Pod, ip: string, host: string): MemoryPod {
    const pod = this.#pods.get(ip) ?? new MemoryPod(metadata, ip, host);
    this.#pods.set(ip, pod);
    return pod;
  }
}
