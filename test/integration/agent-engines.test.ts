import { readFileSync } from "node:fs";
import { afterAll, afterEach, beforeEach, describe, expect, it, test } from "vitest";
import { openReceipt } from "../../src/protocol/receipt.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { NodeProcesses } from "../agent/fixture/process.ts";
import { ScriptedService, sha256 } from "../agent/fixture/service.ts";
import { fileOf, named, WeightsServer } from "../agent/fixture/weights.ts";
import { findLlama, whyNoLlama } from "../testbed/llama/llama.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const llama = findLlama();
const processes = supervise();
afterAll(() => processes.close());

const model = "tiny/random:2x64";
const ask = (stream: boolean, more: object = {}) => ({
  model,
  stream,
  body: JSON.stringify({
    model,
    stream,
    max_tokens: 24,
    temperature: 0,
    messages: [{ role: "user", content: "Say something." }],
    ...more,
  }),
});

if (!llama) test.skip(`engines that nobody here wrote: ${whyNoLlama}`, () => {});
else {
  describe("llama.cpp's server, which nobody here wrote", () => {
    const network = new TestNetwork();
    let service: ScriptedService;
    let node: NodeProcesses;
    let weights: WeightsServer;
    const file = fileOf("gguf/model.gguf", readFileSync(llama.model));

    beforeEach(async () => {
      service = await ScriptedService.start(network);
      node = await NodeProcesses.make(processes, network);
      weights = await WeightsServer.start();
      weights.put("tiny", file);
      const [runtime] = network.config({
        command: [
          llama.python,
          "-m",
          "llama_cpp.server",
          "--model",
          `{model_path}/${file.path}`,
          "--model_alias",
          "{model}",
        ],
      }).snapshot.runtimes;
      if (!runtime) throw new Error("the test network's config has no runtime");
      const config = network.config({
        runtimes: [{ ...runtime, engine: "llamacpp" }],
        models: [
          { name: model, engines: ["llamacpp"], files: named(file), sources: [`${weights.url}/tiny`] },
        ],
      });
      const release = network.release(1, config, Date.now());
      node.mount(release, config);
      service.publish(1, release, config);
      node.desire({ target: config.digest, engine: "llamacpp" });
      node.startAgent(service.url, ["--models-dir", processes.folder("models")]);
      await node.startLauncher();
      await service.ready(90_000);
    });

    afterEach(async () => {
      await node.agent?.stop();
      await node.launcher?.stop();
      await service.stop();
      await weights.stop();
    });

    it("is given weights that the agent has fetched, runs jobs plain and streamed, and is known with version and model", async () => {
      expect((await node.ask("/ready")).status).toBe(200);
      expect((await node.status()).report).toMatchObject({
        engine: { type: "llamacpp", version: "0.3.36", health: "healthy" },
        models: {
          installed: [model],
          active: [model],
          states: [{ model, state: "active", bytes: file.size, total: file.size }],
        },
      });

      const texts: string[] = [];
      // One after the other: this server cuts a stream short when the next request comes.
      for (const stream of [false, true]) {
        const id = service.offer(ask(stream));
        await until("the result", () => service.seen(id).results.length > 0);
        const { output, results, nacks } = service.seen(id);
        expect(nacks).toEqual([]);
        expect(results[0]).toMatchObject({
          outcome: "completed",
          status: 200,
          output_sha256: sha256(output),
        });
        expect(results[0]?.usage.completion_tokens).toBeGreaterThan(0);
        const receipt = openReceipt(results[0]?.receipt ?? "", node.identity.key);
        expect(receipt).toMatchObject({ job: id, model, outcome: "completed" });
        texts.push(stream ? streamedText(output) : plainText(output));
      }
      const [plain, streamed] = texts;
      expect(plain).not.toBe("");
      expect(streamed).toBe(plain);
    });

    it("has what it refuses told to the client as it is, and goes on serving", async () => {
      const wrong = service.offer(ask(false, { messages: [{ role: "user", content: "x".repeat(3000) }] }));
      await until("the refusal", () => service.seen(wrong).results.length > 0);
      expect(service.seen(wrong).results[0]).toMatchObject({ outcome: "completed", status: 400 });
      expect(service.seen(wrong).output).toMatch(/context_length_exceeded/);

      const right = service.offer(ask(true));
      await until("the result", () => service.seen(right).results.length > 0);
      expect(service.seen(right).results[0]).toMatchObject({ outcome: "completed", status: 200 });
    });
  });
}

interface Answer {
  readonly choices: readonly {
    readonly message?: { readonly content: string };
    readonly delta?: { readonly content?: string };
  }[];
}

function plainText(output: string): string {
  return (JSON.parse(output) as Answer).choices[0]?.message?.content ?? "";
}

function streamedText(output: string): string {
  const events = output.split(/\r?\n\r?\n/).filter((event) => event.startsWith("data: {"));
  return events
    .map((event) => (JSON.parse(event.slice("data: ".length)) as Answer).choices[0]?.delta?.content ?? "")
    .join("");
}
