import { dirname, join } from "node:path";
import { createHash } from "node:crypto";
import type { ContainerImage } from "../testbed/kubelet/process/images.ts";
import { bundle, engineProgram, repository } from "./paths.ts";

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
/** A reference that no resolver knows: the pull fails. */
export const unknownImage = reference("nowhere");

const node = process.execPath;
const readOnlyPaths = [join(repository, "dist"), join(repository, "test/engine"), dirname(dirname(node))];

/** Finds a reference among the loop's images; undefined = it cannot be pulled. */
export function resolveImage(image: string): ContainerImage | undefined {
  for (const release of ["v1", "v2", "v3"]) {
    if (image === agentImage(release)) return { command: [node, bundle("agent")], env: {}, readOnlyPaths };
    if (image === engineImage(release))
      return { command: [node, engineProgram], env: { ENGINE_VERSION: release }, readOnlyPaths };
  }
  if (image === brokenAgentImage) return { command: [node, "-e", "process.exit(1)"], env: {}, readOnlyPaths };
  return undefined;
}

/** `runtimes[].command` of a snapshot: how the launcher starts the test engine in its image. */
export function engineCommand(tokenDelayMs: number): string[] {
  return [
    node,
    engineProgram,
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
