import { beforeEach, describe, expect, it } from "vitest";
import { openaiAdapter } from "../../../src/agent/engine/openai.ts";
import { EngineWatch } from "../../../src/agent/engine/watch.ts";
import { type FakePorts, fakePorts, isProof } from "../fixture/fakes.ts";

let ports: FakePorts;
let watch: EngineWatch;
/** Answers to the test request, by model. */
let answers: Map<string, { status: number; body: string }>;
let asked: string[];

const good = { status: 200, body: '{"choices":[{"message":{"content":"a"}}]}' };
const models = ["a", "b"];

beforeEach(() => {
  ports = fakePorts();
  ports.http.proves = false;
  answers = new Map(models.map((model) => [model, good]));
  asked = [];
  ports.http.auto = (request) => {
    if (request.url.endsWith("/v1/models"))
      return { status: 200, body: JSON.stringify({ data: [...models, "unapproved"].map((id) => ({ id })) }) };
    if (!isProof(request)) return { status: 404, body: "" };
    const { model } = JSON.parse(String(request.body)) as { model: string };
    asked.push(model);
    return answers.get(model);
  };
  watch = new EngineWatch(ports, () => {});
  watch.watch({ adapter: openaiAdapter, port: 20_000, models });
});

const settle = (ms = 5_000) => ports.clock.advanceAsync(ms, 250);

describe("test inference", () => {
  it("is asked once of each approved model, and of no other", async () => {
    await settle();
    expect(watch.view).toMatchObject({ health: "healthy", active: ["a", "b"], faults: {} });
    await settle(60_000);
    expect(asked).toEqual(["a", "b"]);
  });

  it.each([
    ["an error", { status: 400, body: '{"error":"no chat template"}' }, /HTTP 400: .*no chat template/],
    ["no answer of its kind", { status: 200, body: '{"choices":[]}' }, /choices/],
    ["nothing that is JSON", { status: 200, body: "<html>" }, /not JSON/],
  ])("a model that answers with %s is not active, and is tried again", async (_, answer, why) => {
    answers.set("b", answer);
    await settle();
    expect(watch.view).toMatchObject({
      health: "starting",
      installed: ["a", "b", "unapproved"],
      active: ["a"],
    });
    expect(watch.view.faults["b"]).toMatch(why);
    expect(watch.view.reason).toMatch(why);
    answers.set("b", good);
    await settle(30_000);
    expect(watch.view).toMatchObject({ health: "healthy", active: ["a", "b"], faults: {} });
  });

  it("has to be passed again by a new process of the engine", async () => {
    await settle();
    answers.set("a", { status: 500, body: "" });
    watch.restarted();
    await settle();
    expect(watch.view.active).toEqual(["b"]);
  });

  it("does not keep the agent from looking after an engine that is silent over it", async () => {
    answers.delete("a");
    ports.http.auto = (request) =>
      isProof(request) ? undefined : { status: 200, body: '{"data":[{"id":"a"},{"id":"b"}]}' };
    watch.restarted();
    await settle(20_000);
    expect(watch.view).toMatchObject({ health: "starting", installed: ["a", "b"], active: [] });
    await settle(120_000);
    expect(watch.view.faults["a"]).toMatch(/no answer within/);
  });
});
