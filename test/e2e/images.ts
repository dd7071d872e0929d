import { dirname, join } from "node:path";
import { bundle, engineProgram } from "../loop/paths.ts";
import { type ImageSource, nodeInImage } from "../testbed/oci.ts";

/** Images as a registry would have them, made of this machine's Node and what the sources say. */

const agentInImage = "/opt/resultity/agent.mjs";
const engineInImage = "/opt/engine/engine.mjs";

/** The agent; releases differ in nothing but a file that nobody reads, and so in their digest. */
export const agentSource = (release: string): ImageSource => ({
  reference: `registry.resultity.test/agent:${release}`,
  entrypoint: [nodeInImage, agentInImage],
  files: { [agentInImage]: { source: bundle("agent") }, "/opt/resultity/release": { content: release } },
});

/** The test engine; each line of its log says which release wrote it. */
export const engineSource = (release: string): ImageSource => ({
  reference: `registry.resultity.test/engine:${release}`,
  entrypoint: [nodeInImage, engineInImage],
  env: { ENGINE_VERSION: release },
  files: {
    [engineInImage]: { source: engineProgram },
    [`${dirname(engineInImage)}/answer.ts`]: { source: join(dirname(engineProgram), "answer.ts") },
  },
});

/** `runtimes[].command` of a snapshot: how the launcher starts the engine in its image. */
export const engineCommand = (tokenDelayMs: number): string[] => [
  nodeInImage,
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
