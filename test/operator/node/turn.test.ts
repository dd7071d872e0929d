import { describe, expect, it, vi } from "vitest";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import { keyOf } from "../../../src/kube/object.ts";
import type { Pod } from "../../../src/kube/resources.ts";
import { byOwnerUid, Store } from "../../../src/kube/store.ts";
import { networkKeyOf } from "../../../src/operator/context.ts";
import { podFacts } from "../../../src/operator/node/facts.ts";
import { NodeMemories } from "../../../src/operator/node/memory.ts";
import { hasTurn, passTurn } from "../../../src/operator/node/turn.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { configOf, imageOf, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const config = configOf([snapshotOf("v1")]);

/** Three nodes of one network that serve, and what they look like when the agent image of `agentVersion` is wanted. */
function fleet() {
  const clock = new FakeClock();
  const memories = new NodeMemories(clock);
  const nodes = new Store<ResultityNode>();
  const pods = new Store<Pod>();
  nodes.addIndex("owner", byOwnerUid);
  nodes.addIndex("network", (node) => [networkKeyOf(node)]);
  const worlds = ["gpu-0", "gpu-1", "gpu-2"].map((name) => {
    const world = new World(nodeOf({}, name), config);
    world.untilServing();
    return world;
  });
  let versions = 1;
  const show = () => {
    const resourceVersion = String(++versions);
    nodes.replace(worlds.map(({ node }) => ({ ...node, metadata: { ...node.metadata, resourceVersion } })));
    pods.replace(worlds.flatMap(({ pod }) => (pod ? [JSON.parse(JSON.stringify(pod))] : [])));
  };
  const turn = (at: number, agentVersion: string): boolean => {
    show();
    const world = worlds[at];
    if (!world?.pod) throw new Error("no such node");
    const facts = podFacts(world.pod, world.node);
    return hasTurn(
      { nodes: { store: nodes }, pods: { store: pods } },
      memories,
      world.node,
      facts,
      config,
      imageOf("agent", agentVersion),
    );
  };
  const [first, second] = worlds;
  if (!first || !second) throw new Error("no nodes");
  return { clock, memories, pods, worlds, first, second, turn };
}

describe("turns", () => {
  it("are everyone's while nothing that all share has changed", () => {
    const { turn } = fleet();
    expect([0, 1, 2].map((at) => turn(at, "v1"))).toEqual([true, true, true]);
  });

  it("are the first's that takes one, before the caches show it", () => {
    const { turn, memories, first } = fleet();
    expect(turn(0, "v2")).toBe(true);
    memories.claim("network inference/testnet", keyOf(first.node));
    expect([0, 1, 2].map((at) => turn(at, "v2"))).toEqual([true, false, false]);
  });

  it("are nobody else's while one is told to stop, or has the new agent and is not well yet", () => {
    const { turn, first } = fleet();
    first.network = {
      ...first.network,
      spec: { ...first.network.spec, agent: { image: imageOf("agent", "v2") } },
    };
    expect(first.reconcile()).toEqual(["prefetch"]);
    first.reconcile();
    expect(first.desired.plannedStop).toBe("agent-image");
    expect(turn(1, "v2")).toBe(false);
    first.agentAnswers();
    first.reconcile();
    first.kubeletWaits("agent", "ImagePullBackOff");
    first.reconcile();
    expect(turn(1, "v2")).toBe(false);
    first.kubeletRunsAgent();
    first.kubeletRunsRuntime(true);
    first.reconcile();
    first.agentAnswers();
    first.reconcile();
    expect(turn(1, "v2")).toBe(true);
  });

  it("go on when the one that had it is well as everyone sees it, in the order of waiting", () => {
    const { turn, memories, first, second } = fleet();
    const group = "network inference/testnet";
    memories.claim(group, keyOf(first.node));
    expect([turn(1, "v2"), turn(2, "v2")]).toEqual([false, false]);
    const ready = first.node.status ?? {};
    const seenAs = (conditions: typeof ready.conditions) => ({
      ...first.observe(),
      node: { ...first.node, status: { ...ready, conditions } },
    });
    const notReady = ready.conditions?.map((one) =>
      one.type === "Ready" ? { ...one, status: "False" as const } : one,
    );
    expect(passTurn(memories, seenAs(notReady), { ...ready, conditions: notReady })).toEqual({});
    expect(passTurn(memories, seenAs(notReady), ready)).toEqual({ againInMs: 100 });
    expect(passTurn(memories, seenAs(ready.conditions), ready)).toEqual({ next: keyOf(second.node) });
    expect(memories.claimedByOther(group, keyOf(second.node))).toBe(false);
    expect(passTurn(memories, seenAs(ready.conditions), ready)).toEqual({});
  });

  it("cost one look at the group for all that ask in a moment, and one at whoever is in the way", () => {
    const { turn, clock, memories, pods, first, second } = fleet();
    const looks = vi.spyOn(pods, "get");
    const cost = (ask: () => boolean) => {
      looks.mockClear();
      return [ask(), looks.mock.calls.length];
    };
    expect(cost(() => turn(0, "v2"))).toEqual([true, 3]);
    expect(cost(() => turn(1, "v2"))).toEqual([true, 0]);
    clock.advance(1_000);
    expect(cost(() => turn(2, "v2"))).toEqual([true, 3]);
    // Who takes the turn is in the way from then on, whatever was found before.
    memories.claim("network inference/testnet", keyOf(second.node));
    expect(cost(() => turn(0, "v2"))).toEqual([false, 0]);
    memories.release("network inference/testnet");
    second.network = {
      ...second.network,
      spec: { ...second.network.spec, agent: { image: imageOf("agent", "v2") } },
    };
    while (second.desired.plannedStop !== "agent-image") second.reconcile();
    expect(cost(() => turn(0, "v2"))[0]).toBe(false);
    expect(cost(() => turn(2, "v2"))).toEqual([false, 1]);
    expect(cost(() => turn(0, "v2"))).toEqual([false, 1]);
    expect(cost(() => turn(1, "v2"))[0]).toBe(true);
    expect(turn(0, "v2")).toBe(false);
    expect(first.desired.plannedStop).toBeNull();
  });

  it("are not held up by a node that was broken before", () => {
    const { turn, second } = fleet();
    second.kubeletWaits("runtime", "CrashLoopBackOff");
    second.reconcile();
    expect(turn(0, "v2")).toBe(true);
  });
});
