import { describe, expect, it } from "vitest";
import type { ResultityNetwork } from "../../src/api/v1alpha1/network.ts";
import type { ResultityNode } from "../../src/api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../src/api/v1alpha1/pool.ts";
import { parseOptions } from "../../src/cli/options.ts";
import type { PlansView } from "../../src/cli/plan/command.ts";
import type { Reader, Writer } from "../../src/cli/read.ts";
import { run } from "../../src/cli/run.ts";
import { plainScreen } from "../../src/cli/text/screen.ts";
import { KubeError } from "../../src/kube/errors.ts";
import type { KubeObject } from "../../src/kube/object.ts";
import { budgetSize, minAvailableOf } from "../../src/operator/pool/plan.ts";
import { releaseEntry, snapshotEntry } from "../../src/operator/names.ts";
import { digestOf, type Snapshot } from "../../src/protocol/config/snapshot.ts";
import { makeAuthority } from "../operator/network/authority.ts";
import { imageOf, networkOf, snapshotOf } from "../operator/node/network.ts";
import { nodeOf } from "../operator/node/world.ts";
import { Fleet, makePool } from "../operator/pool/fleet.ts";

const now = Date.UTC(2026, 0, 2);
const farAway = Date.UTC(2100, 0, 1);

/** A namespace as the API server would answer it: a network at `v1`, a pool of it, and what the operator has put there. */
class World {
  readonly authority = makeAuthority("testnet", Date.UTC(2026, 0, 1));
  readonly snapshots: Snapshot[] = [snapshotOf("1"), snapshotOf("2")];
  network: ResultityNetwork;
  pool: ResultityNodePool;
  nodes: ResultityNode[];
  others: ResultityNode[] = [];
  data: Record<string, string>;
  denied = new Set<string>();
  readonly asked: { verb: string; dryRun: boolean | undefined }[] = [];

  constructor(replicas = 4, spec: Parameters<typeof makePool>[0] = {}) {
    this.pool = makePool({ replicas, ...spec });
    const fleet = new Fleet(this.pool);
    fleet.current = this.digest(0);
    fleet.settle();
    const owner = {
      apiVersion: "v1",
      kind: "ResultityNodePool",
      name: "chat",
      uid: "pool-chat",
      controller: true,
    };
    this.nodes = [...fleet.children.values()].map((child, at) => ({
      ...child,
      metadata: { ...child.metadata, ownerReferences: [owner] },
      status: {
        ...child.status,
        hostName: `host-${Math.floor(at / 2)}`,
        runtime: { engine: "openai" as const, image: imageOf("engine", "1") },
      },
    }));
    const base = networkOf();
    this.network = {
      ...base,
      spec: { ...base.spec, trust: { root: this.authority.rootText } },
      status: {
        config: {
          digest: this.digest(0),
          version: "1",
          releaseSequence: 1,
          expiresAt: "2100-01-01T00:00:00Z",
        },
      },
    };
    this.data = this.published();
  }

  digest(at: number): string {
    return digestOf(this.bytes(at));
  }
  bytes(at: number): Buffer {
    return Buffer.from(JSON.stringify(this.snapshots[at]));
  }

  published(): Record<string, string> {
    const each = this.snapshots.map((snapshot, at) => ({
      snapshot,
      bytes: this.bytes(at),
      digest: digestOf(this.bytes(at)),
    }));
    const [current] = each;
    if (!current) throw new Error("no snapshot");
    const allowed = each.map(({ digest }) => ({ digest, expires: farAway }));
    const statement = this.authority.release(current, { allowed });
    return {
      [releaseEntry]: JSON.stringify(statement),
      ...Object.fromEntries(each.map(({ digest, bytes }) => [snapshotEntry(digest), bytes.toString()])),
    };
  }

  get #objects(): readonly KubeObject[] {
    const { apiVersion, kind, metadata } = this.network;
    const ownerReferences = [{ apiVersion, kind, name: metadata.name, uid: metadata.uid, controller: true }];
    const configMap = {
      apiVersion: "v1",
      kind: "ConfigMap",
      metadata: { ...metadata, name: "testnet-config", ownerReferences },
      data: this.data,
    };
    const { deletionTimestamp: _, ...pool } = this.pool.metadata;
    const budget = {
      apiVersion: "policy/v1",
      kind: "PodDisruptionBudget",
      metadata: { ...pool, ownerReferences: this.nodes[0]?.metadata.ownerReferences ?? [] },
      spec: {
        minAvailable: minAvailableOf(this.pool, budgetSize(this.pool, this.nodes)),
        selector: { matchLabels: { "resultity.com/pool": "chat" } },
      },
    };
    return [this.network, this.pool, ...this.nodes, ...this.others, configMap, budget];
  }

  readonly reader: Reader = {
    find: async (resource, { name }) => {
      if (this.denied.has(resource.kind)) throw new KubeError("Forbidden", `cannot get ${resource.plural}`);
      const found = this.#objects.find(
        ({ kind, metadata }) => kind === resource.kind && metadata.name === name,
      );
      return found as never;
    },
    list: async ({ kind }) => ({
      items: this.#objects.filter((object) => object.kind === kind) as never[],
      resourceVersion: "1",
    }),
  };

  /** The API server's part of a dry run: the spec as it was given. */
  readonly #dry = async (
    verb: string,
    draft: { metadata: { name: string } },
    dryRun: boolean | undefined,
  ) => {
    this.asked.push({ verb, dryRun });
    const there = this.#objects.find(({ metadata }) => metadata.name === draft.metadata.name);
    return { ...there, ...draft, metadata: { ...there?.metadata, ...draft.metadata } } as never;
  };
  readonly writer: Writer = {
    jsonPatch: async () => {
      throw new Error("plan writes nothing");
    },
    create: async (_resource, draft, options) => this.#dry("create", draft, options?.dryRun),
    update: async (_resource, draft, options) => this.#dry("update", draft, options?.dryRun),
  };

  async answer(line: string, files: Record<string, string> = {}) {
    const options = parseOptions(["plan", ...line.split(" ")]);
    if (typeof options === "string") throw new Error(options);
    return run(options, {
      reader: this.reader,
      writer: this.writer,
      namespace: "inference",
      now,
      screen: plainScreen,
      readFile: async (path) => files[path] ?? "",
    });
  }
  async view(line: string, files: Record<string, string> = {}): Promise<PlansView> {
    return JSON.parse((await this.answer(`${line} -o json`, files)).text);
  }
}

const brief = ({ pools, nodes }: PlansView) =>
  [...pools.flatMap((pool) => pool.nodes ?? []), ...nodes].map(
    ({ node, does, held, refused }) => `${node} ${refused?.reason ?? does}${held ? ` (${held})` : ""}`,
  );

describe("plan POOL", () => {
  it("has nothing to do for a pool that is at its network's config", async () => {
    const world = new World();
    expect(brief(await world.view("chat"))).toEqual([
      "chat-0 none",
      "chat-1 none",
      "chat-2 none",
      "chat-3 none",
    ]);
    expect((await world.answer("chat")).text).toContain("Nothing to do");
  });

  it("--digest: what each node does, host by host, what is fetched first, and what stays in service", async () => {
    const world = new World();
    const { pools } = await world.view(`chat --digest ${world.digest(1)}`);
    const [plan] = pools;
    expect(brief({ pools, nodes: [], notes: [] })).toEqual(
      [0, 1, 2, 3].map((at) => `chat-${at} patch-runtime`),
    );
    expect(plan?.prefetches).toEqual([{ image: imageOf("engine", "2"), hosts: ["host-0", "host-1"] }]);
    expect(plan).toMatchObject({ lowest: 3, minAvailable: 3, length: 4, proposed: true });
    const { text, code } = await world.answer(`chat --digest ${world.digest(1)}`);
    expect(code).toBeUndefined();
    expect(text).toMatch(/patch-runtime +4 +chat-0, chat-1, chat-2, chat-3 +drained +runtime image/);
    expect(text).not.toContain("The operator does this as soon as it looks");
  });

  it("counts moves that interrupt nothing as such, by the snapshots of the ConfigMap", async () => {
    const world = new World();
    world.snapshots[1] = snapshotOf("1", {
      version: "1.1",
      limits: { max_jobs: 9, max_output_bytes: 1 << 20 },
    });
    world.data = world.published();
    const view = await world.view(`chat --digest ${world.digest(1)}`);
    expect(brief(view)).toEqual([0, 1, 2, 3].map((at) => `chat-${at} live`));
    // All at once: none of them leaves service.
    expect(view.pools).toMatchObject([{ lowest: 4, length: 1 }]);
    expect(view.pools[0]?.steps.map(({ at }) => at)).toEqual([0, 0, 0, 0]);
  });

  it("believes no ConfigMap that the network has not signed, and no snapshot that is not the one of its name", async () => {
    const world = new World();
    world.data = { ...world.data, [snapshotEntry(world.digest(1))]: JSON.stringify(snapshotOf("3")) };
    expect(brief(await world.view(`chat --digest ${world.digest(1)}`))[0]).toBe("chat-0 Waiting");
    const other = new World();
    other.data = new World().data;
    const { notes, pools } = await other.view(`chat --digest ${other.digest(1)}`);
    expect(notes.join()).toContain("each move counts as one that interrupts jobs");
    expect(pools[0]?.nodes?.map(({ does }) => does)).toEqual(["unknown", "unknown", "unknown", "unknown"]);
    expect(pools[0]?.steps).toHaveLength(4);
  });

  it("tells the order all the same where the ConfigMap may not be read", async () => {
    const world = new World();
    world.denied.add("ConfigMap");
    const { pools, notes } = await world.view(`chat --digest ${world.digest(1)}`);
    expect(pools[0]?.steps).toHaveLength(4);
    expect(notes.join()).toContain("cannot get configmaps");
    const { text } = await world.answer(`chat --digest ${world.digest(1)}`);
    expect(text).toMatch(/unknown +4 /);
    // What is not known is not said to interrupt nothing.
    expect(text).not.toContain("go on");
  });

  it("says who refuses, ends with 1, and does not count on those who do", async () => {
    const world = new World();
    world.network = {
      ...world.network,
      spec: { ...world.network.spec, images: { denied: ["registry.example"] } },
    };
    const { text, code } = await world.answer(`chat --digest ${world.digest(1)}`);
    expect(code).toBe(1);
    expect(text).toMatch(/refused +4 /);
    expect(text).toContain("ImageNotAllowed: config 2 runs");
    const { pools } = await world.view(`chat --digest ${world.digest(1)}`);
    // The first that is told is stuck, and the others never get room.
    expect(pools[0]?.steps.map(({ node }) => node)).toEqual(["chat-0"]);
    expect(pools[0]?.held).toEqual(["chat-1", "chat-2", "chat-3"]);
    const unknown = await world.view(`chat --digest sha256:${"9".repeat(64)}`);
    expect(brief(unknown)[0]).toBe("chat-0 DigestNotAllowed");
  });

  it("says what a window, a pause and a partition hold back", async () => {
    const world = new World();
    const windows = [{ schedule: "0 2 * * 6", durationMinutes: 60, timeZone: "UTC" }];
    const { config } = world.network.spec;
    const closed = { ...world.network.spec, config: { ...config, maintenanceWindows: windows } };
    world.network = { ...world.network, spec: closed };
    const at = `chat --digest ${world.digest(1)}`;
    expect(brief(await world.view(at))[0]).toBe("chat-0 patch-runtime (window)");
    expect((await world.answer(at)).text).toContain("which opens at 2026-01-03T02:00:00Z");
    const paused = new World(2, { strategy: { paused: true } });
    expect(brief(await paused.view(`chat --digest ${paused.digest(1)}`))[0]).toBe(
      "chat-0 patch-runtime (paused)",
    );
    const parted = new World(3, { strategy: { rollingUpdate: { partition: 2 } } });
    expect(brief(await parted.view(`chat --digest ${parted.digest(1)}`))).toEqual([
      "chat-0 patch-runtime (partition)",
      "chat-1 patch-runtime (partition)",
      "chat-2 patch-runtime",
    ]);
  });

  it("leaves parked nodes out of what it counts on", async () => {
    const world = new World();
    world.nodes = world.nodes.map((node, at) =>
      at === 0 ? { ...node, spec: { ...node.spec, replicas: 0 as const } } : node,
    );
    const view = await world.view(`chat --digest ${world.digest(1)}`);
    expect(brief(view)[0]).toBe("chat-0 patch-runtime (parked)");
    expect(view.pools).toMatchObject([{ size: 3, minAvailable: 2, length: 3 }]);
  });
});

describe("plan NETWORK", () => {
  const alone = (world: World, pin?: string): ResultityNode => ({
    ...nodeOf(pin === undefined ? {} : { config: { pin } }, "alone"),
    status: { config: { applied: world.digest(0) } },
  });

  it("is about what waits for approval, in all its pools and nodes", async () => {
    const world = new World(2);
    const { config } = world.network.spec;
    world.network = {
      ...world.network,
      spec: { ...world.network.spec, config: { ...config, apply: "Approve" } },
      status: { ...world.network.status, pending: { digest: world.digest(1), version: "2", changes: [] } },
    };
    world.others = [alone(world)];
    expect(brief(await world.view("rnet/testnet"))).toEqual([
      "chat-0 patch-runtime (approval)",
      "chat-1 patch-runtime (approval)",
      "alone patch-runtime",
    ]);
    const { text } = await world.answer("rnet/testnet");
    expect(text).toContain("kubectl resultity approve testnet --digest");
    // Of the pool it says the same, though nothing is asked for.
    expect(brief(await world.view("chat"))[0]).toBe("chat-0 patch-runtime (approval)");
  });

  it("leaves what is pinned where it is", async () => {
    const world = new World(2);
    const { template } = world.pool.spec;
    const pinned = { ...template.spec, config: { pin: world.digest(0) } };
    world.pool = { ...world.pool, spec: { ...world.pool.spec, template: { ...template, spec: pinned } } };
    world.nodes = world.nodes.map((node) => ({
      ...node,
      spec: { ...node.spec, config: { pin: world.digest(0) } },
    }));
    world.others = [alone(world, world.digest(0))];
    const view = await world.view(`rnet/testnet --digest ${world.digest(1)}`);
    expect(brief(view)).toEqual(["chat-0 none", "chat-1 none", "alone none"]);
    expect(view.notes.join()).toContain("pool chat stays at its pin");
    // Asked about the pool itself it is what `rollout undo` would do.
    expect(brief(await world.view(`chat --digest ${world.digest(1)}`))[0]).toBe("chat-0 patch-runtime");
  });
});

describe("plan -f", () => {
  const yaml = (object: { apiVersion: string; kind: string; metadata: { name: string }; spec: unknown }) =>
    JSON.stringify({
      apiVersion: object.apiVersion,
      kind: object.kind,
      metadata: { name: object.metadata.name },
      spec: object.spec,
    });

  it("a pool: what its new template does to each node; nothing is stored", async () => {
    const world = new World();
    const { template } = world.pool.spec;
    const changed = (runtime: object) => ({
      ...world.pool,
      spec: {
        ...world.pool.spec,
        template: { spec: { ...template.spec, runtime: { ...template.spec.runtime, ...runtime } } },
      },
    });
    const of = async (runtime: object) =>
      brief(await world.view("-f pool.yaml", { "pool.yaml": yaml(changed(runtime)) }))[0];
    expect(await of({})).toBe("chat-0 none");
    expect(await of({ args: ["--new"] })).toBe("chat-0 restart-engine");
    expect(await of({ env: [{ name: "A", value: "b" }] })).toBe("chat-0 recreate");
    expect(await of({ engine: "vllm" })).toBe("chat-0 NoRuntimeForEngine");
    expect(world.asked).not.toEqual([]);
    expect(world.asked.every(({ dryRun }) => dryRun)).toBe(true);
  });

  it("a paused pool of which a node is on its way to another config", async () => {
    const world = new World(2);
    const { template } = world.pool.spec;
    world.network = {
      ...world.network,
      status: {
        config: {
          digest: world.digest(1),
          version: "2",
          releaseSequence: 1,
          expiresAt: "2100-01-01T00:00:00Z",
        },
      },
    };
    world.nodes = world.nodes.map((node, at) =>
      at > 0
        ? node
        : {
            ...node,
            status: { ...node.status, config: { ...node.status?.config, target: world.digest(1) } },
          },
    );
    const runtime = { ...template.spec.runtime, engine: "vllm" as const };
    const strategy = { ...world.pool.spec.strategy, paused: true };
    const changed = { ...world.pool.spec, strategy, template: { spec: { ...template.spec, runtime } } };
    const manifest = { "p.yaml": yaml({ ...world.pool, spec: changed }) };
    const { code, text } = await world.answer("-f p.yaml -o json", manifest);
    const view: PlansView = JSON.parse(text);
    expect(brief(view)[1]).toContain("NoRuntimeForEngine");
    expect(code).toBe(1);
  });

  it("a pool with more nodes, and one with fewer", async () => {
    const world = new World(2);
    const sized = (replicas: number) => ({
      "p.yaml": yaml({ ...world.pool, spec: { ...world.pool.spec, replicas } }),
    });
    expect(brief(await world.view("-f p.yaml", sized(3)))).toEqual([
      "chat-0 none",
      "chat-1 none",
      "chat-2 create",
    ]);
    expect(brief(await world.view("-f p.yaml", sized(1)))).toEqual(["chat-0 none", "chat-1 delete"]);
  });

  it("a network: a pin, another agent, an image that is denied", async () => {
    const world = new World(2);
    const { spec } = world.network;
    const of = async (changes: object) =>
      brief(
        await world.view("-f n.yaml", {
          "n.yaml": yaml({ ...world.network, spec: { ...spec, ...changes } }),
        }),
      );
    expect(await of({ config: { ...spec.config, pin: world.digest(1) } })).toEqual([
      "chat-0 patch-runtime",
      "chat-1 patch-runtime",
    ]);
    expect(await of({ agent: { image: imageOf("agent", "v2") } })).toEqual([
      "chat-0 patch-agent",
      "chat-1 patch-agent",
    ]);
    expect(await of({ images: { denied: ["registry.example"] } })).toEqual([
      "chat-0 ImageNotAllowed",
      "chat-1 ImageNotAllowed",
    ]);
  });

  it("a pin to a fourth config, which has room as the operator counts it: in bytes", async () => {
    const world = new World(3);
    world.snapshots.push(snapshotOf("3"), snapshotOf("4"));
    world.data = world.published();
    world.nodes = world.nodes.map((node, at) => {
      const config = { applied: world.digest(at), target: world.digest(at) };
      return { ...node, status: { ...node.status, config } };
    });
    const { spec } = world.network;
    const pinned = { ...world.network, spec: { ...spec, config: { ...spec.config, pin: world.digest(3) } } };
    const { pools } = await world.view("-f n.yaml", { "n.yaml": yaml(pinned) });
    expect(pools[0]?.target).toBe(world.digest(3));
  });

  it("a node of no pool, and a manifest that has none of ours", async () => {
    const world = new World(1);
    const node: ResultityNode = { ...nodeOf({}, "alone"), status: { config: { applied: world.digest(0) } } };
    world.others = [node];
    const args = { ...node, spec: { ...node.spec, runtime: { ...node.spec.runtime, args: ["--x"] } } };
    const files = {
      "n.yaml": yaml(args),
      "no.yaml": "kind: Pod\napiVersion: v1\nmetadata: {name: a}\nspec: {}",
    };
    expect(brief(await world.view("-f n.yaml", files))).toEqual(["alone restart-engine"]);
    await expect(world.answer("-f no.yaml", files)).rejects.toThrow("the manifest holds no ResultityNetwork");
    await expect(world.answer("-f broken.yaml", { "broken.yaml": "a: [" })).rejects.toThrow("is no YAML");
  });

  it("what the manifest does not say stays as it is, as `kubectl apply` has it, but for what it said before", async () => {
    const world = new World(3);
    const { replicas: _, ...spec } = world.pool.spec;
    world.pool = {
      ...world.pool,
      spec: { ...world.pool.spec, strategy: { ...spec.strategy, paused: true } },
    };
    const { strategy: __, ...rest } = spec;
    const manifest = { "p.yaml": yaml({ ...world.pool, spec: rest }) };
    const plan = async () => (await world.view("-f p.yaml", manifest)).pools[0];
    expect(await plan()).toMatchObject({ wanted: 3, paused: true, steps: [] });

    const before = { spec: { ...rest, template: { spec: { ...spec.template.spec, models: ["m"] } } } };
    const { template } = world.pool.spec;
    world.pool = {
      ...world.pool,
      metadata: {
        ...world.pool.metadata,
        annotations: { "kubectl.kubernetes.io/last-applied-configuration": JSON.stringify(before) },
      },
      spec: {
        ...world.pool.spec,
        template: { spec: { ...template.spec, models: ["m"] } },
        strategy: { ...spec.strategy, paused: false },
      },
    };
    const [first] = (await plan())?.next ?? [];
    expect(first).toBeUndefined();
  });

  it("a network and nodes of it together, each once and by the new network", async () => {
    const world = new World(1);
    const { spec } = world.network;
    const alone = (name: string): ResultityNode => ({
      ...nodeOf({}, name),
      status: { config: { applied: world.digest(0) } },
    });
    world.others = [alone("one"), alone("two")];
    const pinned = { ...world.network, spec: { ...spec, config: { ...spec.config, pin: world.digest(1) } } };
    const one = alone("one");
    const held = { ...one, spec: { ...one.spec, config: { pin: world.digest(0) } } };
    const files = { "all.yaml": [pinned, held, alone("new")].map(yaml).join("\n---\n") };
    expect(brief(await world.view("-f all.yaml", files))).toEqual([
      "chat-0 patch-runtime",
      "one live",
      "two patch-runtime",
      "new create",
    ]);
  });

  it("a node of a network that the manifest makes is not refused", async () => {
    const world = new World(1);
    const node = nodeOf({}, "alone");
    const other = { ...world.network, metadata: { ...world.network.metadata, name: "other" } };
    const there = { ...node, spec: { ...node.spec, networkRef: { name: "other" } } };
    const files = { "all.yaml": [other, there].map(yaml).join("\n---\n") };
    const { code, text } = await world.answer("-f all.yaml", files);
    expect(code).toBeUndefined();
    expect(text).toContain("network other is new");
  });
});
