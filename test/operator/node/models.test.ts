import { describe, expect, it } from "vitest";
import { moveInterrupts } from "../../../src/operator/move.ts";
import { asksFor, wishOf } from "../../../src/operator/node/desired.ts";
import { NodeMemories } from "../../../src/operator/node/memory.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { configOf, digestOfSnapshot, networkOf, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const withWeights = (version: string, sha: string, sources: readonly string[] = []) =>
  snapshotOf(version, {
    runtimes: snapshotOf("v1").runtimes,
    models: [
      {
        name: "model-a",
        engines: [],
        files: [{ path: "w.bin", sha256: sha.repeat(64), size: 1 }],
        sources: [...sources],
      },
    ],
  });

const mirrors = [{ source: "https://hub.example", mirrors: ["http://near:8080"] }];

describe("mirrors of the network", () => {
  const mirrored = () => {
    const network = networkOf();
    return { ...network, spec: { ...network.spec, models: { mirrors } } };
  };

  it("are told to the agent, and are no word at all where there are none", () => {
    const world = new World();
    world.untilServing();
    expect(world.desired).not.toHaveProperty("mirrors");
    world.network = mirrored();
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired).toMatchObject({ mirrors, plannedStop: null });
    world.agentAnswers();
    expect(world.reconcile()).toEqual([]);
    world.network = networkOf();
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired).not.toHaveProperty("mirrors");
  });

  it("are applied when the agent has read them, and not before: the node's own spec is the same", () => {
    const world = new World();
    world.untilServing();
    world.network = mirrored();
    for (let look = 0; look < 3; look++) {
      world.reconcile();
      expect(world.condition("ConfigApplied")).toBe("False Waiting");
    }
    world.agentAnswers();
    world.reconcile();
    expect(world.condition("ConfigApplied")).toBe("True Applied");
  });

  it("are asked for after a restart of the operator, when nobody has asked the agent yet", () => {
    const world = new World();
    world.untilServing();
    const { agent } = world;
    world.agent = { status: undefined, silentMs: 0, problem: "" };
    world.memories = new NodeMemories(new FakeClock());
    expect(world.reconcile()).toEqual([]);
    world.network = mirrored();
    world.reconcile();
    expect(world.reconcile()).toEqual(["ask-agent"]);
    world.agent = agent;
    world.reconcile();
    expect(world.condition("ConfigApplied")).toBe("False Waiting");
    world.agentAnswers();
    world.reconcile();
    expect(world.condition("ConfigApplied")).toBe("True Applied");
  });

  it("stay as they are while the network cannot be read", () => {
    const world = new World();
    world.network = mirrored();
    world.untilServing();
    const { desired } = world;
    const wish = wishOf(
      { node: world.node, network: undefined, pod: { desired: { ok: true, desired } } },
      { stage: null, target: desired.target, plannedStop: null },
    );
    expect(asksFor(desired, wish)).toBe(true);
  });
});

describe("weights of a model", () => {
  it("of another version interrupt the jobs, those of another place do not", () => {
    const { spec } = nodeOf();
    const [old, next] = [withWeights("1", "a"), withWeights("2", "b")];
    expect(moveInterrupts(spec, old, next)).toBe(true);
    expect(moveInterrupts(spec, old, withWeights("2", "a", ["https://elsewhere.example"]))).toBe(false);
  });

  it("that are on their way are what the node waits for, in one message however many bytes there are", () => {
    const config = configOf([withWeights("1", "a")]);
    const world = new World(nodeOf(), config);
    world.reconcile();
    const target = digestOfSnapshot(withWeights("1", "a"));
    expect(world.desired.target).toBe(target);
    world.agentAnswers({ healthy: false });
    const status = world.agent.status;
    if (!status) throw new Error("the agent has not answered");
    const messages = [10, 20].map((bytes) => {
      const states = [{ model: "model-a", state: "downloading" as const, bytes, total: 100 }];
      const report = { ...status.report, models: { installed: [], active: [], states } };
      world.agent = { ...world.agent, status: { ...status, report } };
      world.reconcile();
      return world.node.status?.conditions?.find(({ type }) => type === "ConfigApplied")?.message;
    });
    expect(messages[0]).toMatch(/fetches the weights of model model-a/);
    expect(messages[1]).toBe(messages[0]);
  });
});
