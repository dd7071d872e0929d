import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { interopRequirements, pythonWith, whyNoPython } from "../interop/python.ts";
import { Authority, io, loopModel, loopSnapshot } from "../loop/authority.ts";
import { buildBundles } from "../loop/build.ts";
import { bundle } from "../loop/paths.ts";
import { freePort } from "../testbed/ports.ts";
import { type Child, logTail, supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/**
 * The protocol as others can implement it: a Python client that was written from docs/protocol.md and test/vectors
 * alone, against the real service. Key rollover is not in it, because the protocol's version 1 has none.
 */
const missing = whyNoPython();
if (missing !== undefined) process.stderr.write(`interop.test.ts is skipped: ${missing}\n`);

const here = import.meta.dirname;
const interop = join(here, "../interop");
const network = "interop";
const processes = supervise();
/** Loopback goes through no proxy, and Python leaves nothing in the working tree. */
const env = { ...process.env, NO_PROXY: "127.0.0.1", no_proxy: "127.0.0.1", PYTHONDONTWRITEBYTECODE: "1" };
let python: string;

/** What the client says, one JSON object a line. */
interface Said {
  readonly event: string;
  readonly [member: string]: unknown;
}

/** Runs a Python program to its end. */
async function runPython(name: string, ...args: readonly string[]): Promise<{ code: number; out: string }> {
  const child = processes.spawn({ name, command: python, args, env, cwd: interop });
  let out = "";
  for (const pipe of [child.process.stdout, child.process.stderr])
    pipe?.on("data", (part: Buffer) => (out += part.toString()));
  const closed = new Promise((resolve) => child.process.once("close", resolve));
  const { code } = await child.exited;
  await closed;
  return { code: code ?? -1, out };
}

/** A client that runs. */
class PythonNode {
  readonly said: Said[] = [];
  readonly child: Child;
  #errors = "";

  constructor(...args: readonly string[]) {
    this.child = processes.spawn({
      name: "Python client",
      command: python,
      args: ["client.py", "run", "--network", network, ...args],
      env,
      cwd: interop,
    });
    const { stdout, stderr } = this.child.process;
    if (stdout)
      createInterface({ input: stdout }).on("line", (line) => this.said.push(JSON.parse(line) as Said));
    stderr?.on("data", (part: Buffer) => (this.#errors += part.toString()));
  }

  of(event: string): Said[] {
    return this.said.filter((said) => said.event === event);
  }

  /** Waits until it has said something so many times, and returns the last. */
  async says(event: string, times = 1): Promise<Said> {
    return until(`the Python client to say ${event} ${times} times`, () => this.of(event)[times - 1], {
      giveUp: () => {
        if (!this.child.running() && this.of(event).length < times)
          throw new Error(`the Python client has ended: ${this.#errors}\n${JSON.stringify(this.said)}`);
      },
    });
  }
}

beforeAll(async () => {
  if (missing === undefined) python = await pythonWith(interopRequirements);
});
afterAll(() => processes.close());

describe.skipIf(missing !== undefined)("a client written from the document alone", () => {
  it("judges every vector as the vector says", async () => {
    const { code, out } = await runPython("vectors.py", "vectors.py");
    expect(out).toMatch(/^session\.json: \d+ accepted, \d+ refused, 0 differ$/m);
    expect(code, out).toBe(0);
  });

  describe("as a node of the real service", () => {
    const folder = processes.folder("interop");
    const data = join(folder, "data");
    const nodeFolder = join(folder, "node");
    const authority = new Authority(network, folder, data);
    const text = "Grüße aus 世界 an alle, die zuhören 🌍. ";
    let url: string;
    let client: OpenAI;
    let digest: string;
    let accountKey: string;
    let node: PythonNode;

    const start = (...args: readonly string[]) =>
      new PythonNode("--folder", nodeFolder, "--url", url, ...args);

    /** Reads a streamed answer to its end; throws if it breaks off. */
    async function ask(prompt: string) {
      const stream = await client.chat.completions.create({
        model: loopModel,
        messages: [{ role: "user", content: prompt }],
        stream: true,
        stream_options: { include_usage: true },
      });
      let answer = "";
      let finish: string | null | undefined;
      let tokens: number | undefined;
      for await (const part of stream) {
        answer += part.choices[0]?.delta.content ?? "";
        finish = part.choices[0]?.finish_reason ?? finish;
        tokens = part.usage?.completion_tokens ?? tokens;
      }
      return { answer, finish, tokens };
    }

    beforeAll(async () => {
      await buildBundles();
      const port = await freePort();
      url = `http://127.0.0.1:${port}`;
      const logFile = join(folder, "io.log");
      const args = [bundle("io"), "serve", "--network", network, "--data", data];
      const service = processes.spawn({
        name: "io",
        command: process.execPath,
        args: [...args, "--listen", `127.0.0.1:${port}`, "--heartbeat", "2s"],
        logFile,
      });
      await until("the IO service", async () => (await fetch(`${url}/v1/nodes/nonce`)).ok, {
        giveUp: service.requireRunning,
      }).catch((error: unknown) => {
        throw new Error(`${String(error)}\n${logTail(logFile)}`);
      });
      await authority.init();
      digest = await authority.publish(loopSnapshot(network, "1.0.0"));
      accountKey = (await io(["accounts", "add", "acme", "--data", data])).trim();
      const apiKey = (await io(["apikeys", "add", "someone", "--data", data])).trim();
      client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
    });

    it("mints the binding that the service mints", async () => {
      mkdirSync(nodeFolder);
      const nodeId = (
        await runPython("identity", "client.py", "identity", "--folder", nodeFolder)
      ).out.trim();
      writeFileSync(join(nodeFolder, "root.json"), authority.root);
      const keyFile = join(folder, "account.key");
      writeFileSync(keyFile, accountKey);
      const bound = ["--network", network, "--account", "acme", "--account-key", keyFile];
      const minted = await runPython("bind", "client.py", "bind", "--folder", nodeFolder, ...bound);
      expect(JSON.parse(minted.out)).toEqual(
        JSON.parse(await io(["accounts", "bind", "acme", nodeId, "--data", data])),
      );
    });

    it("does not believe a service under another root, and says which check failed", async () => {
      const elsewhere = join(folder, "elsewhere");
      await io(["keys", "init", "--network", network, "--out", elsewhere]);
      const root = join(nodeFolder, "root.json");
      writeFileSync(root, readFileSync(join(elsewhere, "root.json")));
      const where = ["--folder", nodeFolder, "--url", url, "--network", network];
      const refused = await runPython("run", "client.py", "run", ...where);
      writeFileSync(root, authority.root);
      expect(refused).toMatchObject({
        code: 1,
        out: expect.stringContaining("threshold: 0 keys of the role root"),
      });
    });

    it("syncs the config, registers when its key is unknown, speaks by HTTP and opens a session", async () => {
      node = start("--cut-after", "2", "--first-piece-ms", "1500", "--piece-ms", "60");
      expect(await node.says("root")).toMatchObject({ version: 1 });
      expect(await node.says("config")).toMatchObject({ digest, sequence: 1 });
      expect(await node.says("closed")).toMatchObject({ code: 4401 });
      await node.says("registered");
      expect(await node.says("http")).toMatchObject({ seq: 2, release: 1 });
      expect(await node.says("http-refused")).toMatchObject({ status: 409, code: "sequence", signed: true });
      expect(await node.says("ready")).toMatchObject({ epoch: 1, release: 1 });
    });

    it("streams a job whole although its session is cut in the middle, and gets a countersigned receipt", async () => {
      const answer = await ask("one");
      expect(answer).toEqual({ answer: `${text}one`, finish: "stop", tokens: 12 });
      await node.says("cut");
      expect(node.of("accept")).toHaveLength(1);
      const kept = await node.says("verdict");
      expect(kept).toMatchObject({ action: "keep", offset: node.of("cut")[0]?.["offset"] });
      expect(await node.says("receipt")).toMatchObject({ index: 1, metered: { completion_tokens: 12 } });
    });

    it("answers a plain request too", async () => {
      const { choices, usage } = await client.chat.completions.create({
        model: loopModel,
        messages: [{ role: "user", content: "two" }],
      });
      expect(choices[0]?.message.content).toBe(`${text}two`);
      expect(usage?.completion_tokens).toBe(12);
      expect(await node.says("receipt", 2)).toMatchObject({ index: 2 });
    });

    it("follows a new release while its session is open", async () => {
      const next = await authority.publish(loopSnapshot(network, "2.0.0"));
      expect(await node.says("config", 2)).toMatchObject({ digest: next, sequence: 2 });
      expect((await ask("three")).answer).toBe(`${text}three`);
      await node.says("receipt", 3);
    });

    it("is superseded by a second connection of the same node, which serves and leaves in order", async () => {
      const second = start("--jobs", "1");
      const { epoch } = await second.says("ready");
      expect(epoch).toBeGreaterThan(Number(node.of("ready").at(-1)?.["epoch"]));
      expect(await node.child.exited).toMatchObject({ code: 4 });
      expect(node.said.at(-1)).toMatchObject({ event: "closed", code: 4409 });
      expect((await ask("four")).answer).toBe(`${text}four`);
      expect(await second.says("left")).toMatchObject({ code: 1000 });
      expect(await second.child.exited).toMatchObject({ code: 0 });
    });

    it("has the receipts that the service exports, and their chain is whole", async () => {
      const exported = await io(["receipts", "export", "acme", "--data", data]);
      const own = join(nodeFolder, "receipts.jsonl");
      expect(existsSync(own)).toBe(true);
      const file = join(folder, "receipts.jsonl");
      writeFileSync(file, exported);
      expect(exported.trim().split("\n")).toHaveLength(4);
      expect(await io(["receipts", "verify", file, "--data", data])).toContain("4 receipts");
      expect(await io(["receipts", "verify", own, "--data", data])).toContain("4 receipts");
      const verified = await runPython(
        "receipts",
        "client.py",
        "receipts",
        "--folder",
        nodeFolder,
        "--url",
        url,
        "--network",
        network,
        "--file",
        file,
      );
      expect(verified).toEqual({ code: 0, out: "4 receipts, each by this node: the chain is whole\n" });
    });
  });
});
