import { describe, expect, test } from "vitest";
import { nodeTemplateSpec } from "../../src/api/v1alpha1/node.ts";
import { moveInterrupts } from "../../src/operator/move.ts";
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
