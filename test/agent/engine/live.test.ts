import { beforeEach, describe, expect, it } from "vitest";
import { ollamaAdapter } from "../../../src/agent/engine/ollama.ts";
import { EngineWatch } from "../../../src/agent/engine/watch.ts";
import { type FakePorts, fakePorts } from "../fixture/fakes.ts";

/** An Ollama as its API is documented (docs/api.md, 0.5.1), reduced to names. */
class FakeOllama {
  readonly installed = new Set<string>();
  readonly loaded = new Set<string>();
  /** Models that its registry has not. */
  readonly missing = new Set<string>();
  /** Models that its memory is too small for. */
  readonly tooBig = new Set<string>();
  readonly told: string[] = [];

  answer(path: string, body: string | undefined): { status: number; body: string } {
    const ok = (value: unknown) => ({ status: 200, body: JSON.stringify(value) });
    const list = (names: Set<string>) =>
      ok({ models: [...names].map((name) => ({ name, model: name, size: 1 })) });
    if (path === "/api/tags") return list(this.installed);
    if (path === "/api/ps") return list(this.loaded);
    if (path === "/api/version") return ok({ version: "0.5.1" });
    const { model, keep_alive: keepAlive } = JSON.parse(body ?? "{}") as {
      model: string;
      keep_alive?: number;
    };
    const name = model.includes(":") ? model : `${model}:latest`;
    if (path === "/api/pull") {
      this.told.push(`pull ${model}`);
      if (this.missing.has(model)) {
        return { status: 500, body: '{"error":"pull model manifest: file does not exist"}' };
      }
      this.installed.add(name);
      return ok({ status: "success" });
    }
    this.told.push(`${keepAlive === 0 ? "unload" : "load"} ${model}`);
    if (this.tooBig.has(model)) {
      return { status: 500, body: '{"error":"model requires more system memory than is available"}' };
    }
    if (keepAlive === 0) this.loaded.delete(name);
    else this.loaded.add(name);
    return ok({ model, response: "", done: true, done_reason: keepAlive === 0 ? "unload" : "load" });
  }
}

let ports: FakePorts;
let ollama: FakeOllama;
let watch: EngineWatch;

beforeEach(() => {
  ports = fakePorts();
  ollama = new FakeOllama();
  ports.http.auto = ({ url, body }) => ollama.answer(new URL(url).pathname, body?.toString());
  watch = new EngineWatch(ports, () => {});
});

const serve = (...models: string[]) => watch.watch({ adapter: ollamaAdapter, port: 20_000, models });
/** Enough looks for every request to have been made. */
const settle = () => ports.clock.advanceAsync(80_000, 250);

describe("an engine that loads models while it serves", () => {
  it("pulls what is not there, loads it to stay, and serves it once it is loaded", async () => {
    ollama.installed.add("b:8b");
    serve("a", "b:8b");
    await settle();
    expect(ollama.told).toEqual(["pull a", "load a", "load b:8b"]);
    expect(watch.view).toMatchObject({ health: "healthy", version: "0.5.1", active: ["a", "b:8b"] });
  });

  it("takes a new model and drops one that is no longer wanted, and nothing else", async () => {
    serve("a", "b");
    await settle();
    ollama.told.length = 0;
    serve("b", "c");
    expect(watch.view.health).toBe("healthy");
    await settle();
    expect(ollama.told).toEqual(["unload a:latest", "pull c", "load c"]);
    expect(watch.view.active).toEqual(["b", "c"]);
  });

  it("is healthy for the models that it has while another cannot be had, and tries that again", async () => {
    ollama.missing.add("none");
    serve("none", "a");
    await settle();
    expect(watch.view).toMatchObject({ health: "healthy", active: ["a"] });
    expect(watch.view.reason).toMatch(/none.*pull.*file does not exist/);
    expect(ollama.told.filter((line) => line === "pull none").length).toBeGreaterThan(1);
    ollama.missing.clear();
    await settle();
    expect(watch.view).toMatchObject({ active: ["none", "a"] });
    expect(watch.view.reason).toBeUndefined();
  });

  it("does not serve a model that is there but cannot be loaded", async () => {
    ollama.installed.add("big:latest");
    ollama.tooBig.add("big");
    serve("big");
    await settle();
    expect(watch.view).toMatchObject({ health: "starting", installed: ["big:latest", "big"], active: [] });
    expect(watch.view.reason).toMatch(/big.*load.*more system memory/);
  });

  it("leaves a model alone that the engine has thrown out for another", async () => {
    serve("a", "b");
    await settle();
    ollama.told.length = 0;
    ollama.loaded.delete("a:latest");
    await settle();
    expect(ollama.told).toEqual([]);
    expect(watch.view.active).toEqual(["a", "b"]);
  });

  it("loads all anew after the engine was restarted", async () => {
    serve("a");
    await settle();
    ollama.loaded.clear();
    ollama.told.length = 0;
    watch.restarted();
    await settle();
    expect(ollama.told).toEqual(["load a"]);
  });
});
