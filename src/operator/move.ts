import type { NodeSpec, NodeTemplateSpec } from "../api/v1alpha1/node.ts";
import { type ChangeStep, interrupts, type NodeInputs, planChange } from "../protocol/config/change.ts";
import { abilitiesOf } from "../protocol/config/engines.ts";
import { selectRuntime } from "../protocol/config/select.ts";
import type { Snapshot } from "../protocol/config/snapshot.ts";
import { modelIdentities } from "../protocol/config/weights.ts";
import { hashOf } from "./hash.ts";
import { isResizable, sizeText } from "./size.ts";

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

/** One end of a change of a node: what its spec asks for, and what its network brings. */
export interface Standing {
  readonly spec: EditedSpec;
  /** Of the config that it runs. */
  readonly snapshot: Snapshot;
  readonly agentImage: string;
  /** Base URLs of the IO service, which only a new pod can change. */
  readonly endpoints: readonly string[];
}

/**
 * What a change of spec, config, agent and endpoints, in any mixture, does to a node.
 * @throws {ProtocolError} `no_runtime` where one of the configs has none for the node.
 */
export function stepsBetween(from: Standing, to: Standing): readonly ChangeStep[] {
  const resized = isResizable(from.spec.runtime.resources ?? {}, to.spec.runtime.resources ?? {});
  return planChange(
    standingInputs(from, resized),
    standingInputs(to, resized),
    abilitiesOf(to.spec.runtime.engine),
  );
}

function standingInputs({ spec, snapshot, agentImage, endpoints }: Standing, resizable: boolean): NodeInputs {
  const [wishes, under] = [wishesOf(spec, resizable), inputsOf(spec, snapshot)];
  return {
    ...under,
    args: wishes.args,
    agentImage,
    live: { spec: wishes.live, config: under.live },
    size: wishes.size,
    podTemplateHash: `${wishes.podTemplateHash} ${endpoints.join(" ")}`,
  };
}

/**
 * Whether jobs of a node are interrupted when its spec becomes another: not by what the agent applies live, by models where
 * the engine loads them while it serves, nor by CPU and memory that a running pod can be given. Should its host refuse them,
 * the node controller makes a new pod when it is the node's turn.
 */
export function editInterrupts(from: EditedSpec, to: EditedSpec): boolean {
  const resized = isResizable(from.runtime.resources ?? {}, to.runtime.resources ?? {});
  return interrupts(
    planChange(wishesOf(from, resized), wishesOf(to, resized), abilitiesOf(to.runtime.engine)),
  );
}

/** A node's spec, or a pool's template of it. */
type EditedSpec = NodeTemplateSpec & Partial<Omit<NodeSpec, keyof NodeTemplateSpec>>;

/** What a spec asks for by itself, whatever the config. */
function wishesOf(spec: EditedSpec, resizable: boolean): NodeInputs {
  // A child has fields of its own that the template has not.
  const { replicas: _replicas, identity: _identity, ...ours } = spec;
  const { runtime, models = [], participation, drain, unreachable, capacity, config, ...pod } = ours;
  const { engine, image, args = [], env = [], resources = {} } = runtime;
  return {
    runtimeImage: image ?? "",
    launcher: "shell",
    agentImage: "",
    engine,
    command: [],
    args,
    models,
    // A pin says where the node is to go; what that takes is another question.
    live: { participation, drain, unreachable, config },
    size: sizeText(resources),
    podTemplateHash: hashOf({
      ...pod,
      capacity: capacity ?? "Guaranteed",
      env,
      resources: resizable ? {} : resources,
    }),
  };
}

function inputsOf(
  { runtime, gpu, models }: Pick<EditedSpec, "runtime" | "gpu" | "models">,
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
