import { describe, expect, it } from "vitest";
import type { Draft } from "../../../src/kube/object.ts";
import { Expectations } from "../../../src/kube/expectations.ts";
import { KubeError } from "../../../src/kube/errors.ts";
import type { Pod } from "../../../src/kube/resources.ts";
import { Store } from "../../../src/kube/store.ts";
import { podFacts } from "../../../src/operator/node/facts.ts";
import { NodeMemories } from "../../../src/operator/node/memory.ts";
import type { Action } from "../../../src/operator/node/plan.ts";
import { prefetchFacts } from "../../../src/operator/node/prefetch/facts.ts";
import { startPrefetch } from "../../../src/operator/node/prefetch/execute.ts";
import { prefetchName, prefetchPod } from "../../../src/operator/node/prefetch/pod.ts";
import { imagesAhead } from "../../../src/operator/node/scene.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { configOf, digestOfSnapshot, imageOf, networkOf, snapshotOf } from "./network.ts";
import { nodeOf, World } from "./world.ts";

const [v1, v2, v3] = [snapshotOf("v1"), snapshotOf("v2"), snapshotOf("v3")];
const [d1, d2, d3] = [digestOfSnapshot(v1), digestOfSnapshot(v2), digestOfSnapshot(v3)];
const [image1, image2] = [imageOf("engine", "v1"), imageOf("engine", "v2")];

function serving(config = configOf([v1, v2, v3])): World {
  const world = new World(nodeOf(), config);
  world.retarget(d1);
  world.untilServing();
  return world;
}

/** What becomes of the prefetches. */
function fetches(world: World, change: Partial<World["prefetches"][number]>): void {
  world.prefetches = world.prefetches.map((prefetch) => ({ ...prefetch, ...change }));
}

/** The agent has staged all that it could. */
function staged(world: World): void {
  world.agentAnswers({ staged: d2 });
}

const why = (world: World) =>
  world.node.status?.conditions?.find(({ type }) => type === "ConfigApplied")?.message;

describe("a new runtime image", () => {
  it("is waited for although the agent is ready to move, and the node serves meanwhile", () => {
    const world = serving();
    world.prefetchState = "coming";
    world.retarget(d2);
    expect(world.reconcile()).toEqual(["annotate", "prefetch"]);
    staged(world);
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("ConfigApplied")).toBe("False Staging");
    expect(why(world)).toContain(
      `host host-1 fetches the new runtime image ${image2} (pod prefetch-runtime-`,
    );
    expect(world.condition("Ready")).toBe("True AllWell");
    fetches(world, { state: "present" });
    expect(world.reconcile()).toEqual(["rehearse-image", "annotate"]);
    expect(world.desired.plannedStop).toBe("runtime-image");
  });

  it("that cannot be pulled stops the move at no loss, in the kubelet's words, until it can or the config changes", () => {
    const world = serving();
    world.prefetchState = "failed";
    world.retarget(d2);
    world.reconcile();
    staged(world);
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("ConfigApplied")).toBe("False PrefetchFailed");
    expect(why(world)).toContain(`${image2} (ErrImagePull: as the kubelet says)`);
    expect(world.condition("Ready")).toBe("True PrefetchFailed");
    // Between two tries the kubelet says less: that is no news.
    fetches(world, { reason: "ImagePullBackOff", message: "Back-off pulling image" });
    world.reconcile();
    expect(why(world)).toContain("ErrImagePull: as the kubelet says");
    world.retarget(d3);
    expect(world.reconcile()).toEqual(["annotate", "prefetch"]);
    expect(world.desired).toMatchObject({ stage: d3, target: d1, plannedStop: null });
    expect(world.log).not.toContain("patch runtime");
  });

  it("is tried from each mirror, and the pod gets the name under which it came", () => {
    const mirrors = [{ source: "registry.example", mirrors: ["mirror.test"] }];
    const world = serving(configOf([v1, v2], { images: { mirrors, allowed: [], denied: [] } }));
    world.prefetchState = "failed";
    world.retarget(d2);
    world.reconcile();
    staged(world);
    world.prefetchState = "present";
    // Those that failed take all the room there is.
    world.host = { ...world.host, room: false };
    expect(world.reconcile()).toEqual(["prefetch"]);
    expect(world.prefetches.map(({ image }) => image)).toEqual([
      image2.replace("registry.example", "mirror.test"),
      image2,
    ]);
    world.reconcile();
    world.agentAnswers();
    expect(world.reconcile()).toEqual(["patch-image"]);
    expect(world.pod?.spec?.containers[0]?.image).toBe(image2);
  });

  it("is not fetched where another node of the host runs it, nor where there is nothing to lose", () => {
    const world = serving();
    world.host = { ...world.host, images: [image2] };
    world.retarget(d2);
    world.reconcile();
    staged(world);
    expect(world.reconcile()).toEqual(["rehearse-image", "annotate"]);
    const broken = serving();
    broken.kubeletWaits("runtime", "CrashLoopBackOff");
    broken.retarget(d2);
    broken.reconcile();
    staged(broken);
    expect(broken.reconcile()).toEqual(["rehearse-image", "annotate"]);
    expect([...world.log, ...broken.log].filter((line) => line.startsWith("prefetch"))).toEqual([]);
  });

  it("waits while as many others are being fetched as may be", () => {
    const world = serving();
    world.host = { ...world.host, room: false };
    world.retarget(d2);
    expect(world.reconcile()).toEqual(["annotate", "wait"]);
    expect(world.prefetches).toEqual([]);
    world.host = { ...world.host, room: true };
    staged(world);
    expect(world.reconcile()).toEqual(["prefetch"]);
  });

  it("whose pod was ended from outside is fetched anew after a minute", () => {
    const world = serving();
    world.retarget(d2);
    world.reconcile();
    fetches(world, { state: "ended", reason: "OutOfcpu", message: "no room" });
    staged(world);
    expect(world.reconcile()).toEqual(["wait"]);
    expect(why(world)).toContain("OutOfcpu: no room");
    world.now += 61_000;
    expect(world.reconcile()).toEqual(["drop-prefetch"]);
    expect(world.reconcile()).toEqual(["prefetch"]);
  });

  it("is run instead of mounted on a host that has not set up an image volume in a minute", () => {
    const world = serving();
    world.prefetchState = "coming";
    world.retarget(d2);
    world.reconcile();
    fetches(world, { stalled: true });
    staged(world);
    expect(world.reconcile()).toEqual(["wait"]);
    world.now += 61_000;
    const plan = world.plan();
    expect(plan.actions).toMatchObject([{ type: "drop-prefetch", noVolumes: "host-1" }]);
  });

  it("is on the host before the pod is replaced too", () => {
    const world = serving();
    world.prefetchState = "coming";
    world.changeSpec({ gpu: { count: 2, resourceName: "nvidia.com/gpu" } });
    world.retarget(d2);
    expect(world.reconcile()).toEqual(["prefetch"]);
    expect(world.desired.plannedStop).toBeNull();
    fetches(world, { state: "present" });
    expect(world.reconcile()).toEqual(["annotate"]);
    expect(world.desired.plannedStop).toBe("recreate");
  });
});

describe("a new agent image", () => {
  it("that cannot be pulled leaves agent and engine as they are", () => {
    const world = serving();
    world.prefetchState = "failed";
    world.network = networkOf("v2");
    world.reconcile();
    expect(world.reconcile()).toEqual([]);
    expect(world.condition("ConfigApplied")).toBe("False PrefetchFailed");
    expect(world.condition("Ready")).toBe("True PrefetchFailed");
    expect(world.desired.plannedStop).toBeNull();
  });
});

describe("images ahead", () => {
  it("are what the pod is to run and does not, until it runs; unknown while the network's config is", () => {
    const world = serving();
    const ahead = () => world.pod && imagesAhead(world.observe(), podFacts(world.pod, world.node));
    expect(ahead()).toEqual([]);
    world.retarget(d2);
    expect(ahead()).toEqual([image2]);
    world.network = networkOf("v2");
    expect(ahead()).toEqual([image2, imageOf("agent", "v2")]);
    world.network = networkOf();
    world.reconcile();
    staged(world);
    world.reconcile();
    world.agentAnswers();
    expect(world.reconcile()).toEqual(["patch-image"]);
    // The pod has it in its spec, and the kubelet has yet to start it.
    expect(ahead()).toEqual([image2]);
    world.kubeletRunsRuntime(true);
    expect(ahead()).toEqual([]);
    world.config = undefined;
    expect(ahead()).toBeUndefined();
    world.changeSpec({ replicas: 0 });
    expect(ahead()).toEqual([]);
  });
});

describe("the pod that brings an image", () => {
  const wish = { node: nodeOf(), host: "host-1", role: "runtime", image: image2 } as const;

  it("is the same for the nodes of a host that pull alike, and another for another host, image or pull secret", () => {
    const name = prefetchName(wish);
    expect(prefetchName({ ...wish, node: nodeOf({}, "gpu-7") })).toBe(name);
    const secrets = { imagePullSecrets: [{ name: "hub" }] };
    const others = [
      { ...wish, host: "host-2" },
      { ...wish, image: image1 },
      { ...wish, node: nodeOf({ podOverrides: secrets }) },
    ];
    expect(new Set([name, ...others.map(prefetchName)]).size).toBe(4);
  });

  it("holds it by a volume while a shell of the running image waits, or runs it; with no GPU, and pulled as the node pulls", () => {
    const podOverrides = {
      imagePullSecrets: [{ name: "hub" }],
      tolerations: [{ key: "nvidia.com/gpu", operator: "Exists" as const }],
      runtimeClassName: "nvidia",
    };
    const inputs = { ...wish, node: nodeOf({ podOverrides }), network: networkOf() };
    const held = prefetchPod({ ...inputs, base: image1 });
    expect(held.spec).toMatchObject({ nodeName: "host-1", restartPolicy: "Never", ...podOverrides });
    expect(held.spec?.containers[0]?.image).toBe(image1);
    expect(held.spec?.volumes).toEqual([
      { name: "held", image: { reference: image2, pullPolicy: "IfNotPresent" } },
    ]);
    expect(JSON.stringify(held.spec?.containers[0]?.resources)).not.toContain("gpu");
    const run = prefetchPod({ ...inputs, base: undefined });
    expect(run.spec?.containers[0]?.image).toBe(image2);
    expect(run.spec?.volumes).toBeUndefined();
    expect(held.metadata.ownerReferences?.[0]?.kind).toBe("ResultityNetwork");
  });

  const live = (status: object, metadata: object = {}): Pod =>
    JSON.parse(
      JSON.stringify({
        apiVersion: "v1",
        kind: "Pod",
        ...prefetchPod({ ...wish, network: networkOf(), base: image1 }),
        metadata: { name: "p", uid: "u", creationTimestamp: "2026-01-01T00:00:00Z", ...metadata },
        status,
      }),
    );
  const waiting = (reason: string) => ({
    containerStatuses: [{ name: "hold", state: { waiting: { reason, message: "why" } } }],
  });

  it.each([
    ["coming", {}],
    ["coming", waiting("ContainerCreating")],
    ["failed", waiting("ErrImagePull")],
    ["failed", waiting("ImagePullBackOff")],
    // Pulled, and of no use to run: what was wanted is there.
    ["present", waiting("CreateContainerError")],
    ["present", { containerStatuses: [{ name: "hold", state: { running: {} } }] }],
    ["present", { phase: "Failed", containerStatuses: [{ name: "hold", state: { terminated: {} } }] }],
    ["ended", { phase: "Failed", reason: "Evicted", message: "disk" }],
  ] as const)("is %s when the kubelet says %j", (state, status) => {
    expect(prefetchFacts(live(status)).state).toBe(state);
  });

  it("runs the image where the API server does not know image volumes, from then on at once; one that is there is taken", async () => {
    const world = serving();
    world.retarget(d2);
    const action = world.plan().actions.find(({ type }) => type === "prefetch");
    if (action?.type !== "prefetch") throw new Error("no prefetch is planned");
    const clock = new FakeClock();
    const memories = new NodeMemories(clock);
    const asked: boolean[] = [];
    let there = false;
    const client = {
      create: (_: unknown, draft: Draft<Pod>) => {
        const byVolume = draft.spec?.volumes !== undefined;
        asked.push(byVolume);
        if (byVolume) {
          const causes = [
            { field: "spec.volumes[0]", reason: "FieldValueRequired", message: "must specify a type" },
          ];
          return Promise.reject(new KubeError("Invalid", "Pod is invalid", { causes }));
        }
        if (there) return Promise.reject(new KubeError("AlreadyExists", "there is one"));
        return Promise.resolve(live({}));
      },
      get: () =>
        Promise.resolve(live({}, { ownerReferences: [{ controller: true, uid: networkOf().metadata.uid }] })),
      delete: () => Promise.reject(new Error("not asked for")),
    };
    const prefetches = { resourceVersion: "1", store: new Store<Pod>() };
    const hands = {
      context: { client, caches: { prefetches } },
      expectations: new Expectations(clock),
      memories,
    };
    const start = (made: Action & { type: "prefetch" }) =>
      startPrefetch(
        hands,
        { ...world.observe(), host: { ...world.host, volumes: memories.volumesOn("host-1") } },
        made,
        new AbortController().signal,
      );
    await start(action);
    expect(asked).toEqual([true, false]);
    there = true;
    await start(action);
    expect(asked).toEqual([true, false, false]);
  });
});
