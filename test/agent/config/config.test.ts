import { beforeEach, describe, expect, it } from "vitest";
import { ConfigLoop } from "../../../src/agent/config/config.ts";
import type { ConfigHooks } from "../../../src/agent/config/parts.ts";
import { type FakePorts, fakePorts } from "../fixture/fakes.ts";
import { type Config, desiredOf, TestNetwork } from "../fixture/network.ts";

const network = new TestNetwork();
const day = 86_400_000;
const endpoint = "http://io.example";
let ports: FakePorts;
let loop: ConfigLoop;
/** What the config had the engine do. */
let done: string[];
let starts: number | undefined;
let served: Map<string, string>;

const names = new Map<string, string>();

/** Configs with a short name each, for reading `done`. */
function configOf(name: string, over: Parameters<TestNetwork["config"]>[0] = {}): Config {
  const config = network.config({ version: name, ...over });
  names.set(config.digest, name);
  return config;
}

const otherImage = (config: Config, name: string, hex = "2"): Config =>
  configOf(name, {
    ...config.snapshot,
    version: name,
    runtimes: config.snapshot.runtimes.map((entry) => ({
      ...entry,
      image: `registry.example/engine@sha256:${hex.repeat(64)}`,
    })),
  });

const hooks: ConfigHooks = {
  weights: {
    want: () => {},
    looked: () => Promise.resolve(),
    ready: () => true,
    problem: () => undefined,
  },
  launcherStarts: () => starts,
  render: (config, when) => {
    done.push(`${when} ${names.get(config.digest)} ${config.args.join(" ")}`.trim());
    return Promise.resolve();
  },
  live: (config) => {
    done.push(`live ${names.get(config.digest)}`);
    return Promise.resolve();
  },
  restore: () => {
    done.push("restore");
    return Promise.resolve();
  },
  wantRestart: () => {
    done.push("restart");
    void loop.restartNow();
  },
  changed: () => {},
};

function makeLoop(agentVersion = "1.0.0"): void {
  loop = new ConfigLoop(
    ports,
    {
      network: network.name,
      root: network.root,
      endpoints: [endpoint],
      stateDir: "/state",
      networkDir: "/network",
      podDir: "/pod",
      agentVersion,
    },
    hooks,
  );
}

beforeEach(() => {
  ports = fakePorts();
  done = [];
  starts = 1;
  served = new Map();
  ports.http.auto = ({ url }) => {
    const body = served.get(url.slice(endpoint.length));
    return body === undefined ? { status: 404, body: "" } : { status: 200, body };
  };
  makeLoop();
});

const mount = (release: object, ...configs: readonly Config[]) =>
  Promise.all([
    ports.files.write("/network/release.json", JSON.stringify(release)),
    ...configs.map(({ digest, bytes }) => ports.files.write(`/network/snapshot-${digest.slice(7)}`, bytes)),
  ]);
const serve = (release: object, ...configs: readonly Config[]) => {
  served.set("/v1/config/release", JSON.stringify(release));
  for (const { digest, bytes } of configs)
    served.set(`/v1/config/snapshots/${digest}`, bytes.toString("utf8"));
};
const desire = (over: Parameters<typeof desiredOf>[0]) =>
  ports.files.write("/pod/desired", JSON.stringify(desiredOf(over)));
const allow = (...configs: readonly Config[]) =>
  configs.map(({ digest }) => ({ digest, expires: ports.clock.now() + 30 * day }));
/** Lets the loop look at what has changed. */
const settle = (ms = 3_000) => ports.clock.advanceAsync(ms, 250);
const applied = () => names.get(loop.view.applied?.digest ?? "");
const latest = (sequence: number) =>
  loop.learnLatest({ release_sequence: sequence, digest: null, nonce: "" });

describe("the first config", () => {
  it("is the operator's target, from the mount", async () => {
    const [a, b] = [configOf("a"), configOf("b")];
    await mount(network.release(1, a, ports.clock.now(), { allowed: allow(a, b) }), a, b);
    await desire({ target: b.digest });
    await loop.start();
    expect(done).toEqual(["now b"]);
    expect(loop.view).toMatchObject({ releaseSequence: 1, invalid: undefined, problem: null });
    expect(ports.http.exchanges).toEqual([]);
  });

  it("is the release's current one when the operator names none", async () => {
    const a = configOf("a");
    await mount(network.release(1, a, ports.clock.now()), a);
    await desire({ target: null });
    await loop.start();
    expect(done).toEqual(["now a"]);
  });

  it("waits for the operator's first word", async () => {
    const a = configOf("a");
    await mount(network.release(1, a, ports.clock.now()), a);
    await ports.files.write("/pod/desired", "");
    await loop.start();
    expect(done).toEqual([]);
    await desire({ target: a.digest });
    await settle();
    expect(done).toEqual(["now a"]);
  });

  it("comes from the service where there is no mount, after it could not be had at first", async () => {
    const a = configOf("a");
    await desire({ target: a.digest });
    await loop.start();
    expect(loop.view.problem).toMatchObject({ code: "unavailable" });
    serve(network.release(1, a, ports.clock.now()), a);
    await settle(70_000);
    expect(done).toEqual(["now a"]);
    expect(loop.view.problem).toBeNull();
  });

  it("asks a service that is away with back-off", async () => {
    await desire({ target: configOf("a").digest });
    await loop.start();
    await settle(600_000);
    // Every second would be 600; the back-off doubles to half of 64 s, as the jitter here is always one half.
    expect(ports.http.exchanges.length).toBeLessThan(40);
    expect(ports.http.exchanges.length).toBeGreaterThan(10);
  });
});

describe("what is refused", () => {
  const codeAfter = async () => {
    await loop.start();
    expect(done).toEqual([]);
    return loop.view.problem?.code;
  };

  it("B24 a release of another network", async () => {
    const other = new TestNetwork();
    const a = configOf("a");
    await mount(other.release(1, a, ports.clock.now()), a);
    await desire({ target: a.digest });
    served.clear();
    expect(await codeAfter()).toBeDefined();
    expect(loop.view.releaseSequence).toBe(0);
  });

  it("B24 a release with too few signatures", async () => {
    const a = configOf("a");
    const release = network.release(1, a, ports.clock.now(), { keys: network.configKeys.slice(0, 1) });
    await mount(release, a);
    serve(release, a);
    await desire({ target: a.digest });
    expect(await codeAfter()).toBe("threshold");
  });

  it("B24 a digest that the release does not allow", async () => {
    const [a, b] = [configOf("a"), configOf("b")];
    await mount(network.release(1, a, ports.clock.now()), a, b);
    await desire({ target: b.digest });
    expect(await codeAfter()).toBe("not_allowed");
    expect(loop.view.problem?.digest).toBe(b.digest);
  });

  it("B24 a digest that has expired", async () => {
    const a = configOf("a");
    const allowed = [{ digest: a.digest, expires: ports.clock.now() - 1 }];
    await mount(network.release(1, a, ports.clock.now(), { allowed }), a);
    await desire({ target: a.digest });
    expect(await codeAfter()).toBe("expired");
  });

  it("a config for newer agents", async () => {
    const a = configOf("a", { min_agent_version: "2.0.0" });
    await mount(network.release(1, a, ports.clock.now()), a);
    await desire({ target: a.digest });
    expect(await codeAfter()).toBe("version");
    expect(loop.view.problem?.message).toContain("agent's image");
  });

  it("an engine that the config does not have", async () => {
    const a = configOf("a");
    await mount(network.release(1, a, ports.clock.now()), a);
    await desire({ target: a.digest, engine: "other" });
    expect(await codeAfter()).toBe("no_runtime");
  });

  it("wishes that cannot be read, while the last good ones go on", async () => {
    const a = configOf("a");
    await mount(network.release(1, a, ports.clock.now()), a);
    await desire({ target: a.digest });
    await loop.start();
    await ports.files.write("/pod/desired", '{"revision": "three"}');
    await settle();
    expect(loop.view.problem?.code).toBe("schema");
    expect(loop.view.desired?.revision).toBe(1);
    expect(applied()).toBe("a");
  });
});

describe("new models", () => {
  it.each([
    ["ollama", "are loaded while it serves", "live b"],
    ["vllm", "take a restart", "restart"],
  ])("of %s %s", async (engine, _, expected) => {
    const [runtime] = configOf("any").snapshot.runtimes;
    if (!runtime) throw new Error("the test network's config has no runtime");
    const runtimes = [{ ...runtime, engine }];
    const a = configOf("a", { runtimes });
    const b = configOf("b", { runtimes, models: [{ name: "m2", engines: [] }] });
    await mount(network.release(1, a, ports.clock.now(), { allowed: allow(a, b) }), a, b);
    await desire({ target: a.digest, engine });
    await loop.start();
    await desire({ revision: 2, target: b.digest, engine });
    await settle();
    expect(done.slice(0, 2)).toEqual(["now a", expected]);
    expect(applied()).toBe("b");
  });
});

describe("releases never go back", () => {
  it("keeps the newest of disk, mount and latest", async () => {
    const a = configOf("a");
    await mount(network.release(4, a, ports.clock.now()), a);
    await desire({ target: a.digest });
    await loop.start();
    expect(loop.view.releaseSequence).toBe(4);
    serve(network.release(6, a, ports.clock.now()), a);
    latest(6);
    await settle();
    expect(loop.view.releaseSequence).toBe(6);
    expect(ports.files.text("/state/known-release")).toBe("6");

    // The next process knows it, whatever the mount says; a mount that is late is no fault.
    makeLoop();
    await loop.start();
    expect(loop.view).toMatchObject({ releaseSequence: 6, problem: null, invalid: undefined });
  });

  it("tells a mount that went back from one that is late", async () => {
    const [a, b] = [configOf("a"), configOf("b")];
    await mount(network.release(2, a, ports.clock.now()), a);
    await desire({ target: a.digest });
    await loop.start();
    await mount(network.release(1, b, ports.clock.now()), b);
    await settle();
    expect(loop.view).toMatchObject({
      releaseSequence: 2,
      invalid: undefined,
      problem: { code: "rollback" },
    });
  });

  it("takes nothing from a mount that is older than what is known to exist", async () => {
    const a = configOf("a");
    await ports.files.write("/state/known-release", "9");
    await mount(network.release(8, a, ports.clock.now()), a);
    serve(network.release(8, a, ports.clock.now()), a);
    await desire({ target: a.digest });
    await loop.start();
    expect(done).toEqual([]);
    expect(loop.view.problem?.code).toBe("rollback");
  });

  it("stops taking jobs when the new release withdraws what is applied, and leaves the engine alone", async () => {
    const [a, b] = [configOf("a"), configOf("b")];
    await mount(network.release(1, a, ports.clock.now()), a);
    await desire({ target: a.digest });
    await loop.start();
    await mount(network.release(2, b, ports.clock.now()), a, b);
    await settle();
    expect(loop.view.invalid).toContain("not allowed");
    expect(done).toEqual(["now a"]);
  });

  it("stops taking jobs when the time of what is applied is over, and takes them again after a renewal", async () => {
    const a = configOf("a");
    const allowed = [{ digest: a.digest, expires: ports.clock.now() + 10_000 }];
    await mount(network.release(1, a, ports.clock.now(), { allowed }), a);
    await desire({ target: a.digest });
    await loop.start();
    expect(loop.view.invalid).toBeUndefined();
    await settle(12_000);
    expect(loop.view.invalid).toContain("expired");
    await mount(network.release(2, a, ports.clock.now()), a);
    await settle();
    expect(loop.view.invalid).toBeUndefined();
    expect(done).toEqual(["now a"]);
  });
});

describe("a move", () => {
  let a: Config;
  let b: Config;
  let c: Config;

  beforeEach(async () => {
    a = configOf("a");
    b = otherImage(a, "b");
    c = otherImage(a, "c", "3");
    await mount(network.release(1, a, ports.clock.now(), { allowed: allow(a, b, c) }), a, b, c);
    await desire({ target: a.digest });
    await loop.start();
    done = [];
  });

  /** A new pod, whose runtime has not begun. */
  async function startAnew(): Promise<void> {
    loop.stop();
    await ports.files.remove("/state/applied.json");
    starts = undefined;
    makeLoop();
    await loop.start();
    await settle();
    expect(done).toEqual(["now a"]);
  }

  it("is staged before it is wanted", async () => {
    await desire({ revision: 2, target: a.digest, stage: b.digest });
    await settle();
    expect(loop.view.staged).toBe(b.digest);
    expect(applied()).toBe("a");
    expect(ports.files.content.has(`/state/snapshots/${b.digest.slice(7)}`)).toBe(true);
  });

  it("with a new image waits for the stop, and is taken back when none follows", async () => {
    await desire({ revision: 2, target: b.digest, plannedStop: "runtime-image" });
    await settle();
    expect(done).toEqual([]);
    await loop.applyForStop();
    expect(done).toEqual(["next b"]);
    expect(applied()).toBe("b");
    await loop.revert();
    expect(done).toEqual(["next b", "restore"]);
    expect(applied()).toBe("a");
    // Then the same again: the drain may be asked for a second time.
    await loop.applyForStop();
    expect(done).toEqual(["next b", "restore", "next b"]);
  });

  it("with a new image is rendered for a stop that is awaited, and not once that is over", async () => {
    await desire({ revision: 2, target: b.digest, plannedStop: "runtime-image" });
    await settle();
    await loop.applyForStop(() => false);
    expect(done).toEqual([]);
    expect(applied()).toBe("a");
  });

  it("with a new image is made up for when the container was replaced without a drain", async () => {
    await settle();
    await desire({ revision: 2, target: b.digest, plannedStop: "runtime-image" });
    await settle();
    expect(done).toEqual([]);
    starts = 2;
    await settle();
    expect(done).toEqual(["restart", "now b"]);
  });

  it("is not made up for because the container was replaced before the move was wanted", async () => {
    starts = 2;
    await settle();
    await desire({ revision: 2, target: b.digest, plannedStop: "runtime-image" });
    await settle();
    expect(done).toEqual([]);
  });

  it("with a new image is no stop where nothing has run yet: what begins first begins with it", async () => {
    await startAnew();
    await desire({ revision: 2, target: b.digest, plannedStop: "runtime-image" });
    await settle();
    // A launcher that runs after all, and has not been heard of, is left alone until it is stopped.
    expect(done).toEqual(["now a", "next b"]);
    starts = 1;
    await settle();
    expect(applied()).toBe("b");
    await desire({ revision: 3, target: a.digest, plannedStop: "runtime-image" });
    await settle();
    await loop.applyForStop();
    expect(done).toEqual(["now a", "next b", "next a"]);
  });

  it("with a new image leaves the first container alone, though nobody looked between its start and the move", async () => {
    await startAnew();
    starts = 1;
    await desire({ revision: 2, target: b.digest, plannedStop: "runtime-image" });
    await settle();
    expect(done).toEqual(["now a"]);
    starts = 2;
    await settle();
    expect(done).toEqual(["now a", "restart", "now b"]);
  });

  it.each(["a", "c"])(
    "whose image never comes turns to %s, with which the container then begins",
    async (name) => {
      await desire({ revision: 2, target: b.digest, plannedStop: "runtime-image" });
      await loop.applyForStop();
      const next = name === "a" ? a : c;
      await desire({ revision: 3, target: next.digest, plannedStop: "runtime-image" });
      await settle();
      expect(done).toEqual(["next b", `next ${name}`]);
      starts = 2;
      loop.settled();
      await settle();
      expect(applied()).toBe(name);
      await loop.revert();
      expect(applied()).toBe(name);
      expect(done).toEqual(["next b", `next ${name}`]);
    },
  );

  it("that was turned from goes back to what runs when no stop follows, and what is wanted is awaited again", async () => {
    await desire({ revision: 2, target: b.digest, plannedStop: "runtime-image" });
    await loop.applyForStop();
    await desire({ revision: 3, target: c.digest, plannedStop: "runtime-image" });
    await settle();
    await loop.revert();
    await settle();
    expect(applied()).toBe("a");
    expect(done).toEqual(["next b", "next c", "restore"]);
    starts = 2;
    await settle();
    expect(done.slice(3)).toEqual(["restart", "now c"]);
  });

  it("with new arguments restarts the engine", async () => {
    await desire({ revision: 2, target: a.digest, args: ["--x"] });
    await settle();
    expect(done).toEqual(["restart", "now a --x"]);
  });

  it("reads the latest wishes before it renders for a stop", async () => {
    await desire({ revision: 2, target: b.digest, plannedStop: "runtime-image" });
    await loop.applyForStop();
    expect(done).toEqual(["next b"]);
  });

  it("with no target keeps what is applied", async () => {
    await desire({ revision: 2, target: null });
    await settle();
    expect(applied()).toBe("a");
    expect(done).toEqual([]);
  });

  it("survives a restart of the agent, which renders the same again", async () => {
    makeLoop();
    await loop.start();
    expect(done).toEqual(["now a"]);
    expect(applied()).toBe("a");
  });

  it("F26 is not believed done while the disk is full, and is done once it is not", async () => {
    ports.files.failing = true;
    await desire({ revision: 2, target: a.digest, args: ["--x"] }).catch(() => undefined);
    ports.files.content.set(
      "/pod/desired",
      Buffer.from(JSON.stringify(desiredOf({ revision: 2, target: a.digest, args: ["--x"] }))),
    );
    await settle();
    expect(loop.view.applied?.args).toEqual([]);
    ports.files.failing = false;
    await settle();
    expect(loop.view.applied?.args).toEqual(["--x"]);
  });
});
