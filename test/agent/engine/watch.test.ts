import { beforeEach, describe, expect, it } from "vitest";
import { adapterOf } from "../../../src/agent/engine/adapters.ts";
import { EngineWatch } from "../../../src/agent/engine/watch.ts";
import { type FakePorts, fakePorts } from "../fixture/fakes.ts";
import { recorded } from "./recorded.ts";

let ports: FakePorts;
let watch: EngineWatch;
let answers: Map<string, { status: number; body: string }>;

beforeEach(() => {
  ports = fakePorts();
  answers = new Map();
  ports.http.auto = ({ url }) => answers.get(new URL(url).pathname) ?? { status: 404, body: "" };
  watch = new EngineWatch(ports, () => {});
});

/** An engine that answers as recorded. */
function engine(name: string): void {
  const answer = recorded.find((one) => one.engine === name);
  if (!answer) throw new Error(`no answers of ${name} are recorded`);
  const adapter = adapterOf(name);
  answers.set(adapter.modelsPath, { status: 200, body: answer.modelsAnswer });
  for (const path of adapter.versionPaths.slice(0, 1))
    answers.set(path, { status: 200, body: answer.versionAnswer });
  if (adapter.loadPath !== undefined && answer.load)
    answers.set(adapter.loadPath, { status: 200, body: answer.load.text });
  watch.watch({ adapter, port: 20_000, models: ["m1"] });
}

const settle = (ms = 3_000) => ports.clock.advanceAsync(ms, 250);

describe("EngineWatch", () => {
  it.each(["vllm", "sglang", "llamacpp"])("sees %s as it is: health, version, models, load", async (name) => {
    answers.set("/health", { status: 503, body: '{"error":{"message":"Loading model"}}' });
    engine(name);
    await settle();
    expect(watch.view).toMatchObject({ health: "starting", active: [] });
    expect(watch.view.reason).toMatch(/\/health answered HTTP 503/);

    answers.set("/health", { status: 200, body: "" });
    await settle();
    const { version, load } = recorded.find((one) => one.engine === name) ?? {};
    expect(watch.view).toMatchObject({ health: "healthy", version, active: ["m1"] });
    expect(watch.load).toEqual(load?.means);
  });

  it("takes an engine without that path for healthy when it lists its models", async () => {
    engine("llamacpp");
    await settle();
    expect(watch.view.health).toBe("healthy");
  });

  it("does not know the load of an engine that stops telling, nor that of one started anew", async () => {
    engine("vllm");
    await settle();
    expect(watch.load).not.toBeNull();
    answers.delete("/metrics");
    await settle(20_000);
    expect(watch.load).toBeNull();

    engine("vllm");
    await settle(20_000);
    expect(watch.load).not.toBeNull();
    watch.restarted();
    expect(watch.load).toBeNull();
  });
});
