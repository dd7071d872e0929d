import { messageOf } from "../../lib/errors.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import { selectRuntime } from "../../protocol/config/select.ts";
import type { Snapshot } from "../../protocol/config/snapshot.ts";
import type { Desired } from "../../protocol/desired.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { adapterOf } from "../engine/adapters.ts";
import { EngineError } from "../engine/argv.ts";
import { type NodeConfig, versionAtLeast, weightsIn, wishOf } from "./plan.ts";
import type { AppliedRecord } from "./store.ts";

/**
 * What a node makes of a verified snapshot that it may apply.
 * @throws {ProtocolError} `version`, `no_runtime`: this agent cannot run it, and the message says what would.
 */
export function evaluate(
  digest: ConfigDigest,
  snapshot: Snapshot,
  desired: Desired | undefined,
  agentVersion: string,
): NodeConfig {
  if (!versionAtLeast(agentVersion, snapshot.min_agent_version)) {
    throw new ProtocolError(
      "version",
      `config ${snapshot.version} needs agent ${snapshot.min_agent_version} or newer, this is ${agentVersion}: update the agent's image first`,
    );
  }
  const selection = selectRuntime(snapshot, wishOf(desired, snapshot));
  if (selection.runtime.launcher === "none") {
    throw new ProtocolError(
      "no_runtime",
      `config ${snapshot.version}: runtime ${selection.runtime.engine} has launcher none, which this agent does not serve`,
    );
  }
  const config: NodeConfig = {
    digest,
    snapshot,
    selection,
    args: desired?.args ?? [],
    gpuCount: desired?.gpuCount ?? null,
  };
  checkCommand(config);
  return config;
}

/** Renders it for show: a node must not drain for a command line that cannot be rendered. */
function checkCommand(config: NodeConfig): void {
  const { runtime, models } = config.selection;
  const modelPaths = Object.fromEntries(weightsIn(config).map(({ model }) => [model, "/"]));
  const { args, gpuCount, snapshot } = config;
  try {
    adapterOf(runtime.engine).start({
      command: runtime.command,
      args,
      models,
      modelPaths,
      gpuCount,
      port: 1,
    });
  } catch (thrown) {
    if (!(thrown instanceof EngineError)) throw thrown;
    throw new ProtocolError("no_runtime", `config ${snapshot.version}: ${messageOf(thrown)}`);
  }
}

/** What a node ran, by its record. @throws {ProtocolError} `no_runtime` when the snapshot has it no more. */
export function recorded(record: AppliedRecord, snapshot: Snapshot): NodeConfig {
  const selection = selectRuntime(snapshot, {
    engine: record.engine,
    image: record.image ?? undefined,
    gpuProduct: record.gpu_product ?? undefined,
    models: record.models,
  });
  return { digest: record.digest, snapshot, selection, args: record.args, gpuCount: record.gpu_count };
}

/** Record of what a node runs. @param starts of the runtime container with which it runs it. */
export function recordOf(config: NodeConfig, desired: Desired | undefined, starts: number): AppliedRecord {
  const wish = wishOf(desired, config.snapshot);
  return {
    digest: config.digest,
    args: [...config.args],
    engine: config.selection.runtime.engine,
    image: wish.image ?? null,
    gpu_product: wish.gpuProduct ?? null,
    gpu_count: config.gpuCount,
    models: [...wish.models],
    starts,
  };
}
