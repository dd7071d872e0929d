import { describe, expect, it } from "vitest";
import { renderArgv } from "../../../src/agent/engine/argv.ts";
import { quote } from "../../../src/agent/launcher/launch-dir.ts";

const modelPaths = { a: "/models/sha256/aa", b: "/models/sha256/b$&" };

const render = (
  command: readonly string[],
  args: readonly string[] = [],
  models: readonly string[] = ["a", "b"],
) => renderArgv({ command, args, models, modelPaths, port: 20_123 });

describe("renderArgv", () => {
  it.each([
    [
      "placeholders",
      ["e", "--host={host}", "--port", "{port}", "{model}"],
      ["e", "--host=127.0.0.1", "--port", "20123", "a"],
    ],
    ["the first model's folder", ["e{port}", "{model_path}"], ["e20123", "/models/sha256/aa"]],
    [
      "each model's folder",
      ["e{port}", "--lora={models}={model_path}"],
      ["e20123", "--lora=a=/models/sha256/aa", "--lora=b=/models/sha256/b$&"],
    ],
    [
      "host and port where the command names none",
      ["serve"],
      ["serve", "--host", "127.0.0.1", "--port", "20123"],
    ],
    ["each model for {models}", ["e", "{port}", "{models}"], ["e", "20123", "a", "b"]],
    [
      "each model inside an element",
      ["e", "{port}", "--model={models}"],
      ["e", "20123", "--model=a", "--model=b"],
    ],
    ["replacement patterns as they are", ["e", "{port}", "$&{model}$1"], ["e", "20123", "$&a$1"]],
  ])("fills %s", (_, command, expected) => {
    expect(render(command)).toEqual(expected);
  });

  it("fills the spec's arguments too", () => {
    expect(render(["e"], ["--listen", "{host}:{port}"])).toEqual(["e", "--listen", "127.0.0.1:20123"]);
  });

  it("leaves a model that looks like a placeholder pattern as it is", () => {
    expect(render(["e", "{port}", "{model}"], [], ["$&"])).toEqual(["e", "20123", "$&"]);
  });

  it("says what is missing", () => {
    expect(() => render([])).toThrow(/no command/);
    expect(() => render(["e", "{model}"], [], [])).toThrow(/no model is approved/);
  });
});

describe("quote", () => {
  it("makes one word of anything", () => {
    expect(quote("it's $HOME")).toBe(`'it'\\''s $HOME'`);
  });
});
