import { expect, it } from "vitest";
import { isUrgent } from "../../../src/operator/pool/pace.ts";
import { poolStatus } from "../../../src/operator/pool/status.ts";
import { digest, Fleet, makePool } from "./fleet.ts";

const statusOf = (fleet: Fleet) => poolStatus(fleet.observe());

/** Four nodes that serve, one of which may move at once. */
function settled(): Fleet {
  const fleet = new Fleet(makePool({ replicas: 4 }));
  fleet.settle();
  fleet.pool = { ...fleet.pool, status: statusOf(fleet) };
  return fleet;
}

it("says at once that a rollout begins, goes elsewhere, stands still or is over, and what has become of a condition", () => {
  const fleet = settled();
  expect(isUrgent(undefined, statusOf(fleet))).toBe(true);
  const steps: readonly (() => void)[] = [
    () => {
      fleet.current = digest("b");
      fleet.reconcile();
    },
    () => (fleet.current = digest("c")),
    () => {
      const { strategy } = fleet.pool.spec;
      fleet.pool = { ...fleet.pool, spec: { ...fleet.pool.spec, strategy: { ...strategy, paused: true } } };
    },
    () => ["chat-1", "chat-2"].forEach((name) => fleet.fail(name)),
  ];
  for (const step of steps) {
    const before = statusOf(fleet);
    fleet.pool = { ...fleet.pool, status: before };
    step();
    expect(isUrgent(before, statusOf(fleet))).toBe(true);
  }
});

it("lets counts wait, and which node it is that the update waits for", () => {
  const fleet = settled();
  fleet.current = digest("b");
  fleet.reconcile();
  const begun = statusOf(fleet);
  fleet.pool = { ...fleet.pool, status: begun };
  fleet.fail("chat-0");
  fleet.arrive("chat-0");
  fleet.reconcile();
  const after = statusOf(fleet);
  expect(after.updatedReplicas).toBe(1);
  expect(after.rollout?.waitingOn?.node).toBe("chat-1");
  expect(isUrgent(begun, after)).toBe(false);
});
