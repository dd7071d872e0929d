/** Starts one run of a container: its environment, its program, its probes. */
import { randomBytes } from "node:crypto";
import { messageOf } from "../../../../src/lib/errors.ts";
import type { PodVolumeStore, Program } from "./backend.ts";
import type { Ended, Run } from "./container-record.ts";
import { StartError } from "./container-process.ts";
import { containerEnv, type EnvSources } from "./env.ts";
import type { HostFacts } from "./fields.ts";
import { type HandlerTarget, runProbe } from "./handler.ts";
import type { Host } from "./host.ts";
import type { HostImage } from "./images.ts";
import type { ProbeKind } from "./probe.ts";
import { Prober } from "./prober.ts";
import { type Container, type Pod, wireTime } from "./types.ts";

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/** What {@link startRun} needs. */
export interface StartInput {
  readonly host: Host;
  readonly pod: Pod;
  readonly facts: HostFacts;
  readonly container: Container;
  readonly image: HostImage;
  /** Number of the run, from 0. */
  readonly attempt: number;
  readonly gpus: readonly number[] | undefined;
  readonly volumes: PodVolumeStore;
  readonly sources: EnvSources;
  /** Told when a probe's verdict changed. */
  readonly onVerdict: (kind: ProbeKind) => void;
}

/** The container cannot be made from what the pod says; `reason` is that of the waiting state. */
export class ConfigError extends Error {
  readonly reason = "CreateContainerConfigError";
}

/**
 * Starts a run.
 *
 * @throws ConfigError when the spec or what it refers to does not allow it
 * @throws StartError when the program could not be run
 */
export async function startRun(input: StartInput): Promise<Run> {
  const { host, pod, facts, container } = input;
  const id = `${host.backend.name}://${randomBytes(32).toString("hex")}`;
  const program = await startProgram(input);
  const startedAt = host.clock.now();
  const target: HandlerTarget = handlerTarget(host, container, facts.podIP, program);
  const prober = new Prober(container, {
    clock: host.clock,
    run: (probe, signal) => runProbe(probe, target, signal),
    onVerdict: input.onVerdict,
    onFailure: (kind, message) => {
      const name = `${kind.charAt(0).toUpperCase()}${kind.slice(1)}`;
      host.events.warning(pod, "Unhealthy", `${name} probe failed: ${message}`, container.name);
    },
  });
  const ended = async (): Promise<Ended> => {
    const { exitCode } = await program.exited;
    prober.stopAll();
    const message = program.lastWords(exitCode);
    return {
      id,
      image: container.image,
      at: host.clock.monotonic(),
      state: {
        exitCode,
        reason: exitCode === 0 ? "Completed" : "Error",
        ...(message ? { message } : {}),
        startedAt: wireTime(startedAt),
        finishedAt: wireTime(host.clock.now()),
        containerID: id,
      },
    };
  };
  return { id, image: container.image, startedAt, process: program, prober, container, ended: ended() };
}

/** How hooks and probes reach the container. */
export function handlerTarget(
  host: Host,
  container: Container,
  podIP: string,
  program: Program,
): HandlerTarget {
  const { backend } = host;
  const exec = (command: readonly string[], signal: AbortSignal) => program.exec(command, signal);
  return { container, podIP, exec, answer: backend.answer?.bind(backend) };
}

async function startProgram(input: StartInput): Promise<Program> {
  const { host, pod, facts, container, image, attempt, gpus, volumes, sources } = input;
  const user = "user" in image ? image.user : undefined;
  try {
    const base = {
      PATH: defaultPath,
      HOME:
        (container.securityContext?.runAsUser ?? pod.spec.securityContext?.runAsUser ?? user) ? "/" : "/root",
      ...image.env,
      HOSTNAME: pod.spec.hostname ?? pod.metadata.name,
    };
    const env = await containerEnv(container, pod, facts, sources, base);
    if (gpus) env["NVIDIA_VISIBLE_DEVICES"] = gpus.join(",");
    return await host.backend.start({ pod, facts, container, image, attempt, env, volumes });
  } catch (cause) {
    if (cause instanceof StartError) throw cause;
    throw new ConfigError(messageOf(cause), { cause });
  }
}
