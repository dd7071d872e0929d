import { expect, it } from "vitest";
import { isUrgent, settleMs, settleMsOf } from "../../../src/operator/node/pace.ts";
import { NodeMemories } from "../../../src/operator/node/memory.ts";
import { nodeStatus } from "../../../src/operator/node/status.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { configOf, digestOfSnapshot, networkOf, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const [v1, v2] = [snapshotOf("v1"), snapshotOf("v2")];
const d2 = digestOfSnapshot(v2);

/** Plans, does it, and says whether the status that follows is urgent; it is then written. */
function urgent(world: World): boolean {
  const seen = world.observe();
  const status = nodeStatus(seen, world.plan(), {});
  const answer = isUrgent(world.node.status, status);
  world.reconcile();
  return answer;
}

function serving(): World {
  const world = new World(nodeOf(), configOf([v1, v2]));
  world.retarget(digestOfSnapshot(v1));
  world.untilServing();
  return world;
}

it("keeps what passes by itself for a while: a pod that comes up, and a config that is staged", () => {
  const world = new World();
  const steps = [urgent(world)];
  world.kubeletRunsAgent(false);
  steps.push(urgent(world));
  world.kubeletRunsAgent();
  steps.push(urgent(world));
  expect(steps).toEqual([false, false, false]);
  const staging = serving();
  staging.retarget(d2);
  expect(urgent(staging)).toBe(false);
});

it("says at once that a node enters or leaves service, arrives where it was told to, or has something wrong", () => {
  const world = serving();
  world.retarget(d2);
  world.reconcile();
  world.agentAnswers({ staged: d2 });
  expect(urgent(world)).toBe(true);
  expect(world.condition("Ready")).toBe("False Moving");
  world.agentAnswers();
  world.reconcile();
  world.kubeletRunsRuntime(true);
  world.agentAnswers({ applied: d2 });
  // That the stop is over is for the agent to read, and nobody waits for that.
  expect(urgent(world)).toBe(true);
  expect(world.desired.plannedStop).toBeNull();
  expect(world.condition("Ready")).toBe("True AllWell");
  world.kubeletWaits("runtime", "ImagePullBackOff");
  expect(urgent(world)).toBe(true);
  const agent = serving();
  agent.prefetchState = "failed";
  agent.network = networkOf("v2");
  agent.reconcile();
  expect(urgent(agent)).toBe(true);
  expect(urgent(agent)).toBe(false);
});

it("says each step of recovery at once, a second one for the same pod too", () => {
  const { status } = serving().node;
  const after = (...times: string[]) => ({
    ...status,
    recovery: {
      steps: times.map((time) => ({ step: "NewPod" as const, cause: "EngineFailed", time, podUid: "pod-1" })),
    },
  });
  const [first, second] = ["2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z"];
  expect(isUrgent(status, after(first))).toBe(true);
  expect(isUrgent(after(first), after(first))).toBe(false);
  expect(isUrgent(after(first), after(first, second))).toBe(true);
});

it("bears a live change of the spec, and says at once that it has arrived", () => {
  const world = serving();
  world.changeSpec({ participation: { accept: false } });
  expect(urgent(world)).toBe(false);
  const { status } = serving().node;
  world.node = { ...world.node, ...(status && { status }) };
  world.agentAnswers();
  expect(urgent(world)).toBe(true);
});

it("counts from the first difference, and begins anew once it was written", () => {
  const clock = new FakeClock();
  const memories = new NodeMemories(clock);
  expect(memories.statusDueInMs("n", 5_000)).toBe(5_000);
  clock.advance(4_000);
  expect(memories.statusDueInMs("n", 5_000)).toBe(1_000);
  memories.statusWritten("n");
  expect(memories.statusDueInMs("n", 5_000)).toBe(5_000);
});

it("keeps back for longer what a node goes through between its stop and its next start", () => {
  const world = serving();
  expect(settleMsOf(world.node.status ?? {})).toBe(settleMs);
  world.retarget(d2);
  world.reconcile();
  world.agentAnswers({ staged: d2 });
  world.reconcile();
  expect(world.condition("Ready")).toBe("False Moving");
  expect(settleMsOf(world.node.status ?? {})).toBeGreaterThan(settleMs);
});
