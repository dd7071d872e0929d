import { describe, expect, test } from "vitest";
import type { Snapshot } from "../../../src/protocol/config/snapshot.ts";
import { maxDifferences, snapshotDifference } from "../../../src/protocol/config/difference.ts";
import { makeSnapshot } from "./difference-fixture.ts";

const base = makeSnapshot();

describe("what changes from one config to another", () => {
  test("nothing changes", () => expect(snapshotDifference(base, makeSnapshot())).toEqual([]));

  const [vllm] = base.runtimes;
  if (!vllm) throw new Error("the fixture has a runtime");
  const rows = [
    [
      "another image",
      { runtimes: [{ ...vllm, image: `r/vllm@sha256:${"2".repeat(64)}` }] },
      [`runtime vllm: ${vllm.image} → r/vllm@sha256:${"2".repeat(64)}`],
    ],
    ["another command", { runtimes: [{ ...vllm, command: ["other"] }] }, ["runtime vllm: other command"]],
    [
      "another image and another command",
      { runtimes: [{ ...vllm, image: `r/vllm@sha256:${"2".repeat(64)}`, command: ["other"] }] },
      [`runtime vllm: ${vllm.image} → r/vllm@sha256:${"2".repeat(64)}`, "runtime vllm: other command"],
    ],
    [
      "an entry for one GPU",
      { runtimes: [vllm, { ...vllm, gpu_products: ["H200"] }] },
      [`runtime vllm on H200 added: ${vllm.image}`],
    ],
    ["models come and go", { models: [{ name: "b", engines: [] }] }, ["model b added", "model a removed"]],
    [
      "a model for other engines",
      { models: [{ name: "a", engines: ["x"] }] },
      ["model a: other engines or files"],
    ],
    [
      "limits, versions, participation, subclouds",
      {
        limits: { ...base.limits, max_jobs: 9 },
        min_agent_version: "2.0.0",
        participation: { testnet: true, mainnet: true },
        subclouds: ["eu"],
      },
      [
        "max_jobs 4 → 9",
        "min_agent_version 1.0.0 → 2.0.0",
        "participation mainnet false → true",
        "subcloud eu added",
      ],
    ],
  ] satisfies readonly (readonly [string, Partial<Snapshot>, readonly string[]])[];
  test.each(rows)("%s", (_name, changes, lines) => {
    expect(snapshotDifference(base, makeSnapshot(changes))).toEqual(lines);
  });

  test("a first config is told whole, and a long difference is cut", () => {
    expect(snapshotDifference(undefined, base)[0]).toBe(`runtime vllm added: ${vllm.image}`);
    const models = Array.from({ length: 200 }, (_, i) => ({ name: `m${i}`, engines: [] }));
    const lines = snapshotDifference(base, makeSnapshot({ models }));
    expect(lines).toHaveLength(maxDifferences);
    expect(lines.at(-1)).toBe(`and ${201 - (maxDifferences - 1)} more`);
  });
});
