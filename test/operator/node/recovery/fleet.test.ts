import { describe, expect, it } from "vitest";
import { rfc3339 } from "../../../../src/api/v1alpha1/conditions.ts";
import type { ResultityNode } from "../../../../src/api/v1alpha1/node.ts";
import { Store } from "../../../../src/kube/store.ts";
import type { Pod } from "../../../../src/kube/resources.ts";
import { fleetHealth } from "../../../../src/operator/node/recovery/fleet.ts";
import { RecoveryMemory } from "../../../../src/operator/node/recovery/memory.ts";
import { FakeClock } from "../../../lib/fake-clock.ts";
import { nodeOf } from "../world.ts";

const now = Date.UTC(2026, 0, 1);
const ready = {
  type: "Ready",
  status: "True",
  reason: "AllWell",
  message: "",
  observedGeneration: 1,
  lastTransitionTime: rfc3339(now),
} as const;
const step = (minutesAgo: number, cause = "EngineFailed") => ({
  step: "NewPod" as const,
  cause,
  time: rfc3339(now - minutesAgo * 60_000),
  podUid: "p",
});

type Status = NonNullable<ResultityNode["status"]>;

/** Nodes of one network by what their status says; the first is the one that asks. */
function fleet(statuses: readonly Status[], second: Partial<ResultityNode["spec"]> = {}) {
  const store = new Store<ResultityNode>();
  store.addIndex("network", ({ metadata }) => [`${metadata.namespace}/testnet`]);
  const made = statuses.map((status, at) => ({ ...nodeOf(at === 1 ? second : {}, `n-${at}`), status }));
  store.replace(made);
  const clock = new FakeClock();
  const memory = new RecoveryMemory(clock);
  const [first] = made;
  if (!first) throw new Error("no node asks");
  const caches = { nodes: { store }, pods: { store: new Store<Pod>() } };
  return { clock, memory, health: () => fleetHealth(caches, memory, first, "d1", now) };
}

describe("how the neighbours fare", () => {
  const failing: Status = { recovery: { cause: "EngineFailed", steps: [step(1)] } };

  it("counts those that recovery is at work on, and those that are parked not at all", () => {
    expect(fleet([failing, failing, {}]).health().network).toEqual({ nodes: 3, failing: 2 });
    expect(fleet([failing, failing, {}], { replicas: 0 }).health().network).toEqual({ nodes: 2, failing: 1 });
  });

  it("counts the steps of others, lately and for themselves, as written or as just taken", () => {
    expect(fleet([failing, failing, { recovery: { steps: [step(11)] } }]).health().recentSteps).toBe(1);
    expect(fleet([failing, { recovery: { steps: [step(1, "PodFailed")] } }]).health().recentSteps).toBe(0);
    const { memory, health, clock } = fleet([failing, {}]);
    memory.stepTaken("inference/testnet", "inference/n-0");
    expect(health().recentSteps).toBe(0);
    memory.stepTaken("inference/testnet", "inference/n-1");
    expect(health().recentSteps).toBe(1);
    clock.advance(11 * 60_000);
    expect(health().recentSteps).toBe(0);
  });

  it("knows who serves the same config and who another", () => {
    const serves = (applied: string): Status => ({ config: { applied }, conditions: [ready] });
    expect(fleet([failing, serves("d1")]).health()).toMatchObject({ servesSame: true, servesOther: false });
    expect(fleet([failing, serves("d2")]).health()).toMatchObject({ servesSame: false, servesOther: true });
    expect(fleet([failing, { config: { applied: "d1" } }]).health()).toMatchObject({ servesSame: false });
  });
});
