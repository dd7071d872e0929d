import { beforeEach, describe, expect, it } from "vitest";
import { ConfigLoop } from "../../../src/agent/config/config.ts";
import { parseWindow } from "../../../src/agent/standalone/windows.ts";
import { desiredOf, type Standalone } from "../../../src/agent/standalone/wish.ts";
import { type FakePorts, fakePorts } from "../fixture/fakes.ts";
import { type Config, TestNetwork } from "../fixture/network.ts";

const network = new TestNetwork();
const day = 86_400_000;
const hour = 3_600_000;
const wish = desiredOf({
  engine: "test",
  models: [],
  args: ["--own"],
  gpuProduct: null,
  gpuCount: 0,
  accept: true,
  subclouds: [],
  drainTimeoutMs: 1,
  evictionTimeoutMs: 1,
});
const [a, b] = [
  network.config({ version: "a" }),
  network.config({ version: "b", command: ["/engine", "--new", "{port}"] }),
];
let ports: FakePorts;
let loop: ConfigLoop;
let done: string[];
let starts: number;

beforeEach(() => {
  ports = fakePorts();
  done = [];
  starts = 1;
});

async function start(standalone: Partial<Standalone>): Promise<void> {
  loop = new ConfigLoop(
    ports,
    {
      network: network.name,
      root: network.root,
      endpoints: ["http://io.example"],
      stateDir: "/state",
      networkDir: "/network",
      podDir: undefined,
      standalone: { wish, pin: undefined, windows: [], mirrors: [], ...standalone },
      agentVersion: "1.0.0",
    },
    {
      weights: {
        want: () => {},
        looked: () => Promise.resolve(),
        ready: () => true,
        problem: () => undefined,
      },
      launcherStarts: () => starts,
      render: ({ snapshot, args }, when) => {
        done.push(`${when} ${snapshot.version} ${args.join(" ")}`);
        return Promise.resolve();
      },
      live: () => Promise.resolve(),
      restore: () => Promise.resolve(),
      wantRestart: () => void loop.restartNow(),
      changed: () => {},
    },
  );
  await loop.start();
}

async function publish(sequence: number, current: Config, ...others: readonly Config[]): Promise<void> {
  const all = [current, ...others];
  for (const { digest, bytes } of all) await ports.files.write(`/network/snapshot-${digest.slice(7)}`, bytes);
  const allowed = all.map(({ digest }) => ({ digest, expires: ports.clock.now() + 30 * day }));
  const release = network.release(sequence, current, ports.clock.now(), { allowed });
  await ports.files.write("/network/release.json", JSON.stringify(release));
}
const settle = (ms = 3_000) => ports.clock.advanceAsync(ms, 500);
const windows = (text: string) => [parseWindow(text) ?? { fromMinute: 0, toMinute: 0 }];

describe("a node without an operator", () => {
  it("runs what is current with its own arguments, and follows by itself", async () => {
    await publish(1, a);
    await start({});
    await publish(2, b, a);
    await settle();
    expect(done).toEqual(["now a --own", "now b --own"]);
  });

  it("waits for its hours", async () => {
    // The clock begins at midnight.
    await publish(1, a);
    await start({ windows: windows("02:00-04:00") });
    await publish(2, b, a);
    await settle();
    expect(done).toEqual(["now a --own"]);
    await ports.clock.advanceAsync(2 * hour, 60_000);
    expect(done).toEqual(["now a --own", "now b --own"]);
  });

  it("does not wait when what it has was withdrawn", async () => {
    await publish(1, a);
    await start({ windows: windows("02:00-04:00") });
    await publish(2, b);
    await settle();
    expect(done).toEqual(["now a --own", "now b --own"]);
  });

  it("stays on its pin, and takes no jobs when that is withdrawn", async () => {
    await publish(1, a);
    await start({ pin: a.digest });
    await publish(2, b, a);
    await settle();
    expect([done, loop.view.invalid]).toEqual([["now a --own"], undefined]);
    await publish(3, b);
    await settle();
    expect(done).toEqual(["now a --own"]);
    expect(loop.view.invalid).toContain("is not allowed by release 3");
  });

  it.each([
    ["runs", 1, 2],
    ["has not run yet", 0, 2],
  ])(
    "tells its owner when a config waits for another engine and one %s, and moves when the launcher begins anew",
    async (_, before, then) => {
      starts = before;
      const image = `registry.example/engine@sha256:${"2".repeat(64)}`;
      const other = network.config({
        version: "c",
        runtimes: a.snapshot.runtimes.map((entry) => ({ ...entry, image })),
      });
      await publish(1, a);
      await start({});
      await publish(2, other, a);
      await settle();
      expect(done).toEqual(["now a --own"]);
      expect(loop.view.problem?.message).toContain(`install the engine of ${image} here`);
      starts = then;
      await settle();
      expect(loop.view.applied?.digest).toBe(other.digest);
      expect(loop.view.problem).toBeNull();
    },
  );
});
