import type { NodeSpec } from "../api/v1alpha1/node.ts";
import { interrupts, type NodeInputs, planChange } from "../protocol/config/change.ts";
import { abilitiesOf } from "../protocol/config/engines.ts";
import { selectRuntime } from "../protocol/config/select.ts";
import type { Snapshot } from "../protocol/config/snapshot.ts";
import { modelIdentities } from "../protocol/config/weights.ts";

/**
 * Whether jobs of a node are interrupted when it moves from one config to another, its own spec unchanged. True also
 * where it cannot be told: a config that is not held, or that has no runtime for the node.
 */
export function moveInterrupts(
  spec: Pick<NodeSpec, "runtime" | "gpu" | "models">,
  from: Snapshot | undefined,
  to: Snapshot | undefined,
): boolean {
  if (!from || !to) return true;
  try {
    return interrupts(planChange(inputsOf(spec, from), inputsOf(spec, to), abilitiesOf(spec.runtime.engine)));
  } catch {
    return true;
  }
}

function inputsOf(
  { runtime, gpu, models }: Pick<NodeSpec, "runtime" | "gpu" | "models">,
  snapshot: Snapshot,
): NodeInputs {
  const wish = {
    engine: runtime.engine,
    gpuProduct: gpu.product,
    image: runtime.image,
    models: models ?? [],
  };
  const selection = selectRuntime(snapshot, wish);
  return {
    runtimeImage: selection.runtime.image,
    launcher: selection.runtime.launcher,
    agentImage: "",
    engine: selection.runtime.engine,
    command: selection.runtime.command,
    args: [],
    models: modelIdentities(snapshot, selection.models),
    live: {
      limits: snapshot.limits,
      participation: snapshot.participation,
      subclouds: snapshot.subclouds,
    },
    size: "",
    podTemplateHash: "",
  };
}
