import { beforeEach, describe, expect, it } from "vitest";
import { ConfigLoop } from "../../../src/agent/config/config.ts";
import type { WeightFile } from "../../../src/protocol/config/weights.ts";
import type { ModelMirror } from "../../../src/protocol/desired.ts";
import { type FakePorts, fakePorts } from "../fixture/fakes.ts";
import { type Config, desiredOf, TestNetwork } from "../fixture/network.ts";

const network = new TestNetwork();

let ports: FakePorts;
let loop: ConfigLoop;
/** What was asked of the engine, by version of the config. */
let done: string[];
/** Versions of the weights that are on disk, that were wanted last, and why others cannot be had. */
let onDisk: Set<string>;
let wanted: string[];
let mirrors: readonly ModelMirror[];
let problem: string | undefined;

const fileOf = (version: string): WeightFile => ({
  path: version,
  sha256: version.codePointAt(0)?.toString(16).padStart(64, "0") ?? "",
  size: 1,
});
const configOf = (
  version: string,
  weights = version,
  limits = { max_jobs: 4, max_output_bytes: 1 },
): Config =>
  network.config({
    version,
    limits,
    models: [{ name: "m1", engines: [], files: [fileOf(weights)], sources: ["http://a"] }],
  });
const [a, b] = [configOf("a"), configOf("b")];

function makeLoop(): void {
  loop = new ConfigLoop(
    ports,
    {
      network: network.name,
      root: network.root,
      endpoints: ["http://io.example"],
      stateDir: "/state",
      networkDir: "/network",
      podDir: "/pod",
      agentVersion: "1.0.0",
    },
    {
      weights: {
        want: (weights, given) => {
          wanted = weights.flatMap(({ files }) => files.map(({ path }) => path));
          mirrors = given;
        },
        looked: () => Promise.resolve(),
        ready: (weights) => weights.every(({ files }) => files.every(({ path }) => onDisk.has(path))),
        problem: (weights) => (loop.view.applied && weights.length > 0 ? problem : undefined),
      },
      launcherStarts: () => 1,
      render: ({ snapshot }, when) => {
        done.push(`${when} ${snapshot.version}`);
        return Promise.resolve();
      },
      live: ({ snapshot }) => {
        done.push(`live ${snapshot.version}`);
        return Promise.resolve();
      },
      restore: () => Promise.resolve(),
      wantRestart: () => {
        done.push("restart");
        void loop.restartNow();
      },
      changed: () => {},
    },
  );
}

const settle = () => ports.clock.advanceAsync(3_000, 250);
const desire = (over: Parameters<typeof desiredOf>[0]) =>
  ports.files.write("/pod/desired", JSON.stringify(desiredOf(over)));

let sequence = 0;
async function publish(...configs: readonly [Config, ...Config[]]): Promise<void> {
  const expires = ports.clock.now() + 86_400_000;
  const allowed = configs.map(({ digest }) => ({ digest, expires }));
  const release = network.release(++sequence, configs[0], ports.clock.now(), { allowed });
  await ports.files.write("/network/release.json", JSON.stringify(release));
  for (const { digest, bytes } of configs)
    await ports.files.write(`/network/snapshot-${digest.slice(7)}`, bytes);
}

beforeEach(async () => {
  ports = fakePorts();
  done = [];
  onDisk = new Set();
  wanted = [];
  mirrors = [];
  problem = undefined;
  makeLoop();
  await publish(a, b);
});

describe("a config whose weights are not there", () => {
  it("starts no engine until they are, however long that takes", async () => {
    await desire({ target: a.digest });
    await loop.start();
    await settle();
    expect(wanted).toEqual(["a"]);
    expect(done).toEqual([]);
    expect(loop.view).toMatchObject({ applied: undefined, target: a.digest, problem: null });
    expect(loop.view.invalid).toBe("the weights of config a are not there yet");
    onDisk.add("a");
    await settle();
    expect(done).toEqual(["now a"]);
  });

  it("does not replace the one that runs, nor is it staged", async () => {
    onDisk.add("a");
    await desire({ target: a.digest, stage: b.digest });
    await loop.start();
    await settle();
    expect(wanted).toEqual(["a", "a", "b"]);
    expect(loop.view.staged).toBeNull();
    await desire({ revision: 2, target: b.digest });
    await settle();
    expect(done).toEqual(["now a"]);
    expect(loop.view.applied?.digest).toBe(a.digest);

    await desire({ revision: 3, target: a.digest, stage: b.digest });
    onDisk.add("b");
    await settle();
    expect(loop.view.staged).toBe(b.digest);
    await desire({ revision: 4, target: b.digest });
    await settle();
    expect(done).toEqual(["now a", "restart", "now b"]);
    expect(wanted).toEqual(["b", "b"]);
  });

  it("is not applied by a stop that somebody else plans", async () => {
    onDisk.add("a");
    await desire({ target: a.digest });
    await loop.start();
    await desire({ revision: 2, target: b.digest, plannedStop: "recreate" });
    await loop.applyForStop();
    expect(done).toEqual(["now a"]);
  });

  it("is a problem only once they cannot be had, told with its digest", async () => {
    onDisk.add("a");
    await desire({ target: a.digest, stage: b.digest });
    await loop.start();
    expect(loop.view.problem).toBeNull();
    problem = "model m1: file b: HTTP 404";
    await settle();
    // What runs has the same problem here; it is the target's that counts.
    expect(loop.view.problem).toMatchObject({ code: "unavailable", message: problem });
    problem = undefined;
    await settle();
    expect(loop.view.problem).toBeNull();
  });
});

describe("weights", () => {
  beforeEach(async () => {
    onDisk.add("a");
    await desire({ target: a.digest });
    await loop.start();
    done = [];
  });

  it("of another version under the same name are another engine's; the same ones are not", async () => {
    const same = configOf("same", "a", { max_jobs: 9, max_output_bytes: 1 });
    await publish(a, b, same);
    await desire({ revision: 2, target: same.digest });
    await settle();
    expect(done).toEqual(["live same"]);
    onDisk.add("b");
    await desire({ revision: 3, target: b.digest });
    await settle();
    expect(done).toEqual(["live same", "restart", "now b"]);
  });

  it("that the config does not name cannot be asked for by its command line: no engine is drained for it", async () => {
    const command = ["/engine", "--port", "{port}", "{model_path}"];
    const bad = network.config({ version: "bad", command });
    await publish(a, bad);
    await desire({ revision: 2, target: bad.digest });
    await settle();
    expect(done).toEqual([]);
    expect(loop.view.problem).toMatchObject({ code: "no_runtime", digest: bad.digest });
    expect(loop.view.problem?.message).toMatch(/\{model_path\}.*models\[\]\.files/);
  });

  it("come from the mirrors that the operator names", async () => {
    const named = [{ source: "http://a", mirrors: ["http://near"] }];
    await desire({ revision: 2, target: a.digest, mirrors: named });
    await settle();
    expect(mirrors).toEqual(named);
  });

  it("are awaited by the process that takes up the last good config too", async () => {
    await desire({ target: null });
    onDisk.clear();
    loop.stop();
    makeLoop();
    await loop.start();
    await settle();
    expect(done).toEqual([]);
    expect(wanted).toContain("a");
    onDisk.add("a");
    await settle();
    expect(done).toEqual(["now a"]);
    expect(loop.view.applied?.digest).toBe(a.digest);
  });

  it("of the last good config are forgotten once another one is applied", async () => {
    onDisk = new Set(["b"]);
    loop.stop();
    await desire({ revision: 2, target: b.digest });
    makeLoop();
    await loop.start();
    await settle();
    expect(done).toEqual(["now b"]);
    expect(wanted).toEqual(["b", "b"]);
  });
});
