import { describe, expect, it } from "vitest";
import { type NodeConfig, planStep, versionAtLeast, wishOf } from "../../../src/agent/config/plan.ts";
import { selectRuntime } from "../../../src/protocol/config/select.ts";
import type { Desired } from "../../../src/protocol/desired.ts";
import type { Snapshot } from "../../../src/protocol/config/snapshot.ts";
import { desiredOf, TestNetwork } from "../fixture/network.ts";

const network = new TestNetwork();

function nodeConfig(over: Partial<Snapshot> = {}, args: readonly string[] = []): NodeConfig {
  const { digest, snapshot } = network.config(over);
  return {
    digest,
    snapshot,
    selection: selectRuntime(snapshot, { engine: "test", models: [] }),
    args,
    gpuCount: 1,
  };
}

const runtimes = (over: Partial<Snapshot["runtimes"][0]>) =>
  network.config().snapshot.runtimes.map((entry) => ({ ...entry, ...over }));
const otherImage = { runtimes: runtimes({ image: `registry.example/engine@sha256:${"2".repeat(64)}` }) };

describe("planStep", () => {
  const first = nodeConfig();
  const step = (to: NodeConfig | undefined, plannedStop: Desired["plannedStop"] = null, from = first) =>
    planStep(from, to, plannedStop).do;

  it.each([
    ["nothing wanted", undefined, null, "nothing"],
    ["the same", first, null, "nothing"],
    ["other limits", nodeConfig({ limits: { max_jobs: 9, max_output_bytes: 9 } }), null, "live"],
    ["another version of the same", nodeConfig({ version: "2" }), null, "live"],
    ["another model", nodeConfig({ models: [{ name: "m2", engines: [] }] }), null, "restart"],
    ["another command", nodeConfig({ runtimes: runtimes({ command: ["/other"] }) }), null, "restart"],
    ["another argument", nodeConfig({}, ["--x"]), null, "restart"],
    ["another argument before the pod goes", nodeConfig({}, ["--x"]), "recreate", "await-stop"],
    ["another argument before the agent goes", nodeConfig({}, ["--x"]), "agent-image", "restart"],
    ["another image", nodeConfig(otherImage), null, "await-stop"],
    ["another image and argument", nodeConfig(otherImage, ["--x"]), "runtime-image", "await-stop"],
  ] as const)("%s", (_, to, plannedStop, expected) => {
    expect(step(to, plannedStop)).toBe(expected);
  });

  it("starts what nothing runs before", () => {
    expect(planStep(undefined, first, null).do).toBe("start");
  });

  it("loads models live where the engine can", () => {
    const ollama = (model: string) => {
      const { digest, snapshot } = network.config({
        runtimes: runtimes({ engine: "ollama" }),
        models: [{ name: model, engines: [] }],
      });
      const selection = selectRuntime(snapshot, { engine: "ollama", models: [] });
      return { digest, snapshot, selection, args: [], gpuCount: 1 };
    };
    expect(planStep(ollama("m1"), ollama("m2"), null).do).toBe("live");
  });
});

describe("wishOf", () => {
  it("is the spec's, or the config's first engine where there is no spec", () => {
    const { snapshot } = network.config();
    expect(wishOf(desiredOf({ gpuProduct: "A100", models: ["m1"] }), snapshot)).toMatchObject({
      engine: "test",
      gpuProduct: "A100",
      image: undefined,
      models: ["m1"],
    });
    expect(wishOf(undefined, snapshot)).toEqual({ engine: "test", models: [] });
  });
});

describe("versionAtLeast", () => {
  it.each([
    ["1.2.3", "1.2.3", true],
    ["1.2.3", "1.2.4", false],
    ["1.10.0", "1.9.9", true],
    ["v2.0.0", "1.99.99", true],
    ["1.0.0-rc.1", "1.0.0", false],
    ["1.0.0", "1.0.0-rc.1", true],
    ["0.1.0+build", "0.1.0", true],
    ["1", "1.0.1", false],
  ])("%s ≥ %s is %s", (version, least, expected) => {
    expect(versionAtLeast(version, least)).toBe(expected);
  });
});
