import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  changeActions,
  type ChangeAction,
  interrupts,
  type NodeInputs,
  planChange,
} from "../../../src/protocol/config/change.ts";
import { selectRuntime } from "../../../src/protocol/config/select.ts";
import { expectCode } from "../errors.ts";
import { makeSnapshot } from "../network.ts";

const image = (hex: string) => `registry.test/engine@sha256:${hex.repeat(64)}`;
const entry = (hex: string, gpuProducts: string[]) => ({
  engine: "vllm",
  image: image(hex),
  gpu_products: gpuProducts,
  launcher: "shell" as const,
  command: ["vllm"],
});
const snapshot = {
  ...makeSnapshot("testnet"),
  runtimes: [entry("a", []), entry("b", ["H100"]), entry("c", ["H100", "L40S"])],
  models: [
    { name: "m1", engines: [] },
    { name: "m2", engines: ["ollama"] },
    { name: "m3", engines: ["vllm"] },
  ],
};

describe("selectRuntime", () => {
  it.each([
    ["an unknown product takes the entry for any", { gpuProduct: undefined, image: undefined }, "a"],
    ["a product takes its own entry before the one for any", { gpuProduct: "H100", image: undefined }, "b"],
    ["a product without an entry takes the one for any", { gpuProduct: "T4", image: undefined }, "a"],
    ["the spec narrows to a listed digest", { gpuProduct: "H100", image: image("c") }, "c"],
    [
      "the spec may name another repository (a mirror) of the digest",
      { gpuProduct: "H100", image: `mirror.test/x@sha256:${"c".repeat(64)}` },
      "c",
    ],
  ])("%s", (_name, wish, hex) => {
    expect(selectRuntime(snapshot, { engine: "vllm", models: [], ...wish }).runtime.image).toBe(image(hex));
  });

  it("takes all models of the engine, or those of the spec that are approved", () => {
    expect(selectRuntime(snapshot, { engine: "vllm", models: [] }).models).toEqual(["m1", "m3"]);
    expect(selectRuntime(snapshot, { engine: "vllm", models: ["m3", "m2"] }).models).toEqual(["m3"]);
  });

  it("says what is missing", () => {
    expect(
      expectCode("no_runtime", () => selectRuntime(snapshot, { engine: "sglang", models: [] })).message,
    ).toContain("it has vllm");
    expectCode("no_runtime", () =>
      selectRuntime(snapshot, { engine: "vllm", models: [], image: image("d") }),
    );
    expectCode("no_runtime", () => selectRuntime(snapshot, { engine: "vllm", models: ["m2"] }));
  });
});

const base: NodeInputs = {
  runtimeImage: image("a"),
  launcher: "shell",
  agentImage: "agent@1",
  engine: "vllm",
  command: ["vllm"],
  args: [],
  models: ["m1"],
  live: { accept: true },
  size: "limits cpu 1",
  podTemplateHash: "h1",
};

describe("planChange: the smallest action wins", () => {
  const table: readonly [string, Partial<NodeInputs>, { modelsLive: boolean }, readonly ChangeAction[]][] = [
    ["nothing", {}, { modelsLive: false }, []],
    ["participation", { live: { accept: false } }, { modelsLive: false }, ["live"]],
    ["CPU and memory", { size: "limits cpu 2" }, { modelsLive: false }, ["resize"]],
    [
      "CPU and memory, and arguments: both, in the same pod",
      { size: "limits cpu 2", args: ["--x"] },
      { modelsLive: false },
      ["restart-engine", "resize"],
    ],
    ["models, engine loads them live", { models: ["m1", "m2"] }, { modelsLive: true }, ["load-models"]],
    ["models, engine cannot", { models: ["m1", "m2"] }, { modelsLive: false }, ["restart-engine"]],
    ["order of models, engine cannot", { models: [] }, { modelsLive: false }, ["restart-engine"]],
    ["arguments", { args: ["--x"] }, { modelsLive: true }, ["restart-engine"]],
    [
      "arguments, image without a shell",
      { args: ["--x"], launcher: "none" },
      { modelsLive: false },
      ["recreate"],
    ],
    ["runtime image", { runtimeImage: image("b") }, { modelsLive: false }, ["patch-runtime"]],
    [
      "runtime image and arguments",
      { runtimeImage: image("b"), args: ["--x"] },
      { modelsLive: false },
      ["patch-runtime"],
    ],
    ["agent image", { agentImage: "agent@2" }, { modelsLive: false }, ["patch-agent"]],
    [
      "both images: runtime first, never together",
      { runtimeImage: image("b"), agentImage: "agent@2" },
      { modelsLive: false },
      ["patch-runtime", "patch-agent"],
    ],
    [
      "env, GPUs, volumes or scheduling",
      { podTemplateHash: "h2", runtimeImage: image("b") },
      { modelsLive: false },
      ["recreate"],
    ],
    ["another engine", { engine: "ollama" }, { modelsLive: false }, ["recreate"]],
  ];
  it.each(table)("%s", (_name, change, abilities, expected) => {
    const from = change.launcher ? { ...base, launcher: change.launcher } : base;
    const steps = planChange(from, { ...base, ...change }, abilities);
    expect(steps.map(({ action }) => action)).toEqual(expected);
    expect(steps.every(({ reason }) => reason.length > 0)).toBe(true);
    expect(interrupts(steps)).toBe(
      expected.some((action) => changeActions.indexOf(action) > changeActions.indexOf("load-models")),
    );
  });

  it("asks for nothing exactly when nothing differs, and never for two steps where one includes the other", () => {
    const list = fc.subarray(["x", "y"]);
    const inputs: fc.Arbitrary<NodeInputs> = fc.record({
      runtimeImage: fc.constantFrom(image("a"), image("b")),
      launcher: fc.constantFrom("shell", "none"),
      agentImage: fc.constantFrom("agent@1", "agent@2"),
      engine: fc.constantFrom("vllm", "ollama"),
      command: list,
      args: list,
      models: list,
      live: fc.record({ accept: fc.boolean() }),
      size: fc.constantFrom("1", "2"),
      podTemplateHash: fc.constantFrom("h1", "h2"),
    });
    fc.assert(
      fc.property(inputs, inputs, fc.boolean(), (from, to, modelsLive) => {
        const actions = planChange(from, to, { modelsLive }).map(({ action }) => action);
        expect(actions.length === 0).toBe(JSON.stringify(from) === JSON.stringify(to));
        expect(new Set(actions).size).toBe(actions.length);
        if (actions.includes("recreate")) expect(actions).toEqual(["recreate"]);
      }),
      { numRuns: 2000 },
    );
  });
});
