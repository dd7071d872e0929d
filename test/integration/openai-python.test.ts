import { readFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { mintBinding } from "../../src/protocol/binding.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { answerWords } from "../engine/answer.ts";
import { pythonWith, whyNoPython } from "../interop/python.ts";
import { IoProcess } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/** The official client for Python, unchanged, on the real service with a real agent and the test engine. */
const missing = whyNoPython();
if (missing !== undefined) process.stderr.write(`openai-python.test.ts is skipped: ${missing}\n`);

const folder = join(import.meta.dirname, "../openai-python");
const model = "demo/model";
const messages = [{ role: "user", content: "Grüße aus 世界 🌍" }];
const text = answerWords(model, messages, 12).join(" ");
const processes = supervise();
let io: IoProcess;
/** Checks of patience, and what the client raises: in mid-stream what its HTTP library does. */
const timeouts = new Map([
  ["timeout", "APITimeoutError"],
  ["timeout of a stream", "ReadTimeout"],
]);
/** What the client saw, by the name of the check. */
const said = new Map<string, unknown>();

describe.skipIf(missing !== undefined)("the official OpenAI client for Python", () => {
  beforeAll(async () => {
    const python = await pythonWith(join(folder, "requirements.txt"));
    io = await IoProcess.start(processes);
    const accountKey = await io.account("acme");
    const command = engineCommand({ log: join(io.folder, "engine.log"), tokenDelayMs: 5 });
    const target = await io.publish([model], { engine: "test", command });
    const node = await NodeProcesses.make(processes, new TestNetwork());
    const binding = mintBinding(accountKey, io.network, "acme", node.identity.nodeId);
    node.write("identity/binding.json", JSON.stringify(binding));
    node.write("identity/root.json", readFileSync(join(io.keys, "root.json"), "utf8"));
    node.desire({ target });
    node.startAgent(io.url);
    await node.startLauncher();
    await until(
      "a node that serves",
      async () => (await io.nodes()).some(({ connected, models }) => connected && models.includes(model)),
      { deadlineMs: 60_000 },
    );
    const apiKey = await io.apiKey("someone");
    await runClient(python, apiKey);
    await node.switchEngine({ tokenDelayMs: 5_000 });
    await runClient(python, apiKey, [...timeouts.keys()]);
  });
  afterAll(() => processes.close());

  it("gets a plain answer with its usage, and the job's id as the request's", () => {
    const plain = said.get("plain") as { job: string };
    expect(plain).toMatchObject({ text, finish: "stop", tokens: 12, request_id: plain.job });
    expect(plain.job).toMatch(/^job-/);
  });

  it("reads a stream to its end, with usage", () => {
    expect(said.get("stream")).toEqual({ text, finish: "stop", tokens: 12 });
    expect(said.get("stream helper")).toEqual({ text });
  });

  it("asks and streams eight at once, by asyncio", () => {
    expect(said.get("async")).toEqual({ texts: Array.from({ length: 8 }, () => text) });
  });

  it("lists the models", () => {
    expect(said.get("models")).toEqual({ ids: [model], owners: [io.network] });
  });

  it.each([
    ["unknown model", "NotFoundError", 404, "model_not_found", "model"],
    ["n = 1000", "BadRequestError", 400, "invalid_value", "n"],
    ["negative max_tokens", "BadRequestError", 400, "invalid_value", "max_tokens"],
    ["body too large", "APIStatusError", 413, "request_too_large", null],
    ["wrong key", "AuthenticationError", 401, "invalid_api_key", null],
  ])("raises for %s what its users catch: %s", (check, name, status, code, param) => {
    const type = "invalid_request_error";
    expect(said.get(check)).toEqual({ class: name, status, code, param, type, message: true });
  });

  it.each([...timeouts])("gives up by its own clock: %s", (check, name) => {
    expect(said.get(check)).toEqual({ class: name });
  });

  it("leaves in mid-stream: its job is cancelled", async () => {
    const { job, pieces } = said.get("gone") as { job: string; pieces: number };
    expect(pieces).toBe(3);
    await until("the state", async () => (await io.job(job))["state"] === "CANCELLED");
  });
});

async function runClient(python: string, apiKey: string, checks: readonly string[] = []): Promise<void> {
  const child = processes.spawn({
    name: "Python client",
    command: python,
    args: ["client.py", `${io.url}/v1`, apiKey, model, ...checks],
    cwd: folder,
    env: { ...process.env, NO_PROXY: "127.0.0.1", no_proxy: "127.0.0.1", PYTHONDONTWRITEBYTECODE: "1" },
  });
  const { stdout, stderr } = child.process;
  if (!stdout || !stderr) throw new Error("the Python client has no pipes");
  let errors = "";
  stderr.on("data", (part: Buffer) => (errors += part.toString()));
  for await (const line of createInterface({ input: stdout })) {
    const { check, said: what } = JSON.parse(line) as { check: string; said: unknown };
    said.set(check, what);
  }
  const { code } = await child.exited;
  expect(code, errors).toBe(0);
}
