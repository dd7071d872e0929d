import { describe, expect, it } from "vitest";
import { networkReasons, nodeReasons, poolReasons } from "../../src/api/v1alpha1/conditions.ts";
import { findSubject } from "../../src/cli/find.ts";
import type { Reader } from "../../src/cli/read.ts";
import { plainScreen } from "../../src/cli/text/screen.ts";
import {
  adviceOf,
  networkAdvice,
  nodeAdvice,
  plainNodeReasons,
  poolAdvice,
} from "../../src/cli/why/advice.ts";
import { whyNetwork } from "../../src/cli/why/network.ts";
import { nextOfNode } from "../../src/cli/why/next-of-node.ts";
import { whyNode } from "../../src/cli/why/node.ts";
import { whyPool } from "../../src/cli/why/pool.ts";
import { renderWhy } from "../../src/cli/why/render.ts";
import { eventViews } from "../../src/cli/why/view.ts";
import type { AnyEvent } from "../../src/cli/resources.ts";
import { podFacts } from "../../src/operator/node/observe.ts";
import { configOf, digestOfSnapshot, imageOf, networkOf, snapshotOf } from "../operator/node/network.ts";
import { nodeOf, World } from "../operator/node/world.ts";
import { Fleet, makePool } from "../operator/pool/fleet.ts";
import { digest, network, node, now } from "./objects.ts";

const [v1, v2] = [snapshotOf("v1"), snapshotOf("v2")];
const d2 = digestOfSnapshot(v2);
const none = { value: [] };
const look = (world: World) => {
  const { node, network, inPool, now } = world;
  return nextOfNode({ now, node, network, inPool, pod: world.pod && podFacts(world.pod, node) });
};
const next = (world: World) =>
  look(world)
    .next.map(({ what }) => what)
    .join("; ") || look(world).waits.join("; ");

describe("why NODE: what the operator does next, step by step beside the operator itself", () => {
  it("follows a move from config to config", () => {
    const world = new World(nodeOf(), configOf([v1, v2]));
    world.inPool = true;
    expect(next(world)).toBe("makes pod gpu-0");
    world.untilServing();
    expect(next(world)).toBe("nothing: it runs what it should");
    world.retarget(d2);
    expect(next(world)).toContain(`tells the agent to stage config ${d2}`);
    expect(world.reconcile()).toEqual(["annotate", "prefetch"]);
    expect(next(world)).toContain(`the agent to say that config ${d2} is staged`);
    world.agentAnswers({ staged: d2 });
    world.reconcile();
    expect(next(world)).toContain("patches the runtime's image in the running pod");
    world.agentAnswers({ staged: d2 });
    expect(world.reconcile()).toEqual(["patch-image"]);
    world.kubeletWaits("runtime", "ErrImagePull");
    expect(next(world)).toContain("waits for the kubelet to start container runtime (ErrImagePull)");
    world.kubeletRunsRuntime(true);
    const runtimes = [{ engine: "openai", image: imageOf("engine", "v2") }];
    const config = {
      digest: d2,
      version: "v2",
      releaseSequence: 1,
      expiresAt: "2027-01-01T00:00:00Z",
      runtimes,
    };
    world.network = { ...world.network, status: { config } };
    expect(next(world)).toContain(`the agent to say that config ${d2} is applied and serves`);
    world.agentAnswers({ applied: d2 });
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(next(world)).toBe("nothing: it runs what it should");
    world.agentAnswers({ applied: d2 });
    expect(world.reconcile()).toEqual([]);
    expect(next(world)).toBe("nothing: it runs what it should");
  });

  it("has the planner's own words for what depends on objects alone", () => {
    const world = new World();
    world.untilServing();
    world.changeSpec({ replicas: 0 });
    expect(look(world)).toMatchObject({
      planned: true,
      next: [
        {
          what: "gives the agent new orders (annotation resultity.com/desired)",
          why: "plan the stop: spec.replicas is 0",
        },
      ],
    });
    world.reconcile();
    expect(next(world)).toBe("asks the agent");
    world.agentAnswers();
    expect(world.reconcile()).toEqual(["delete-pod"]);
    expect(next(world)).toContain("the pod is ending");
    world.now += 330_000;
    expect(next(world)).toContain("deletes the pod with 10 s of grace");
    world.kubeletRemoves();
    expect(next(world)).toContain("parked: spec.replicas is 0; set it to 1 to run");
  });

  it("says that a pod which ended is deleted, and that a network is missing", () => {
    const world = new World();
    world.untilServing();
    world.kubeletSays({ phase: "Failed", reason: "Evicted" });
    expect(next(world)).toBe("deletes the pod, whose running jobs end or go back first");
    const lonely = { now, node: nodeOf(), network: undefined, inPool: false, pod: undefined };
    expect(nextOfNode(lonely).waits.join()).toContain(
      "there is no ResultityNetwork testnet in namespace inference: create it",
    );
  });

  it("makes and moves nothing while no config can be had", () => {
    const blocked = node(
      "gpu-0",
      "False PodNotCreated",
      {},
      { ConfigApplied: "False NoRuntimeForEngine: no vllm in it" },
    );
    const seen = { now, node: blocked, network: networkOf(), inPool: false, pod: undefined };
    expect(nextOfNode(seen)).toMatchObject({
      next: [],
      waits: ["no pod is made before this is mended: NoRuntimeForEngine: no vllm in it"],
    });
  });
});

describe("why NODE", () => {
  it("shows conditions in order with what to do, the pod, and what is not known", () => {
    const world = new World();
    world.reconcile();
    world.kubeletRunsAgent();
    world.kubeletWaits("runtime", "ErrImagePull");
    world.reconcile();
    const view = whyNode({
      node: world.node,
      network: networkOf(),
      pod: { value: world.pod },
      events: none,
      now,
    });
    const text = renderWhy(view, { now, screen: plainScreen });
    expect(view.conditions.map(({ type }) => type)).toEqual([
      "Scheduled",
      "ConfigApplied",
      "RuntimeReady",
      "Registered",
      "Connected",
      "Draining",
      "Degraded",
      "Ready",
    ]);
    expect(view.conditions.find(({ type }) => type === "Draining")?.well).toBe(true);
    expect(text).toMatch(/^ResultityNode inference\/gpu-0 is not Ready since /);
    expect(text).toContain("ImagePullFailed: the runtime image");
    // The config waits and there is no session because of it.
    expect(view.cause?.type).toBe("RuntimeReady");
    expect(text).toMatch(
      /\nFirst cause: RuntimeReady is False since \d+m \(2026-01-01T.*\), ImagePullFailed: the runtime image .*\nWhat to do: kubectl -n inference describe pod gpu-0\n/,
    );
    expect(text).toMatch(/Degraded +True ! .*ImagePullFailed: the runtime image/);
    expect(text.replaceAll(/\s+/g, " ")).toContain("the pod is replaced by one on another host at");
    expect(text.split("- ImagePullFailed: kubectl -n inference describe pod gpu-0")).toHaveLength(2);
    expect(text).toMatch(/container runtime +waiting \(ErrImagePull\)/);
    expect(text).toContain("only it sees");
  });

  it("leaves out what may not be read, and says so", () => {
    const view = whyNode({
      node: node("gpu-0", "True AllWell"),
      network: networkOf(),
      pod: { denied: "get pods: forbidden" },
      events: { denied: "list events: forbidden" },
      now,
    });
    expect(view.next).toEqual([]);
    expect(view.waits).toEqual([]);
    expect(view.facts.map(([label]) => label)).not.toContain("pod");
    expect(view.notes).toEqual([
      "pod and next steps are not shown: get pods: forbidden",
      "events are not shown: list events: forbidden",
    ]);
  });
});

describe("the first cause", () => {
  const causeIn = (conditions: Parameters<typeof node>[3], ready = "False PodNotReady") =>
    whyNode({
      node: node("gpu-0", ready, {}, conditions),
      network: networkOf(),
      pod: { value: undefined },
      events: none,
      now,
    }).cause;

  it("is what does not pass by itself, before what follows from it", () => {
    const gpu = causeIn({
      RuntimeReady: "False PodNotReady",
      Connected: "False SessionClosed",
      Degraded: "True GPUFault: GPU 3 is unhealthy",
    });
    expect(gpu).toMatchObject({ type: "Degraded", reason: "GPUFault", since: "2026-01-01T00:00:00Z" });
    expect(gpu?.todo).toContain("allocatedResourcesStatus");
    expect(
      causeIn({ Scheduled: "True ResizeDeferred", RuntimeReady: "True ModelsLoaded" }, "True AllWell"),
    ).toBeUndefined();
    expect(causeIn({ ConfigApplied: "False Moving", RuntimeReady: "False EngineStarting" })?.type).toBe(
      "ConfigApplied",
    );
    expect(causeIn({}, "True AllWell")).toBeUndefined();
  });

  it("has something to do for every reason that a node may give, or says it in its message", () => {
    const well = [
      "PodScheduled",
      "Applied",
      "ModelsLoaded",
      "AccountBound",
      "SessionOpen",
      "NotDraining",
      "NothingWrong",
      "AllWell",
    ];
    // They pass by themselves, and what comes next is told below them.
    const passing = [
      "Waiting",
      "Staging",
      "Moving",
      "ConfigChange",
      "ScaleDown",
      "SpecChange",
      "Evicted",
      "Deleted",
    ];
    const known = new Set<string>([...well, ...passing, ...plainNodeReasons, ...Object.keys(nodeAdvice)]);
    expect(nodeReasons.filter((reason) => !known.has(reason))).toEqual([]);
  });
});

describe("why POOL", () => {
  it("has the plan's actions and reasons", () => {
    const fleet = new Fleet(makePool({ replicas: 2 }));
    fleet.settle();
    fleet.current = digest("b");
    const view = whyPool(fleet.pool, { seen: fleet.observe(), around: undefined }, none);
    expect(view.next).toEqual([
      { what: "target chat-0", why: `the pool moves from ${digest("a")} to ${digest("b")}` },
      { what: "prepare chat-1", why: `it is among the next to move to ${digest("b")}` },
    ]);
    expect(renderWhy(view, { now, screen: plainScreen })).toContain(
      "If it stays here, see whether the operator runs",
    );
  });

  it("says that nothing is to be done", () => {
    const fleet = new Fleet(makePool({ replicas: 2 }));
    fleet.settle();
    expect(whyPool(fleet.pool, { seen: fleet.observe(), around: undefined }, none).waits).toEqual([
      "nothing: every node has the newest template and config",
    ]);
  });
});

describe("why NETWORK", () => {
  it("counts which configs its nodes run, and tells when the config ends", () => {
    const config = {
      digest: digest("b"),
      version: "2.0",
      releaseSequence: 7,
      expiresAt: "2026-01-01T00:00:00Z",
    };
    const nodes = [
      node("a", "True AllWell", { config: { target: digest("b"), applied: digest("b") } }),
      node("b", "False Moving", { config: { target: digest("b"), applied: digest("a") } }),
    ];
    const view = whyNetwork(network("False Expired: it expired", { config }), nodes, none, now);
    const text = renderWhy(view, { now, screen: plainScreen });
    expect(text).toContain("7, allows the config no longer: it expired 60m ago");
    expect(text).toContain(`1 run ${digest("b")}, 1 of them Ready; 1 more move to it`);
    expect(text).toContain(`1 run ${digest("a")}, 0 of them Ready`);
  });
});

describe("a node that is parked for want of capacity", () => {
  it("does not cry: nothing is marked, nothing is to be done", () => {
    const parked = node(
      "chat-1",
      "False NoCapacity: parked: no host has 1 nvidia.com/gpu to lend",
      {},
      {
        Scheduled: "False NoCapacity",
        RuntimeReady: "False PodNotReady",
        Connected: "False SessionClosed",
        Degraded: "False NothingWrong",
      },
    );
    const lent = { ...parked, spec: { ...parked.spec, capacity: "Opportunistic" as const } };
    const told = (one: typeof parked) =>
      renderWhy(whyNode({ node: one, network: undefined, pod: { value: undefined }, events: none, now }), {
        now,
        screen: plainScreen,
      });
    expect(told(lent)).not.toMatch(/False !|kubectl -n/);
    expect(told(lent)).toContain("What to do\n- NoCapacity: nothing: it is parked until GPUs are lent to it");
    expect(told(parked)).toMatch(/RuntimeReady +False !/);
  });
});

describe("advice", () => {
  const object = { namespace: "ns", name: "x" };
  it("is there for reasons that exist, and none for one of a later version", () => {
    for (const [table, reasons] of [
      [nodeAdvice, nodeReasons],
      [poolAdvice, poolReasons],
      [networkAdvice, networkReasons],
    ] as const) {
      for (const reason of Object.keys(table)) expect(reasons).toContain(reason);
      expect(adviceOf(table, "FromTheFuture", object)).toBeUndefined();
      expect(adviceOf(table, "toString", object)).toBeUndefined();
    }
    expect(adviceOf(nodeAdvice, "Parked", object)).toBe("to run it: kubectl resultity unpark x -n ns");
  });
});

describe("events", () => {
  it("are the newest of those kinds, whichever way the reporter tells time and count", () => {
    const event = (at: number, more: Partial<AnyEvent>): AnyEvent => ({
      apiVersion: "events.k8s.io/v1",
      kind: "Event",
      metadata: { name: `e${at}`, uid: "u", resourceVersion: "1", creationTimestamp: "" },
      reportingController: "c",
      reportingInstance: "i",
      action: "A",
      reason: `R${at}`,
      type: "Normal",
      note: "n",
      regarding: { apiVersion: "v1", kind: "Pod", name: "x", uid: "u" },
      ...more,
    });
    const many = Array.from({ length: 12 }, (_, at) =>
      event(at, { eventTime: `2026-01-01T00:${String(at).padStart(2, "0")}:00.000000Z` }),
    );
    const old = event(99, {
      eventTime: null,
      deprecatedLastTimestamp: "2026-01-01T00:30:00Z",
      deprecatedCount: 4,
    });
    const other = event(98, { regarding: { apiVersion: "v1", kind: "Secret", name: "x", uid: "u" } });
    const views = eventViews([old, other, ...many], ["Pod"]);
    expect(views.map(({ reason }) => reason)).toEqual(
      [3, 4, 5, 6, 7, 8, 9, 10, 11, 99].map((at) => `R${at}`),
    );
    expect(views.at(-1)).toMatchObject({ count: 4, last: "2026-01-01T00:30:00Z" });
  });
});

describe("a name", () => {
  const reader = (kinds: readonly string[]): Reader => ({
    find: ({ kind }, { name }) =>
      Promise.resolve(
        kinds.includes(kind) ? JSON.parse(JSON.stringify({ kind, metadata: { name } })) : undefined,
      ),
    list: () => Promise.reject(new Error("no list is needed")),
  });
  it("that several objects have has to be told apart", async () => {
    const both = reader(["ResultityNode", "ResultityNetwork"]);
    await expect(findSubject(both, { kind: undefined, name: "x" }, "ns")).rejects.toThrow(
      "several objects in namespace ns are called x: write rnode/x or rnet/x",
    );
    await expect(findSubject(both, { kind: "ResultityNetwork", name: "x" }, "ns")).resolves.toMatchObject({
      kind: "ResultityNetwork",
    });
    await expect(findSubject(both, { kind: "ResultityNodePool", name: "x" }, "ns")).rejects.toThrow(
      "there is no rpool/x",
    );
  });
});
