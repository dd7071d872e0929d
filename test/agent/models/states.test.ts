import { describe, expect, it } from "vitest";
import type { NodeConfig } from "../../../src/agent/config/plan.ts";
import type { EngineView } from "../../../src/agent/engine/watch.ts";
import type { Life } from "../../../src/agent/models/machine.ts";
import { modelStates, wantedModels } from "../../../src/agent/models/states.ts";
import type { Weights } from "../../../src/protocol/config/weights.ts";
import { TestNetwork } from "../fixture/network.ts";

const network = new TestNetwork();
const idle: EngineView = {
  health: "healthy",
  version: null,
  installed: [],
  active: [],
  faults: {},
  pulling: undefined,
};
const weights: Weights = { model: "m", digest: "d", files: [], sources: [], total: 100 };

describe("states of models", () => {
  const files = (life: Life, engine: Partial<EngineView> = {}, applied = true) =>
    modelStates([{ model: "m", weights, applied }], { ...idle, ...engine }, () => ({ life, bytes: 40 }))[0];
  const engines = (engine: Partial<EngineView>) =>
    modelStates(
      [{ model: "m", weights: undefined, applied: true }],
      { ...idle, ...engine },
      () => undefined,
    )[0];

  it.each<[string, ReturnType<typeof files>, object]>([
    [
      "on its way",
      files({ at: "downloading", bytes: 50, attempts: 0 }),
      { state: "downloading", bytes: 40, total: 100 },
    ],
    ["being hashed", files({ at: "verifying", bytes: 50, attempts: 0 }), { state: "verifying", bytes: 40 }],
    ["waiting", files({ at: "pending", reason: "why" }), { state: "pending", reason: "why" }],
    [
      "not to be had",
      files({ at: "failed", bytes: 1, attempts: 1, reason: "x".repeat(500) }),
      { state: "failed", reason: "x".repeat(160) },
    ],
    ["there, its engine starts", files({ at: "verified" }), { state: "inactive", bytes: 100 }],
    ["served", files({ at: "verified" }, { active: ["m"] }), { state: "active", bytes: 100 }],
    [
      "served before by another config only",
      files({ at: "verified" }, { active: ["m"] }, false),
      { state: "inactive" },
    ],
    [
      "not answering",
      files({ at: "verified" }, { faults: { m: "HTTP 500" } }),
      { state: "failed", reason: "HTTP 500" },
    ],
    ["not in its engine", engines({}), { state: "pending", bytes: 0, total: 0 }],
    [
      "pulled by its engine",
      engines({ pulling: { model: "m", bytes: 5, total: 9 } }),
      { state: "downloading", bytes: 5, total: 9 },
    ],
    ["in its engine, not loaded", engines({ installed: ["m"] }), { state: "inactive" }],
    ["served by its engine", engines({ installed: ["m"], active: ["m"] }), { state: "active" }],
    ["refused by its engine", engines({ faults: { m: "too big" } }), { state: "failed", reason: "too big" }],
  ])("%s", (_, state, expected) => {
    expect(state).toMatchObject({ model: "m", ...expected });
  });

  it("B10 a model called constructor has no fault by that name", () => {
    const wanted = { model: "constructor", weights: undefined, applied: true };
    expect(modelStates([wanted], idle, () => undefined)).toMatchObject([{ state: "pending" }]);
  });

  it("tells what runs and what is to come, the same weights once", () => {
    const of = (sha: string): NodeConfig => {
      const { digest, snapshot } = network.config({
        models: [
          { name: "m1", engines: [], files: [{ path: "w", sha256: sha.repeat(64), size: 1 }] },
          { name: "m2", engines: [] },
        ],
      });
      const [runtime] = snapshot.runtimes;
      if (!runtime) throw new Error("no runtime");
      return { digest, snapshot, selection: { runtime, models: ["m1", "m2"] }, args: [], gpuCount: null };
    };
    const [old, next] = [of("a"), of("b")];
    const shown = wantedModels(old, [old, next]).map(({ model, applied }) => `${model} ${applied}`);
    expect(shown).toEqual(["m1 true", "m2 true", "m1 false"]);
    expect(wantedModels(undefined, [next]).map(({ applied }) => applied)).toEqual([false, false]);
  });
});
