import { type NodeInputs, planChange } from "../../protocol/config/change.ts";
import { abilitiesOf } from "../../protocol/config/engines.ts";
import type { RuntimeWish, Selection } from "../../protocol/config/select.ts";
import type { Snapshot } from "../../protocol/config/snapshot.ts";
import { modelIdentities, type Weights, weightsOf } from "../../protocol/config/weights.ts";
import type { Desired } from "../../protocol/desired.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";

/** A verified config with what this node makes of it. */
export interface NodeConfig {
  readonly digest: ConfigDigest;
  readonly snapshot: Snapshot;
  readonly selection: Selection;
  readonly args: readonly string[];
  /** GPUs that the node's spec gives; null = no spec says (standalone). A change of it is a new pod. */
  readonly gpuCount: number | null;
}

/** The weights that must be on disk before the engine of this config is started. */
export function weightsIn({ snapshot, selection }: NodeConfig): readonly Weights[] {
  return weightsOf(snapshot, selection.models);
}

/**
 * How the node gets from what it runs to what is wanted.
 * - `start`: nothing runs yet.
 * - `live`: the engine is left alone.
 * - `restart`: drain, then the launcher starts the engine with the new command line.
 * - `await-stop`: the operator stops the container; the new command line is written after that drain.
 * - `prepare`: no container runs that would have to be stopped for it; the one that begins next begins with it.
 */
export type ConfigStep =
  | { readonly do: "nothing" }
  | { readonly do: "start" | "live" | "restart" | "await-stop" | "prepare"; readonly reason: string };

/** Stops after which the runtime's container begins anew, so the engine must not be restarted on top. */
const stopsRuntime: ReadonlySet<Desired["plannedStop"]> = new Set([
  "runtime-image",
  "recreate",
  "scale-down",
  "parking",
]);

/** Which runtime and models the node's spec asks for. Without a spec (standalone) the config's first engine. */
export function wishOf(desired: Desired | undefined, snapshot: Snapshot): RuntimeWish {
  if (!desired) return { engine: snapshot.runtimes[0]?.engine ?? "", models: [] };
  return {
    engine: desired.engine,
    gpuProduct: desired.gpuProduct ?? undefined,
    image: desired.image ?? undefined,
    models: desired.models,
  };
}

/** The agent's share of what decides how a node runs. What only the operator sees is equal on both sides. */
export function inputsOf({ snapshot, selection, args }: NodeConfig): NodeInputs {
  const { runtime, models } = selection;
  return {
    runtimeImage: runtime.image,
    launcher: runtime.launcher,
    agentImage: "",
    engine: runtime.engine,
    command: runtime.command,
    args,
    models: modelIdentities(snapshot, models),
    live: {
      participation: snapshot.participation,
      subclouds: snapshot.subclouds,
      limits: snapshot.limits,
    },
    size: "",
    podTemplateHash: "",
  };
}

/** Decides the next step. */
export function planStep(
  applied: NodeConfig | undefined,
  wanted: NodeConfig | undefined,
  plannedStop: Desired["plannedStop"],
): ConfigStep {
  if (!wanted) return { do: "nothing" };
  if (!applied) return { do: "start", reason: `first config ${wanted.digest}` };
  const steps = planChange(inputsOf(applied), inputsOf(wanted), abilitiesOf(wanted.selection.runtime.engine));
  const [first] = steps;
  if (!first) {
    if (applied.digest === wanted.digest) return { do: "nothing" };
    return { do: "live", reason: `config ${wanted.digest} asks for the same engine` };
  }
  switch (first.action) {
    case "live":
    case "resize":
    case "load-models":
      return { do: "live", reason: first.reason };
    case "restart-engine":
      return stopsRuntime.has(plannedStop)
        ? { do: "await-stop", reason: first.reason }
        : { do: "restart", reason: first.reason };
    case "patch-agent":
    case "patch-runtime":
    case "recreate":
      return { do: "await-stop", reason: first.reason };
  }
}

/**
 * True when `version` is at least `least`; both `major.minor.patch` with an optional suffix. A suffix (`-rc.1`) comes
 * before the version without it.
 */
export function versionAtLeast(version: string, least: string): boolean {
  const [have, want] = [partsOf(version), partsOf(least)];
  for (let at = 0; at < 3; at++) {
    const difference = (have.numbers[at] ?? 0) - (want.numbers[at] ?? 0);
    if (difference !== 0) return difference > 0;
  }
  if (have.suffix === want.suffix || have.suffix === "") return true;
  return want.suffix !== "" && have.suffix > want.suffix;
}

function partsOf(version: string): { numbers: number[]; suffix: string } {
  const [core = "", ...suffix] = version.replace(/^v/, "").split("+")[0]?.split("-") ?? [];
  return { numbers: core.split(".").map((part) => Number.parseInt(part, 10) || 0), suffix: suffix.join("-") };
}
