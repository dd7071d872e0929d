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

  describe("that takes its time to pull", () => {
    const small = () => ports.clock.advanceAsync(3_000, 250);
    /** The pull that is under way. */
    const pulling = () => {
      const pull = ports.http.exchanges.findLast(({ request }) => request.url.endsWith("/api/pull"));
      if (!pull) throw new Error("nothing is pulled");
      return pull;
    };
    const says = (line: object) => pulling().handlers.data(Buffer.from(`${JSON.stringify(line)}\n`));

    beforeEach(async () => {
      const { auto } = ports.http;
      ports.http.auto = (request) => (request.url.endsWith("/api/pull") ? undefined : auto?.(request));
      serve("a");
      await small();
      expect(JSON.parse(String(pulling().request.body))).toEqual({ model: "a", stream: true });
      pulling().handlers.head({ status: 200, headers: {} });
      says({ status: "pulling manifest" });
    });

    it("is asked how far it is, every 10 s", async () => {
      expect(watch.view.pulling).toEqual({ model: "a", bytes: 0, total: 0 });
      says({ status: "pulling x", digest: "sha256:x", total: 100, completed: 10 });
      await small();
      expect(watch.view.pulling?.total).toBe(0);
      await ports.clock.advanceAsync(10_000, 250);
      says({ status: "pulling x", digest: "sha256:x", total: 100, completed: 100 });
      says({ status: "pulling y", digest: "sha256:y", total: 50 });
      await small();
      expect(watch.view.pulling).toEqual({ model: "a", bytes: 100, total: 100 });
      ollama.installed.add("a:latest");
      says({ status: "success" });
      pulling().handlers.end();
      await small();
      expect(watch.view).toMatchObject({ pulling: undefined, active: ["a"] });
    });

    it.each([
      [
        "fails in mid-answer",
        () => says({ error: "no space left on device" }),
        /pull: no space left on device/,
      ],
      ["ends without a word of success", () => pulling().handlers.end(), /before it was done/],
      ["loses its connection", () => pulling().handlers.failed(new Error("ECONNRESET")), /ECONNRESET/],
      ["says what is no JSON", () => pulling().handlers.data(Buffer.from("garbage\n")), /not JSON/],
      [
        "tells of parts without end",
        () => {
          for (let part = 0; part <= 4096 && !pulling().aborted; part++)
            says({ status: "pulling", digest: `sha256:${part}`, total: 1 });
        },
        /more than 4096 parts/,
      ],
      ["says a line without end", () => pulling().handlers.data(Buffer.alloc(70_000)), /line without end/],
    ])("%s: the model is failed, with the engine's words", async (_, act, why) => {
      act();
      await ports.clock.advanceAsync(500, 250);
      expect(watch.view.faults["a"]).toMatch(why);
      expect(watch.view.pulling).toBeUndefined();
      await small();
      expect(watch.view.pulling, "the next try").toBeDefined();
    });

    it("is told to stop when the model is no longer approved", async () => {
      ollama.installed.add("b:latest");
      serve("b");
      await ports.clock.advanceAsync(20_000, 250);
      expect(pulling().aborted).toBe(true);
      expect(watch.view).toMatchObject({ active: ["b"], pulling: undefined });
    });
  });
});
