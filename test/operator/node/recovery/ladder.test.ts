import { describe, expect, it } from "vitest";
import { rfc3339 } from "../../../../src/api/v1alpha1/conditions.ts";
import type { Recovery, RecoveryStep } from "../../../../src/api/v1alpha1/node.ts";
import {
  climb,
  type FleetHealth,
  intended,
  recent,
  type Rung,
  stepsPerWindow,
  windowMs,
} from "../../../../src/operator/node/recovery/ladder.ts";
import type { Trouble } from "../../../../src/operator/node/recovery/trouble.ts";

const minute = 60_000;
const began = Date.UTC(2026, 0, 1);

const engine: Trouble = {
  cause: "EngineFailed",
  first: "NewPod",
  since: began,
  patienceMs: 5 * minute,
  byConfig: true,
};
const gpu: Trouble = { ...engine, cause: "GPUFault", patienceMs: 30_000, byConfig: false };
const pull: Trouble = { ...engine, cause: "ImagePullFailed", first: "OtherHost", patienceMs: 10 * minute };
const nowhere: Trouble = { ...engine, cause: "Unschedulable", first: "AnyHost", patienceMs: 2 * minute };

const alone: FleetHealth = {
  pool: { nodes: 1, failing: 1 },
  network: { nodes: 1, failing: 1 },
  recentSteps: 0,
  servesSame: false,
  servesOther: false,
};
const fleet = (nodes: number, failing: number, more: Partial<FleetHealth> = {}): FleetHealth => ({
  ...alone,
  pool: { nodes, failing },
  network: { nodes, failing },
  ...more,
});
const step = (
  kind: RecoveryStep,
  atMinute: number,
  cause = "EngineFailed",
): NonNullable<Recovery["steps"]>[number] => ({
  step: kind,
  cause,
  time: rfc3339(began + atMinute * minute),
  podUid: `pod-${atMinute}`,
  host: "host-1",
});
const rung = (atMinute: number, changes: Partial<Rung> = {}): Rung => ({
  now: began + atMinute * minute,
  trouble: engine,
  steps: [],
  podUid: "pod-now",
  host: "host-1",
  fleet: alone,
  canRun: true,
  ...changes,
});

/** `take NewPod`, `NewPod at 5`, `held SharedCause`, or `waits`. */
function told(asked: Rung): string {
  const { take, next, held } = climb(asked);
  if (take) return `take ${take}`;
  const when = next ? `${next.step} at ${(next.at - began) / minute}` : "";
  return [held && `held ${held}`, when].filter(Boolean).join(", ") || "waits";
}

describe("what is done about a node that does not come back", () => {
  const two = [step("NewPod", 5), step("OtherHost", 10)];
  const four = [...two, step("OtherHost", 25), step("OtherHost", 70)];
  it.each<[string, string, Rung]>([
    ["an engine is given five minutes", "NewPod at 5", rung(1)],
    ["then its pod is replaced", "take NewPod", rung(5)],
    ["then it gets another host, five minutes later", "OtherHost at 10", rung(6, { steps: two.slice(0, 1) })],
    ["when these are over", "take OtherHost", rung(10, { steps: two.slice(0, 1) })],
    ["then another, a quarter of an hour later", "OtherHost at 25", rung(24, { steps: two })],
    [
      "then another, three quarters later",
      "OtherHost at 70",
      rung(60, { steps: [...two, step("OtherHost", 25)] }),
    ],
    [
      "four do not help: none for six hours from the first",
      "held BudgetSpent, OtherHost at 365",
      rung(300, { steps: four }),
    ],
    ["then one more", "take OtherHost", rung(366, { steps: recent({ steps: four }, began + 366 * minute) })],
    ["a dead GPU is given half a minute", "NewPod at 0.5", rung(0, { trouble: gpu })],
    ["a new pod gets another device", "take NewPod", rung(1, { trouble: gpu })],
    [
      "a step for something else does not count as tried",
      "take NewPod",
      rung(20, { trouble: gpu, steps: two.slice(0, 1) }),
    ],
    ["but makes it wait", "NewPod at 10", rung(7, { trouble: gpu, steps: two.slice(0, 1) })],
    [
      "an image that does not come is tried on another host at once",
      "OtherHost at 10",
      rung(9, { trouble: pull }),
    ],
    ["after ten minutes", "take OtherHost", rung(10, { trouble: pull })],
    ["nowhere to go: any host again", "take AnyHost", rung(12, { trouble: nowhere, steps: two })],
    ["even when the budget is spent", "take AnyHost", rung(80, { trouble: nowhere, steps: four })],
    [
      "hosts that were lost do not count",
      "take NewPod",
      rung(5, { steps: [step("LostHost", 1, "HostLost")] }),
    ],
    [
      "nor do pods that ended by themselves",
      "take NewPod",
      rung(5, { steps: [step("NewPod", 4, "PodFailed")] }),
    ],
    ["nothing before the neighbours are known", "waits", rung(5, { fleet: undefined })],
    ["nothing where no pod could be made", "held NothingToRun", rung(5, { canRun: false })],
    ["two of two may be chance", "take NewPod", rung(5, { fleet: fleet(2, 2) })],
    ["three of three are not", "held SharedCause", rung(5, { fleet: fleet(3, 3) })],
    ["three of fifteen may be", "take NewPod", rung(5, { fleet: fleet(15, 3) })],
    ["four of fifteen are not", "held SharedCause", rung(5, { fleet: fleet(15, 4) })],
    [
      "a pool that fails as a whole in a network that is well",
      "held SharedCause",
      rung(5, { fleet: { ...fleet(8, 8), network: { nodes: 100, failing: 8 } } }),
    ],
    [
      "pools of one that all fail",
      "held SharedCause",
      rung(5, { fleet: { ...alone, network: { nodes: 9, failing: 9 } } }),
    ],
    ["dead GPUs all over: a driver", "held SharedCause", rung(5, { trouble: gpu, fleet: fleet(10, 10) })],
    [
      "a config that none serves, while others serve another",
      "held ConfigUnproven",
      rung(5, { fleet: fleet(9, 1, { servesOther: true }) }),
    ],
    [
      "one that others serve too",
      "take NewPod",
      rung(5, { fleet: fleet(9, 1, { servesOther: true, servesSame: true }) }),
    ],
    [
      "a dead GPU has nothing to do with the config",
      "take NewPod",
      rung(5, { trouble: gpu, fleet: fleet(9, 1, { servesOther: true }) }),
    ],
    ["one at a time in a small network", "waits", rung(5, { fleet: fleet(9, 2, { recentSteps: 1 }) })],
    [
      "five of a hundred in ten minutes",
      "take NewPod",
      rung(5, { fleet: fleet(100, 9, { recentSteps: 4 }) }),
    ],
    ["and no more", "waits", rung(5, { fleet: fleet(100, 9, { recentSteps: 5 }) })],
  ])("%s: %s", (_, expected, asked) => expect(told(asked)).toBe(expected));

  it("no node has more than its budget in any six hours, whatever it is asked when", () => {
    let steps: NonNullable<Recovery["steps"]> = [];
    const taken: number[] = [];
    for (let at = 0; at < 48 * 60; at++) {
      const now = began + at * minute;
      steps = recent({ steps }, now);
      const { take } = climb(rung(at, { steps }));
      if (!take) continue;
      taken.push(at);
      steps = [...steps, step(take, at)];
    }
    expect(taken.length).toBeGreaterThan(8);
    for (const at of taken)
      expect(
        taken.filter((other) => other >= at && other < at + windowMs / minute).length,
      ).toBeLessThanOrEqual(stepsPerWindow);
  });

  it("a step in the record is for its pod and its time alone", () => {
    const steps = [step("OtherHost", 5)];
    expect(intended(steps, "pod-5", began + 6 * minute)).toBe("OtherHost");
    expect(intended(steps, "pod-6", began + 6 * minute)).toBeUndefined();
    expect(intended(steps, "pod-5", began + 8 * minute)).toBeUndefined();
  });
});
