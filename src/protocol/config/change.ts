/**
 * The smallest action that takes a node from what runs to what is wanted. Operator and agent both ask this function,
 * so neither restarts what the other would leave alone.
 */

/** All that decides how a node runs. Equal inputs need no action. */
export interface NodeInputs {
  readonly runtimeImage: string;
  readonly launcher: "shell" | "none";
  readonly agentImage: string;
  readonly engine: string;
  /** Engine's command line without models. */
  readonly command: readonly string[];
  readonly args: readonly string[];
  /** Served models, in order. */
  readonly models: readonly string[];
  /** What the agent applies live: participation, subclouds, limits, drain timeouts. */
  readonly live: Readonly<Record<string, unknown>>;
  /** CPU and memory of the runtime as one text, where a running pod can be given another size; else equal on both sides. */
  readonly size: string;
  /** Hash of everything that only a new pod can change: env, GPU, volumes, scheduling. */
  readonly podTemplateHash: string;
}

/** What an engine can take without a restart. */
export interface EngineAbilities {
  /** Loads and unloads models while it serves (Ollama), or needs a restart (vLLM). */
  readonly modelsLive: boolean;
}

/** In order of cost. `resize` = CPU and memory changed in the running pod, which goes on; `recreate` = drain, delete, create; `patch-*` = drain, image patched in the same pod. */
export const changeActions = [
  "none",
  "live",
  "resize",
  "load-models",
  "restart-engine",
  "patch-agent",
  "patch-runtime",
  "recreate",
] as const;
export type ChangeAction = (typeof changeActions)[number];

/** One step that a change needs, with the reason for people. */
export interface ChangeStep {
  readonly action: Exclude<ChangeAction, "none">;
  readonly reason: string;
}

/** True when the steps interrupt jobs, so that they need the budget and a drain. */
export function interrupts(steps: readonly ChangeStep[]): boolean {
  return steps.some(({ action }) => !["live", "resize", "load-models"].includes(action));
}

/**
 * Steps from `from` to `to`, in the order in which they are to be done. One that includes a later one stands alone: a
 * new pod has the new images, a new runtime container has the new arguments. Runtime before agent, never in one
 * PATCH: the kubelet stops containers that change together in random order.
 */
export function planChange(
  from: NodeInputs,
  to: NodeInputs,
  abilities: EngineAbilities,
): readonly ChangeStep[] {
  if (from.podTemplateHash !== to.podTemplateHash) {
    return [
      { action: "recreate", reason: "env, GPUs, volumes or scheduling changed: only a new pod has them" },
    ];
  }
  if (from.launcher !== to.launcher || from.engine !== to.engine) {
    return [{ action: "recreate", reason: "the engine or the way it is started changed" }];
  }
  const steps: ChangeStep[] = [];
  const argumentsChanged = !sameList(from.args, to.args) || !sameList(from.command, to.command);
  const modelsChanged = !sameList(from.models, to.models);
  if (from.runtimeImage !== to.runtimeImage) {
    steps.push({
      action: "patch-runtime",
      reason: `runtime image ${from.runtimeImage} → ${to.runtimeImage}`,
    });
  } else if (argumentsChanged || (modelsChanged && !abilities.modelsLive)) {
    const what = argumentsChanged ? "arguments" : "models";
    if (to.launcher === "none") {
      return [
        { action: "recreate", reason: `${what} changed and the engine is the container's first process` },
      ];
    }
    steps.push({
      action: "restart-engine",
      reason: `${what} changed and the engine takes them only at start`,
    });
  } else if (modelsChanged) {
    steps.push({ action: "load-models", reason: "models changed and the engine loads them while it serves" });
  }
  if (from.agentImage !== to.agentImage) {
    steps.push({ action: "patch-agent", reason: `agent image ${from.agentImage} → ${to.agentImage}` });
  }
  if (steps.length === 0 && JSON.stringify(from.live) !== JSON.stringify(to.live)) {
    steps.push({ action: "live", reason: "participation, subclouds or limits changed" });
  }
  if (from.size !== to.size) steps.push({ action: "resize", reason: `size: ${from.size} → ${to.size}` });
  return steps;
}

function sameList(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((item, index) => item === b[index]);
}
