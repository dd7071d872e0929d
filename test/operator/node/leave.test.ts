import { describe, expect, it } from "vitest";
import type { ResultityNode } from "../../../src/api/v1alpha1/node.ts";
import { poolKind } from "../../../src/api/v1alpha1/kinds.ts";
import { keyOf } from "../../../src/kube/object.ts";
import type { Pod, PodDisruptionBudget } from "../../../src/kube/resources.ts";
import { byOwnerUid, Store } from "../../../src/kube/store.ts";
import { mayLeave, whoHasRoom } from "../../../src/operator/node/leave.ts";
import { NodeMemories } from "../../../src/operator/node/memory.ts";
import { desiredAnnotation } from "../../../src/protocol/desired.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { nodeOf } from "./world.ts";

const poolUid = "pool-uid";
const ownerReferences = [
  { apiVersion: "resultity.com/v1alpha1", kind: poolKind.kind, name: "chat", uid: poolUid, controller: true },
];

const planned = { revision: 2, isPlanned: true };

function emptyBudgets(): Store<PodDisruptionBudget> {
  const budgets = new Store<PodDisruptionBudget>();
  budgets.addIndex("owner", byOwnerUid);
  return budgets;
}

/** A pool of `size` nodes that all serve, of which `minAvailable` are to. */
function poolOf(size: number, minAvailable: number) {
  const clock = new FakeClock();
  const memories = new NodeMemories(clock);
  const nodes = new Store<ResultityNode>();
  const pods = new Store<Pod>();
  const budgets = emptyBudgets();
  nodes.addIndex("owner", byOwnerUid);
  let version = 0;
  const meta = (name: string) => ({
    name,
    namespace: "prod",
    uid: `uid-${name}`,
    resourceVersion: String(++version),
    creationTimestamp: "2026-01-01T00:00:00Z",
  });
  budgets.put({
    apiVersion: "policy/v1",
    kind: "PodDisruptionBudget",
    metadata: { ...meta("chat"), ownerReferences },
    spec: { minAvailable },
  });
  const node = (name: string): ResultityNode => ({
    ...nodeOf(),
    metadata: { ...nodeOf().metadata, ...meta(name), ownerReferences },
  });
  const podOf = (name: string, ready: boolean, plannedStop: string | null, revision: number): Pod => ({
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      ...meta(name),
      annotations: { [desiredAnnotation]: JSON.stringify({ revision, plannedStop }) },
    },
    status: { conditions: [{ type: "Ready", status: ready ? "True" : "False" }] },
  });
  const pod = (name: string, ready: boolean, plannedStop: string | null = null, revision = 1) =>
    void pods.put(podOf(name, ready, plannedStop, revision));
  /** As {@link pod}, and the controller hears of it. */
  const becomes = (name: string, ready: boolean, plannedStop: string | null = null, revision = 1) => {
    const [old, object] = [pods.get(`prod/${name}`), podOf(name, ready, plannedStop, revision)];
    if (!old) throw new Error(`no pod ${name}`);
    pods.put(object);
    return whoHasRoom(caches, memories, { type: "update", old, object });
  };
  /** As {@link becomes}: the pod is gone, after its node where `node` says so. */
  const gone = (name: string, alsoNode = false) => {
    const object = pods.get(`prod/${name}`);
    if (!object) throw new Error(`no pod ${name}`);
    const itsNode = nodes.get(`prod/${name}`);
    if (alsoNode && itsNode) nodes.remove(itsNode);
    pods.remove(object);
    return whoHasRoom(caches, memories, { type: "delete", object });
  };
  const caches = { nodes: { store: nodes }, pods: { store: pods }, budgets: { store: budgets } };
  for (let at = 0; at < size; at++) {
    nodes.put(node(`chat-${at}`));
    pod(`chat-${at}`, true);
  }
  return {
    clock,
    memories,
    caches,
    pod,
    becomes,
    gone,
    node,
    may: (name: string) => mayLeave(caches, memories, node(name)),
  };
}

describe("whether a pool can do without a node that serves", () => {
  it("lets as many go as the budget bears, one after the other, before any cache shows it", () => {
    const pool = poolOf(5, 3);
    for (const name of ["chat-0", "chat-1"]) {
      expect(pool.may(name)).toBe(true);
      pool.memories.leaves(keyOf(pool.node(name)), `uid-${name}`, poolUid, planned);
    }
    expect(pool.may("chat-2")).toBe(false);
    pool.clock.advance(1_001);
    expect(pool.may("chat-2")).toBe(false);
    // They are back: their orders say that the stop is over, and they serve.
    for (const name of ["chat-0", "chat-1"]) pool.pod(name, true, null, 3);
    pool.clock.advance(1_001);
    expect(pool.may("chat-2")).toBe(true);
  });

  it("counts a new pod in place of one that was told", () => {
    const pool = poolOf(2, 1);
    pool.memories.leaves(keyOf(pool.node("chat-0")), "uid-of-the-pod-before", poolUid, planned);
    expect(pool.may("chat-1")).toBe(true);
  });

  it("does not count on who moves by itself before it had time to go", () => {
    const pool = poolOf(2, 1);
    pool.memories.leaves(keyOf(pool.node("chat-0")), "uid-chat-0", poolUid, { ...planned, isPlanned: false });
    pool.pod("chat-0", true, null, 2);
    expect(pool.may("chat-1")).toBe(false);
    pool.clock.advance(16_000);
    expect(pool.may("chat-1")).toBe(true);
  });

  it("counts who fails, and who is on the way, a moment later", () => {
    const pool = poolOf(4, 3);
    pool.pod("chat-3", false);
    expect(pool.may("chat-0")).toBe(false);
    pool.pod("chat-3", true);
    pool.clock.advance(1_001);
    expect(pool.may("chat-0")).toBe(true);
    pool.pod("chat-2", true, "runtime-image");
    pool.clock.advance(1_001);
    expect(pool.may("chat-0")).toBe(false);
  });

  it("has room at once for one that waits when another is back, and for no second one", () => {
    const pool = poolOf(5, 4);
    pool.memories.leaves("prod/chat-0", "uid-chat-0", poolUid, planned);
    expect(["chat-1", "chat-2"].map(pool.may)).toEqual([false, false]);
    expect(pool.becomes("chat-0", true, "runtime-image", 2)).toBeUndefined();
    expect(pool.becomes("chat-0", false, "runtime-image", 2)).toBeUndefined();
    expect(pool.becomes("chat-0", true, "runtime-image", 2)).toBeUndefined();
    expect(pool.becomes("chat-0", true, null, 3)).toBe("prod/chat-1");
    expect(pool.may("chat-1")).toBe(true);
    pool.memories.leaves("prod/chat-1", "uid-chat-1", poolUid, planned);
    expect(pool.may("chat-2")).toBe(false);
  });

  it("counts at once who fails, and who was told and says so twice only once", () => {
    const pool = poolOf(6, 3);
    expect(pool.may("chat-0")).toBe(true);
    pool.memories.leaves("prod/chat-0", "uid-chat-0", poolUid, planned);
    pool.becomes("chat-0", true, "runtime-image", 2);
    expect(pool.may("chat-1")).toBe(true);
    pool.becomes("chat-4", false);
    expect(pool.may("chat-1")).toBe(true);
    pool.becomes("chat-5", false);
    expect(pool.may("chat-1")).toBe(false);
  });

  it("does not take one for back that was told a moment ago and has not read it", () => {
    const pool = poolOf(3, 2);
    pool.becomes("chat-0", false);
    expect(pool.may("chat-1")).toBe(false);
    pool.memories.leaves("prod/chat-0", "uid-chat-0", poolUid, planned);
    expect(pool.becomes("chat-0", true)).toBeUndefined();
    expect(pool.may("chat-1")).toBe(false);
  });

  it("gives the room to one that is there and serves, and to none that waited and is gone", () => {
    const pool = poolOf(6, 6);
    expect(["chat-1", "chat-2", "chat-3"].map(pool.may)).toEqual([false, false, false]);
    pool.becomes("chat-0", false);
    pool.gone("chat-1", true);
    pool.becomes("chat-2", false);
    expect(pool.becomes("chat-0", true)).toBe("prod/chat-3");
    expect(pool.becomes("chat-2", true)).toBeUndefined();
  });

  it("counts no pod that left service after its node was gone", () => {
    const pool = poolOf(4, 3);
    expect(pool.may("chat-0")).toBe(true);
    pool.gone("chat-3", true);
    expect(pool.may("chat-0")).toBe(false);
  });

  it("holds nobody back who has no pool, or whose pool has no budget of ours", () => {
    const pool = poolOf(1, 1);
    expect(pool.may("chat-0")).toBe(false);
    const alone = nodeOf();
    expect(mayLeave(pool.caches, pool.memories, alone)).toBe(true);
    const without = { ...pool.caches, budgets: { store: emptyBudgets() } };
    expect(mayLeave(without, pool.memories, pool.node("chat-0"))).toBe(true);
  });
});
