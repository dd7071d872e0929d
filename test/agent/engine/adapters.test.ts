import { execFileSync } from "node:child_process";
import { describe, expect, it } from "vitest";
import type { EngineCommand } from "../../../src/agent/engine/adapter.ts";
import { adapterOf } from "../../../src/agent/engine/adapters.ts";
import { startText } from "../../../src/agent/launcher/launch-dir.ts";
import { abilitiesOf } from "../../../src/protocol/config/engines.ts";
import { recorded } from "./recorded.ts";

const at = ["--host", "127.0.0.1", "--port", "20123"];
const vllm = ["vllm", "serve", "/models/llama"];
const sglang = ["python3", "-m", "sglang.launch_server", "--model-path", "/models/llama"];
const health = { SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION: "false" };
const ollamaDefaults = { OLLAMA_KEEP_ALIVE: "-1", OLLAMA_NOPRUNE: "1" };

interface Row {
  readonly what: string;
  readonly engine: string;
  readonly command: readonly string[];
  readonly over?: Partial<EngineCommand>;
  readonly argv: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  readonly envDefaults?: Readonly<Record<string, string>>;
}

const rows: readonly Row[] = [
  {
    what: "vLLM on one GPU, under the network's name",
    engine: "vllm",
    command: vllm,
    argv: [...vllm, ...at, "--served-model-name", "m1"],
  },
  {
    what: "vLLM split over the node's GPUs",
    engine: "vllm",
    command: vllm,
    over: { gpuCount: 4 },
    argv: [...vllm, ...at, "--tensor-parallel-size", "4", "--served-model-name", "m1"],
  },
  {
    what: "vLLM whose arguments say how to split, and what to call it",
    engine: "vllm",
    command: vllm,
    over: { gpuCount: 4, args: ["--data_parallel_size=4", "--served-model-name", "a", "b"] },
    argv: [...vllm, "--data_parallel_size=4", "--served-model-name", "a", "b", ...at],
  },
  {
    what: "vLLM with a short flag in the config's command",
    engine: "vllm",
    command: [...vllm, "-tp", "2"],
    over: { gpuCount: 4 },
    argv: [...vllm, "-tp", "2", ...at, "--served-model-name", "m1"],
  },
  {
    what: "vLLM with a file that may say all of it",
    engine: "vllm",
    command: ["vllm", "serve", "--config", "/etc/vllm.yaml"],
    over: { gpuCount: 2 },
    argv: ["vllm", "serve", "--config", "/etc/vllm.yaml", ...at],
  },
  {
    what: "vLLM where nobody says how many GPUs there are",
    engine: "vllm",
    command: vllm,
    over: { gpuCount: null },
    argv: [...vllm, ...at, "--served-model-name", "m1"],
  },
  {
    what: "SGLang split over the node's GPUs, with metrics",
    engine: "sglang",
    command: sglang,
    over: { gpuCount: 2 },
    argv: [...sglang, ...at, "--tp-size", "2", "--served-model-name", "m1", "--enable-metrics"],
    envDefaults: health,
  },
  {
    what: "SGLang whose arguments say all",
    engine: "sglang",
    command: sglang,
    over: { gpuCount: 2, args: ["--tp", "1", "--enable-metrics", "--served-model-name=x"] },
    argv: [...sglang, "--tp", "1", "--enable-metrics", "--served-model-name=x", ...at],
    envDefaults: health,
  },
  {
    what: "llama.cpp, by environment",
    engine: "llamacpp",
    command: ["llama-server", "-m", "/models/m.gguf"],
    over: { gpuCount: 2 },
    argv: ["llama-server", "-m", "/models/m.gguf", ...at],
    envDefaults: { LLAMA_ARG_ENDPOINT_METRICS: "1", LLAMA_ARG_ALIAS: "m1" },
  },
  {
    what: "Ollama, by environment",
    engine: "ollama",
    command: ["ollama", "serve"],
    over: { gpuCount: 2, models: ["m1", "m2"] },
    argv: ["ollama", "serve"],
    env: { OLLAMA_HOST: "127.0.0.1:20123" },
    envDefaults: ollamaDefaults,
  },
  {
    what: "any other engine, as the config has it",
    engine: "tgi",
    command: ["serve", "{model}"],
    over: { gpuCount: 4 },
    argv: ["serve", "m1", ...at],
  },
];

describe("start", () => {
  it.each(rows)("$what", ({ engine, command, over, argv, env = {}, envDefaults = {} }) => {
    const given = { command, args: [], models: ["m1"], modelPaths: {}, gpuCount: 1, port: 20_123, ...over };
    expect(adapterOf(engine).start(given)).toEqual({ argv, env, envDefaults });
  });

  it("gives the engine its variables, and the spec's where the adapter has only a default", () => {
    const start = {
      argv: ["env"],
      env: { FIXED: "it's $HOME" },
      envDefaults: { ABSENT: "a'b", GIVEN: "default", EMPTY: "default" },
    };
    const env = { PATH: process.env["PATH"], GIVEN: "spec", EMPTY: "", FIXED: "spec" };
    const seen = execFileSync("/bin/sh", ["-c", startText(start)], { env, encoding: "utf8" }).split("\n");
    expect(seen).toEqual(expect.arrayContaining(["FIXED=it's $HOME", "ABSENT=a'b", "GIVEN=spec", "EMPTY="]));
  });
});

describe("abilities", () => {
  it.each([
    ["vllm", false],
    ["sglang", false],
    ["llamacpp", false],
    ["openai", false],
    ["tgi", false],
    ["ollama", true],
  ])("%s loads models live: %s", (engine, modelsLive) => {
    const adapter = adapterOf(engine);
    expect(adapter.abilities).toEqual({ modelsLive });
    expect(adapter.abilities).toEqual(abilitiesOf(engine));
    expect(adapter.live !== undefined).toBe(modelsLive);
  });
});

describe("answers", () => {
  it.each(recorded)(
    "of $engine $version",
    ({ engine, version, versionAnswer, modelsAnswer, models, load }) => {
      const adapter = adapterOf(engine);
      expect(adapter.readVersion(versionAnswer)).toBe(version);
      expect(adapter.readModels(modelsAnswer)).toEqual(models);
      if (load) expect(adapter.readLoad(load.text)).toEqual(load.means);
      else expect(adapter.loadPath).toBeUndefined();
    },
  );

  it.each(["vllm", "sglang", "llamacpp"])("without both gauges the load of %s is unknown", (engine) => {
    expect(adapterOf(engine).readLoad("")).toBeNull();
    expect(adapterOf(engine).readLoad('vllm:num_requests_running{engine="0"} 1\n')).toBeNull();
  });

  it("that tell no version", () => {
    expect(adapterOf("llamacpp").readVersion('{"model_alias":"m1"}')).toBeNull();
    expect(adapterOf("ollama").readVersion('{"version":7}')).toBeNull();
  });
});
