import { describe, expect, test } from "vitest";
import { nodeTemplateSpec } from "../../src/api/v1alpha1/node.ts";
import { editInterrupts, moveInterrupts } from "../../src/operator/move.ts";
import type { Snapshot } from "../../src/protocol/config/snapshot.ts";
import { makeSnapshot } from "../protocol/config/difference-fixture.ts";

const specOf = (engine: "vllm" | "ollama") =>
  nodeTemplateSpec.parse({ networkRef: { name: "testnet" }, runtime: { engine } });

const [runtime] = makeSnapshot().runtimes;
if (!runtime) throw new Error("the fixture has a runtime");
const ofEngine = (engine: string, changes: Partial<Snapshot> = {}) =>
  makeSnapshot({ runtimes: [{ ...runtime, engine }], ...changes });

describe("whether a move interrupts jobs", () => {
  const rows = [
    ["limits", "vllm", { limits: { max_jobs: 8, max_output_bytes: 1024 } }, false],
    ["participation and subclouds", "vllm", { subclouds: ["eu"] }, false],
    ["models, which vLLM takes at its start", "vllm", { models: [{ name: "b", engines: [] }] }, true],
    ["models, which Ollama loads while it serves", "ollama", { models: [{ name: "b", engines: [] }] }, false],
    [
      "a model for another engine",
      "vllm",
      {
        models: [
          { name: "a", engines: [] },
          { name: "o", engines: ["ollama"] },
        ],
      },
      false,
    ],
  ] as const;
  test.each(rows)("%s", (_name, engine, changes, interrupts) => {
    const to = ofEngine(engine, changes as Partial<Snapshot>);
    expect(moveInterrupts(specOf(engine), ofEngine(engine), to)).toBe(interrupts);
  });

  test("another image, another command, no runtime any more, and what is not known, do", () => {
    const from = ofEngine("vllm");
    const image = `r/vllm@sha256:${"2".repeat(64)}`;
    const others = [
      makeSnapshot({ runtimes: [{ ...runtime, image }] }),
      makeSnapshot({ runtimes: [{ ...runtime, command: ["serve", "--fast"] }] }),
      ofEngine("ollama"),
      undefined,
    ];
    for (const to of others) expect(moveInterrupts(specOf("vllm"), from, to)).toBe(true);
    expect(moveInterrupts(specOf("vllm"), undefined, from)).toBe(true);
  });
});

describe("whether an edit of the spec interrupts jobs", () => {
  const base = nodeTemplateSpec.parse({
    networkRef: { name: "testnet" },
    runtime: { engine: "vllm", args: ["--a"], resources: { limits: { cpu: "2", memory: "4Gi" } } },
  });
  type Spec = typeof base;
  const runtime = (change: Partial<Spec["runtime"]>): Spec => ({
    ...base,
    runtime: { ...base.runtime, ...change },
  });
  const ollama = (models: string[]): Spec => ({ ...runtime({ engine: "ollama" }), models });
  const rows: readonly [string, Spec, Spec, boolean][] = [
    ["more CPU and memory", base, runtime({ resources: { limits: { cpu: "4", memory: "8Gi" } } }), false],
    ["no memory limit any more", base, runtime({ resources: { limits: { cpu: "4" } } }), true],
    ["participation", base, { ...base, participation: { accept: false } }, false],
    ["drain timeouts", base, { ...base, drain: { timeoutSeconds: 1, evictionTimeoutSeconds: 1 } }, false],
    ["models of vLLM", base, { ...base, models: ["a"] }, true],
    ["models of Ollama", ollama(["a"]), ollama(["a", "b"]), false],
    ["arguments", base, runtime({ args: ["--b"] }), true],
    ["environment", base, runtime({ env: [{ name: "A", value: "1" }] }), true],
    ["another engine", base, runtime({ engine: "sglang" }), true],
    ["GPUs", base, { ...base, gpu: { ...base.gpu, count: 2 } }, true],
    ["a cache for the weights", base, { ...base, modelCache: { emptyDir: {} } }, true],
    ["labels of the pod", base, { ...base, podOverrides: { labels: { a: "b" } } }, true],
  ];
  test.each(rows)("%s", (_name, from, to, interrupts) => {
    expect(editInterrupts(from, to)).toBe(interrupts);
    expect(editInterrupts({ ...from, replicas: 1, identity: { secretName: "x" } }, to)).toBe(interrupts);
  });
});
