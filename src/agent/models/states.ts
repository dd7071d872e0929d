import { type Weights, weightsOf } from "../../protocol/config/weights.ts";
import type { Report } from "../../protocol/messages.ts";
import type { NodeConfig } from "../config/plan.ts";
import type { EngineView } from "../engine/watch.ts";
import type { Pulling } from "../engine/pull.ts";
import type { WeightsView } from "./models.ts";

export type ModelState = NonNullable<Report["models"]["states"]>[number];

/** One model that the node is to have. */
export interface WantedModel {
  readonly model: string;
  /** Undefined: its engine alone knows its files. */
  readonly weights: Weights | undefined;
  /** The engine is to serve it now; false: it is for a config that comes next. */
  readonly applied: boolean;
}

/** Longest reason in a report: 256 of them must fit into a frame. */
const maxReason = 160;

/** The models of what runs, then those of what is to come that differ from them. */
export function wantedModels(
  applied: NodeConfig | undefined,
  coming: readonly NodeConfig[],
): readonly WantedModel[] {
  const wanted = new Map<string, WantedModel>();
  for (const config of applied ? [applied, ...coming] : coming) {
    const weights = weightsOf(config.snapshot, config.selection.models);
    for (const model of config.selection.models) {
      const own = weights.find((each) => each.model === model);
      const key = `${model} ${own?.digest ?? ""}`;
      if (!wanted.has(key)) wanted.set(key, { model, weights: own, applied: config === applied });
    }
  }
  return [...wanted.values()];
}

/** How far each wanted model is, as reports tell it. Pure. */
export function modelStates(
  wanted: readonly WantedModel[],
  engine: EngineView,
  weightsView: (weights: Weights) => WeightsView | undefined,
): ModelState[] {
  return wanted.slice(0, 256).map((each) => {
    const { model, weights } = each;
    const view = weights && weightsView(weights);
    const total = weights?.total ?? 0;
    const of = (state: ModelState["state"], bytes: number, reason?: string): ModelState => ({
      model,
      state,
      bytes: Math.min(bytes, total),
      total,
      ...(reason !== undefined && { reason: reason.slice(0, maxReason) }),
    });
    if (weights && view?.life.at !== "verified") {
      const { life, bytes } = view ?? { life: { at: "pending" as const }, bytes: 0 };
      return of(
        life.at === "verified" ? "inactive" : life.at,
        bytes,
        "reason" in life ? life.reason : undefined,
      );
    }
    if (!each.applied) return of(weights ? "inactive" : "pending", total, "of a config that is to come");
    if (engine.active.includes(model)) return of("active", total);
    if (engine.pulling?.model === model) return { model, state: "downloading", ...bytesOf(engine.pulling) };
    // A model may be called "constructor".
    const fault = Object.hasOwn(engine.faults, model) ? engine.faults[model] : undefined;
    if (fault !== undefined) return of("failed", total, fault);
    return of(weights || engine.installed.includes(model) ? "inactive" : "pending", total);
  });
}

/** The engine tells of parts as it comes to them. */
const bytesOf = ({ bytes, total }: Pulling) => ({ bytes: Math.min(bytes, total), total });
