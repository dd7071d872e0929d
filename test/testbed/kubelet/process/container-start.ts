/** Starts one run of a container: its image, its environment, its root, its program, its probes. */
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../../../../src/lib/errors.ts";
import type { Ended, Run } from "./container-record.ts";
import { containerRoot } from "./container-root.ts";
import { startContainerProcess } from "./container-process.ts";
import { containerEnv, type EnvSources } from "./env.ts";
import type { HostFacts } from "./fields.ts";
import { type HandlerTarget, runProbe } from "./handler.ts";
import type { Host } from "./host.ts";
import type { ContainerImage } from "./images.ts";
import { logFolder } from "./logs.ts";
import type { ProbeKind } from "./probe.ts";
import { Prober } from "./prober.ts";
import { type Container, type Pod, wireTime } from "./types.ts";
import type { PodVolumes } from "./volumes.ts";

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const messageLimit = 4096;

/** What {@link startRun} needs. */
export interface StartInput {
  readonly host: Host;
  readonly pod: Pod;
  readonly facts: HostFacts;
  readonly container: Container;
  readonly image: ContainerImage;
  /** Number of the run, from 0. */
  readonly attempt: number;
  readonly gpus: readonly number[] | undefined;
  readonly volumes: PodVolumes;
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
  const { host, pod, facts, container, attempt } = input;
  const id = `process://${randomBytes(32).toString("hex")}`;
  const folder = join(host.dir, "run", pod.metadata.uid, `${container.name}-${attempt}`);
  const terminationLog = join(folder, "termination-log");
  const logFile = join(logFolder(host.dir, pod.metadata, container.name), `${attempt}.log`);
  const { env, root } = await prepare(input, terminationLog);
  const process = await startContainerProcess({ root, env, folder, logFile, isolation: host.isolation });
  const startedAt = host.clock.now();
  const target: HandlerTarget = handlerTarget(host, container, facts.podIP, process.pid, env);
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
    const { exitCode } = await process.exited;
    prober.stopAll();
    const message = lastWords(container, terminationLog, logFile, exitCode);
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
  return { id, image: container.image, startedAt, process, prober, env, container, ended: ended() };
}

/** How hooks and probes reach the container. */
export function handlerTarget(
  host: Host,
  container: Container,
  podIP: string,
  pid: number,
  env: Readonly<Record<string, string>>,
): HandlerTarget {
  return { container, podIP, enter: host.isolation.enterRunning(pid), env };
}

async function prepare(input: StartInput, terminationLog: string) {
  const { host, pod, facts, container, image, gpus, volumes, sources } = input;
  try {
    const base = {
      PATH: defaultPath,
      HOME:
        (container.securityContext?.runAsUser ?? pod.spec.securityContext?.runAsUser ?? image.user)
          ? "/"
          : "/root",
      ...image.env,
      HOSTNAME: pod.spec.hostname ?? pod.metadata.name,
    };
    const env = await containerEnv(container, pod, facts, sources, base);
    if (gpus) env["NVIDIA_VISIBLE_DEVICES"] = gpus.join(",");
    const root = containerRoot({
      host,
      pod,
      podIP: facts.podIP,
      container,
      image,
      env,
      volumes,
      terminationLog,
    });
    return { env, root };
  } catch (cause) {
    throw new ConfigError(messageOf(cause), { cause });
  }
}

/** The termination message: the file's text, or the end of the log of a container that failed and left none. */
function lastWords(container: Container, file: string, logFile: string, exitCode: number): string {
  const text = readQuietly(file);
  if (text || exitCode === 0 || container.terminationMessagePolicy !== "FallbackToLogsOnError") {
    return text.slice(0, messageLimit);
  }
  return readQuietly(logFile).split("\n").slice(-80).join("\n").slice(-2048);
}

function readQuietly(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
