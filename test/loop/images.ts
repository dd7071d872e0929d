import { dirname } from "node:path";
import { createHash } from "node:crypto";
import { agentProgram } from "../testbed/kubelet/memory/agent-program.ts";
import {
  type EngineBehaviour,
  engineProgram as engineInMemory,
} from "../testbed/kubelet/memory/engine-program.ts";
import type { MemoryPod } from "../testbed/kubelet/memory/pod.ts";
import type { ContainerImage, MemoryImage } from "../testbed/kubelet/process/images.ts";
import { bundle, engineProgram } from "./paths.ts";

/**
 * The images of the loop. Nothing is pulled: the process kubelet maps each reference to a command on this machine. The
 * digests are of the names, so that they are the same on every machine.
 */

const reference = (name: string): string =>
  `resultity.test/${name}@sha256:${createHash("sha256").update(name).digest("hex")}`;

/** The agent, in two releases that differ only in their reference. */
export const agentImage = (release = "v1"): string => reference(`agent-${release}`);
/** The test engine; its log says which release wrote each line. */
export const engineImage = (release: string): string => reference(`engine-${release}`);
/** An agent image whose program ends at once. */
export const brokenAgentImage = reference("agent-broken");
/** What others run on the GPUs: it does nothing, and ends when it is told to. */
export const tenantImage = reference("tenant");
/** A reference that no resolver knows: the pull fails. */
export const unknownImage = reference("nowhere");

/** Where things lie in the images, whatever the place of the repository and of Node on this machine. */
const node = "/opt/node/bin/node";
const agent = "/opt/resultity/dist/agent.mjs";
/** The test engine's program, as its command line in a container shows it. */
export const engineInImage = "/opt/engine/engine.mjs";

const nodeFiles = { source: dirname(dirname(process.execPath)), target: "/opt/node" };
const agentFiles = [nodeFiles, { source: dirname(bundle("agent")), target: dirname(agent) }];
const engineFiles = [nodeFiles, { source: dirname(engineProgram), target: dirname(engineInImage) }];

/** Finds a reference among the loop's images; undefined = it cannot be pulled. */
export function resolveImage(image: string): ContainerImage | undefined {
  for (const release of ["v1", "v2", "v3"]) {
    if (image === agentImage(release)) return { command: [node, agent], readOnlyPaths: agentFiles };
    if (image === engineImage(release)) {
      return { command: [node, engineInImage], env: { ENGINE_VERSION: release }, readOnlyPaths: engineFiles };
    }
  }
  if (image === tenantImage) {
    const rest = "process.on('SIGTERM', () => process.exit(0)); setInterval(() => {}, 1e6)";
    return { command: [node, "-e", rest], readOnlyPaths: [nodeFiles] };
  }
  if (image === brokenAgentImage)
    return { command: [node, "-e", "process.exit(1)"], readOnlyPaths: agentFiles };
  return undefined;
}

/** The same images as programs in memory. `behaviour` is that of the engines. */
export function memoryImages(
  behaviour: (pod: MemoryPod) => EngineBehaviour,
): (reference: string) => MemoryImage | undefined {
  const agents = agentProgram();
  const images = new Map<string, MemoryImage>();
  for (const release of ["v1", "v2", "v3"]) {
    images.set(agentImage(release), { program: agents });
    images.set(engineImage(release), { program: engineInMemory({ version: release, behaviour }) });
  }
  images.set(brokenAgentImage, {
    program: (container) => {
      container.exit(1);
      return { term: () => {} };
    },
  });
  return (reference) => images.get(reference);
}

/** `runtimes[].command` of a snapshot: how the launcher starts the test engine in its image. */
export function engineCommand(tokenDelayMs: number): string[] {
  return [
    node,
    engineInImage,
    "--host",
    "{host}",
    "--port",
    "{port}",
    "--model",
    "{model}",
    "--token-delay-ms",
    String(tokenDelayMs),
  ];
}
