import { beforeEach, describe, expect, it } from "vitest";
import type { NodeConfig } from "../../../src/agent/config/plan.ts";
import { EngineWatch } from "../../../src/agent/engine/watch.ts";
import { EngineControl, type RuntimeEvent } from "../../../src/agent/launcher/engine-control.ts";
import { LaunchDir } from "../../../src/agent/launcher/launch-dir.ts";
import { selectRuntime } from "../../../src/protocol/config/select.ts";
import { type FakePorts, fakePorts } from "../fixture/fakes.ts";
import { TestNetwork } from "../fixture/network.ts";

const network = new TestNetwork();

interface Wanted {
  readonly engine: string;
  readonly models?: readonly string[];
  readonly gpuCount?: number;
  readonly command?: readonly string[];
}

function configOf({ engine, models = ["m1"], gpuCount = 1, command = ["serve"] }: Wanted): NodeConfig {
  const [runtime] = network.config({ command }).snapshot.runtimes;
  if (!runtime) throw new Error("the test network's config has no runtime");
  const { digest, snapshot } = network.config({
    runtimes: [{ ...runtime, engine }],
    models: models.map((name) => ({ name, engines: [] })),
  });
  return { digest, snapshot, selection: selectRuntime(snapshot, { engine, models: [] }), args: [], gpuCount };
}

let ports: FakePorts;
let watch: EngineWatch;

/** A control on the same files: what a restarted agent has. */
async function control(
  restartable = false,
  event: (event: RuntimeEvent) => void = () => {},
): Promise<EngineControl> {
  watch = new EngineWatch(ports, () => {});
  const made = new EngineControl(ports, new LaunchDir(ports.files, "/launch"), watch, event, restartable);
  await made.start();
  return made;
}

const pointedAt = () => ports.files.text("/launch/generation");
const start = (number: number) => ports.files.text(`/launch/gen/${number}/start`);

beforeEach(() => {
  ports = fakePorts();
});

describe("EngineControl", () => {
  it("starts the engine as its adapter says, with variables and GPUs", async () => {
    const vllm = await control();
    await vllm.render(configOf({ engine: "vllm", gpuCount: 2 }), {}, "now");
    expect(start(1)).toBe(
      "exec 'serve' '--host' '127.0.0.1' '--port' '20000' '--tensor-parallel-size' '2' '--served-model-name' 'm1'\n",
    );
    const ollama = await control();
    await ollama.render(configOf({ engine: "ollama" }), {}, "now");
    expect(start(2)).toMatch(/^export OLLAMA_HOST='127\.0\.0\.1:20001'$/m);
    expect(start(2)).toMatch(/^exec 'serve'$/m);
  });

  it.each([
    ["the same", "vllm", { engine: "vllm" }, "1 now\n"],
    ["another model", "vllm", { engine: "vllm", models: ["m2"] }, "2 now\n"],
    [
      "another model, though the command names none",
      "openai",
      { engine: "openai", models: ["m2"] },
      "2 now\n",
    ],
    ["another engine", "vllm", { engine: "sglang" }, "2 now\n"],
    ["more GPUs", "vllm", { engine: "vllm", gpuCount: 2 }, "2 now\n"],
    ["another command", "ollama", { engine: "ollama", command: ["other"] }, "2 now\n"],
    ["more GPUs, of which the engine is not told", "ollama", { engine: "ollama", gpuCount: 2 }, "1 now\n"],
    [
      "another model, which it loads while it serves",
      "ollama",
      { engine: "ollama", models: ["m2"] },
      "1 now\n",
    ],
  ] as const)("after a restart of the agent, %s: generation", async (_, engine, then, expected) => {
    await (await control()).render(configOf({ engine }), {}, "now");
    const restarted = await control();
    await restarted.render(configOf(then), {}, "now");
    expect(pointedAt()).toBe(expected);
    expect(watch.place).toMatchObject({ models: "models" in then ? then.models : ["m1"] });
  });

  it("has models loaded live without a new generation, and a restarted agent knows them", async () => {
    const ollama = await control();
    await ollama.render(configOf({ engine: "ollama" }), {}, "now");
    const moved = configOf({ engine: "ollama", models: ["m1", "m2"] });
    await ollama.models(moved);
    expect(pointedAt()).toBe("1 now\n");
    expect(watch.place?.models).toEqual(["m1", "m2"]);
    expect((await control()).current?.models).toEqual(["m1", "m2"]);
  });

  it("leaves engines alone whose models come with the command line", async () => {
    const vllm = await control();
    await vllm.render(configOf({ engine: "vllm" }), {}, "now");
    await vllm.models(configOf({ engine: "vllm", models: ["m2"] }));
    expect(watch.place?.models).toEqual(["m1"]);
    expect(vllm.current?.models).toEqual(["m1"]);
  });

  it("goes back to what runs when no stop follows, however often it was rendered for that stop", async () => {
    const vllm = await control();
    const launcherSays = async (starts: number, generation: number) => {
      await ports.files.write("/launch/run/state", `${starts} ${generation} 7 0 -1 running`);
      await ports.clock.advanceAsync(1_000, 100);
    };
    await vllm.render(configOf({ engine: "vllm" }), {}, "now");
    await launcherSays(1, 1);
    await vllm.render(configOf({ engine: "vllm", models: ["m2"] }), {}, "next");
    await vllm.render(configOf({ engine: "vllm", models: ["m3"] }), {}, "next");
    expect(pointedAt()).toBe("3\n");
    await vllm.restore();
    expect(pointedAt()).toBe("1\n");
    expect(start(1)).toContain("'m1'");
    expect(watch.place?.models).toEqual(["m1"]);
    vllm.stop();
  });

  it("awaits no stop once the first launcher has begun with what was rendered for it", async () => {
    const vllm = await control();
    await vllm.render(configOf({ engine: "vllm" }), {}, "now");
    await vllm.render(configOf({ engine: "vllm", models: ["m2"] }), {}, "next");
    await ports.files.write("/launch/run/state", "1 1 7 0 -1 running");
    await ports.clock.advanceAsync(40_000, 500);
    // It had read the generation before: it is moved to the one that is wanted.
    expect(pointedAt()).toBe("2 now\n");
    vllm.stop();
  });

  it.each([
    ["in a pod", true, "3\n"],
    ["on a host where nobody begins it anew", false, undefined],
  ])("asks the launcher to leave after five crashes, %s", async (_, restartable, asked) => {
    const vllm = await control(restartable);
    await vllm.render(configOf({ engine: "vllm" }), {}, "now");
    const say = async (crashes: number) => {
      await ports.files.write("/launch/run/state", `3 1 7 ${crashes} 1 backoff`);
      await ports.clock.advanceAsync(1_000, 100);
    };
    for (let crashes = 0; crashes <= 4; crashes++) await say(crashes);
    expect(vllm.crashes).toBe(4);
    expect(ports.files.text("/launch/leave")).toBeUndefined();
    await say(5);
    expect(ports.files.text("/launch/leave")).toBe(asked);
    expect(vllm.crashes).toBe(5);
    vllm.stop();
  });

  it("tells of a new launcher when its engine counts as starting, whatever was seen of the one before", async () => {
    ports.http.auto = ({ url }) =>
      url.endsWith("/v1/models")
        ? { status: 200, body: '{"data":[{"id":"m1"}]}' }
        : { status: 404, body: "" };
    const seen: string[] = [];
    const vllm = await control(true, (event) => seen.push(`${event}: ${watch.view.health}`));
    await vllm.render(configOf({ engine: "vllm" }), {}, "now");
    for (const state of ["1 1 7 0 -1 running", "1 1 7 0 -1 stopping", "2 1 9 0 -1 running"]) {
      await ports.files.write("/launch/run/state", state);
      await ports.clock.advanceAsync(5_000, 250);
      expect(watch.view.health).toBe("healthy");
    }
    expect(seen).toEqual(["stopping: healthy", "back: starting"]);
    vllm.stop();
  });

  describe("before a stop", () => {
    const say = (text: string) => ports.files.write("/launch/run/state", text);
    /** After how many milliseconds the launcher counts as one that can be told to end. */
    const heardAfter = async (of: EngineControl, meanwhile: () => Promise<void> = async () => {}) => {
      let at: number | undefined;
      const began = ports.clock.monotonic();
      void of.listening().then(() => (at = ports.clock.monotonic() - began));
      await ports.clock.advanceAsync(1_000, 100);
      await meanwhile();
      await ports.clock.advanceAsync(9_000, 100);
      of.stop();
      return at;
    };

    it.each([
      ["runs its engine", "1 1 7 0 -1 running"],
      ["waits for its first generation", "1 0 0 0 -1 waiting"],
      ["is ending its engine", "1 1 7 0 -1 stopping"],
    ])("awaits nothing of a launcher that %s", async (_, text) => {
      await say(text);
      expect(await heardAfter(await control(true))).toBeLessThan(200);
    });

    it.each([
      ["has not said anything yet", undefined],
      ["follows one that has ended", "1 1 0 0 143 stopping"],
    ])("awaits the word of a launcher that %s, and tells of its start once", async (_, text) => {
      if (text !== undefined) await say(text);
      const events: string[] = [];
      const made = await control(true, (event) => events.push(event));
      expect(await heardAfter(made, () => say("2 2 9 0 -1 running"))).toBeLessThan(1_200);
      expect(events).toEqual(text === undefined ? [] : ["back"]);
    });

    it("has the stop go on after 5 s without a word, and at once where nobody begins containers anew", async () => {
      expect(await heardAfter(await control(true))).toBe(5_000);
      expect(await heardAfter(await control(false))).toBeLessThan(200);
    });
  });
});
