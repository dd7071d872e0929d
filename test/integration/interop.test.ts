import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
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
 * alone, against the real service.
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

  /** All that it has said, for people. */
  told(): string {
    return `${this.#errors}\n${JSON.stringify(this.said)}`;
  }

  of(event: string): Said[] {
    return this.said.filter((said) => said.event === event);
  }

  /** Waits until it has said something so many times, and returns the last. */
  async says(event: string, times = 1): Promise<Said> {
    return until(`the Python client to say ${event} ${times} times`, () => this.of(event)[times - 1], {
      giveUp: () => {
        if (!this.child.running() && this.of(event).length < times)
          throw new Error(`the Python client has ended: ${this.told()}`);
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
    let apiKey: string;
    let nodeId: string;
    let digest: string;
    let accountKey: string;
    let node: PythonNode;

    const start = (...args: readonly string[]) =>
      new PythonNode("--folder", nodeFolder, "--url", url, ...args);

    /** How the account's holder is named to the client. */
    const keyFile = join(folder, "account.key");
    const byAccount = () => ["--account", "acme", "--account-key", keyFile];

    /** One command of the client, which must succeed. Returns what it prints. */
    async function tool(command: string, ...args: readonly string[]): Promise<string> {
      const { code, out } = await runPython(command, "client.py", command, ...args);
      expect(code, out).toBe(0);
      return out.trim();
    }

    /** What the client was refused: the answer of each try by what it was, `taken` where it was not refused. */
    const refusals = (of: PythonNode) =>
      Object.fromEntries(
        of.said.flatMap(({ event, what, status, code, signed }) =>
          event === "refused" && what !== undefined
            ? [[what, `${String(status)} ${String(code)}${signed ? " signed" : ""}`]]
            : event === "taken"
              ? [[what, "taken"]]
              : [],
        ),
      ) as Record<string, string>;

    /** The account's nodes as the fleet feed has them. */
    const feed = async () =>
      (await tool("feed", "--url", url, ...byAccount())).split("\n").map((line) => JSON.parse(line) as Said);

    const sha256 = (text: string) => createHash("sha256").update(text).digest("hex");

    /** A request of the service's clients, as bytes that are known. */
    const request = (path: string, body?: string, headers: Record<string, string> = {}) =>
      fetch(`${url}${path}`, {
        ...(body === undefined ? {} : { method: "POST", body }),
        headers: { authorization: `Bearer ${apiKey}`, "content-type": "application/json", ...headers },
      });

    /** Hands an asynchronous job in; returns its id. */
    async function submit(prompt: string): Promise<string> {
      const body = JSON.stringify({ model: loopModel, messages: [{ role: "user", content: prompt }] });
      const answer = await request("/v1/chat/completions", body, { prefer: "respond-async" });
      expect(answer.status).toBe(202);
      return ((await answer.json()) as { id: string }).id;
    }

    /** Waits for an asynchronous job; returns what it has answered. */
    async function answerOf(job: string): Promise<string | null | undefined> {
      await until(`job ${job}`, async () => {
        const { status } = (await (await request(`/v1/jobs/${job}`)).json()) as { status: string };
        return status === "completed";
      });
      const answer = (await (await request(`/v1/jobs/${job}/result`)).json()) as OpenAI.Chat.ChatCompletion;
      return answer.choices[0]?.message.content;
    }

    const leave = async (leaving: PythonNode) => {
      leaving.child.signal("SIGTERM");
      expect(await leaving.child.exited).toMatchObject({ code: 0 });
    };

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
      apiKey = (await io(["apikeys", "add", "someone", "--data", data])).trim();
      client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
    });

    it("mints the binding that the service mints", async () => {
      mkdirSync(nodeFolder);
      nodeId = (await runPython("identity", "client.py", "identity", "--folder", nodeFolder)).out.trim();
      writeFileSync(join(nodeFolder, "root.json"), authority.root);
      writeFileSync(keyFile, accountKey);
      const minted = await runPython(
        "bind",
        "client.py",
        "bind",
        "--folder",
        nodeFolder,
        "--network",
        network,
        ...byAccount(),
      );
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
      expect(await node.says("refused")).toMatchObject({ status: 409, code: "sequence", signed: true });
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

    describe("whose key changes", () => {
      let first: string;
      let second: string;
      let third: string;

      it("rolls its key over while a job runs, which goes on in a session by the new key and is signed by it", async () => {
        first = nodeId;
        node = start("--piece-ms", "500", "--probe");
        expect(await node.says("ready")).toMatchObject({ kid: first });
        const answer = ask("five");
        await node.says("offer");
        second = await tool("next", "--folder", nodeFolder);
        expect(await node.says("rolled-over")).toMatchObject({ old: first, new: second });
        expect(node.of("result")).toEqual([]);
        expect(await node.says("ready", 2)).toMatchObject({ kid: second });
        expect(await node.says("verdict")).toMatchObject({ action: "keep", offset: expect.any(Number) });
        expect(await answer).toEqual({ answer: `${text}five`, finish: "stop", tokens: 12 });
        expect(await node.says("receipt")).toMatchObject({ index: 5, signer: second });
        expect(node.of("closed")).toEqual([]);
        expect(await feed()).toMatchObject([{ node_id: first, kid: second, generation: 0 }]);
      });

      it("is refused every change that is wrongly made, and answered the same change again", () => {
        expect(refusals(node)).toEqual({
          "the new key's part alone": "400 wrong_typ",
          "both parts by the new key": "400 unknown_key",
          "both parts by the old key": "409 rollback signed",
          "a change inside a change": "409 wrong_typ signed",
          "a part for another URL": "409 wrong_audience signed",
          "a part by another key than it shows": "403 unknown_key signed",
          "a part that shows the private key": "409 schema signed",
          "the same change again": "taken",
          "another change by the former key": "400 unknown_key",
          "back to the former key": "409 rollback signed",
          "a ping by the former key": "400 unknown_key",
        });
      });

      it("rolls over again when its next key has become its key; an earlier change is refused then", async () => {
        expect(await tool("promote", "--folder", nodeFolder)).toBe(second);
        third = await tool("next", "--folder", nodeFolder);
        expect(await node.says("rolled-over", 2)).toMatchObject({ old: second, new: third });
        expect(await node.says("ready", 3)).toMatchObject({ kid: third });
        expect(refusals(node)).toMatchObject({ "an earlier change again": "400 unknown_key" });
        await leave(node);
      });

      it("finds the key that counts when it starts with the one before still in place, and does not register", async () => {
        node = start();
        expect(await node.says("closed")).toMatchObject({ code: 4401 });
        expect(await node.says("ready")).toMatchObject({ kid: third });
        expect(node.of("registered")).toEqual([]);
        expect(await tool("promote", "--folder", nodeFolder)).toBe(third);
      });

      it("is out when its key is revoked, and comes back by a grant for another", async () => {
        await io(["nodes", "revoke", nodeId, "--data", data]);
        expect(await node.says("closed", 2)).toMatchObject({ code: 4401 });
        await node.says("cannot-register"); // its first key could, and that is gone
        const again = await tool("revoke", "--url", url, `--node=${nodeId}`, ...byAccount());
        expect(JSON.parse(again)).toEqual({ node_id: nodeId, generation: 0 });
        const unknown = await runPython(
          "revoke",
          "client.py",
          "revoke",
          "--url",
          url,
          `--node=${second}`,
          ...byAccount(),
        );
        expect(unknown).toMatchObject({ code: 1, out: expect.stringContaining("HTTP 404") });
        expect(await feed()).toMatchObject([
          { node_id: nodeId, revoked: true, connected: false, generation: 0 },
        ]);

        const fresh = join(folder, "fresh");
        const fourth = await tool("identity", "--folder", fresh);
        const grant = await io(["accounts", "grant", "acme", nodeId, fourth, "--data", data]);
        const named = [`--node=${nodeId}`, `--kid=${fourth}`, "--generation=1"];
        const minted = await tool("grant", "--network", network, ...named, ...byAccount());
        expect(JSON.parse(minted)).toEqual(JSON.parse(grant));
        const former = join(nodeFolder, "former.json");
        const { d: _, ...lost } = JSON.parse(readFileSync(join(nodeFolder, "key.jwk"), "utf8")) as Record<
          string,
          string
        >;
        writeFileSync(former, JSON.stringify([...(JSON.parse(readFileSync(former, "utf8")) as []), lost]));
        writeFileSync(join(nodeFolder, "grant.json"), grant);
        renameSync(join(fresh, "key.jwk"), join(nodeFolder, "key.jwk"));
        expect(await node.says("registered")).toMatchObject({ node_id: nodeId, kid: fourth });
        expect(await node.says("ready", 2)).toMatchObject({ kid: fourth });
        expect((await ask("six")).answer).toBe(`${text}six`);
        expect(await node.says("receipt")).toMatchObject({ index: 6, signer: fourth });
        expect(await feed()).toMatchObject([
          { kid: fourth, revoked: false, connected: true, generation: 1, models_active: [loopModel] },
        ]);
        await leave(node);
      });
    });

    it("keeps a durable job's result before it sends it: another process resumes it and gets the receipt", async () => {
      node = start("--die", "kept");
      const prompt = "sieben Zwerge 🧔 ".repeat(12_000);
      const job = await submit(prompt);
      expect(await node.says("offer")).toMatchObject({ job, durable: true, by: "input" });
      expect(await node.child.exited).toMatchObject({ code: 9 });
      expect(node.of("result")).toEqual([]);
      expect(readdirSync(join(nodeFolder, "results"))).toEqual([`${job}.json`]);
      node = start();
      expect(await node.says("verdict")).toMatchObject({ job, action: "keep" });
      expect(await node.says("receipt")).toMatchObject({ job, index: 7 });
      expect(node.of("offer")).toEqual([]);
      expect(node.of("output-brought")).toHaveLength(1);
      expect((await answerOf(job)) === `${text}${prompt}`).toBe(true);
      expect(readdirSync(join(nodeFolder, "results"))).toEqual([]);
      await leave(node);
    });

    it("gets the receipt of a result whose ack was lost with the verdict on its resume", async () => {
      node = start("--die", "ack");
      const job = await submit("eight");
      expect(await node.child.exited).toMatchObject({ code: 9 });
      expect(await answerOf(job)).toBe(`${text}eight`);
      node = start("--jobs", "1");
      expect(await node.says("verdict")).toMatchObject({ job, action: "committed", offset: 0 });
      expect(await node.says("receipt")).toMatchObject({ job, index: 8 });
      expect(await node.child.exited).toMatchObject({ code: 0 });
      expect(readdirSync(join(nodeFolder, "results"))).toEqual([]);
    });

    it("fetches an input that no frame holds and brings its output back whole, by HTTP", async () => {
      node = start("--probe");
      await node.says("ready");
      const prompt = "Zwölf Boxkämpfer 🥊 ".repeat(15_000);
      const body = JSON.stringify({ model: loopModel, messages: [{ role: "user", content: prompt }] });
      const answer = await request("/v1/chat/completions", body);
      const came = await answer.text();
      expect(answer.status, `${came}\n${node.told()}`).toBe(200);
      expect(node.of("offer")[0]).toMatchObject({ by: "input", stream: false });
      expect(node.of("input-fetched")[0]).toMatchObject({
        bytes: Buffer.byteLength(body),
        sha256: sha256(body),
      });
      expect(node.of("output-brought")[0]).toMatchObject({ bytes: Buffer.byteLength(came) });
      expect(await node.says("result")).toMatchObject({ sha256: sha256(came), chunks: 0 });
      const { choices } = JSON.parse(came) as OpenAI.Chat.ChatCompletion;
      expect(choices[0]?.message.content === `${text}${prompt}`).toBe(true);
      expect(refusals(node)).toEqual({
        "an input with another token": "409 E_LEASE_STALE signed",
        "an input of another attempt": "409 E_LEASE_STALE signed",
        "an input of an unknown job": "409 E_LEASE_STALE signed",
        "an input by the path of another job": "409 E_LEASE_STALE signed",
        "an output with another token": "409 E_LEASE_STALE signed",
        "an output of another hash": "409 digest_mismatch signed",
        "an output that is cut": "409 digest_mismatch signed",
        "the same output again": "taken",
        "another output after it": "taken", // its bytes are known and skipped
        "an output without a request": "400 malformed",
      });
      expect(await node.says("receipt")).toMatchObject({ index: 9 });
      await leave(node);
    });

    /** Another node of the account, bound and not registered yet. */
    async function another(name: string): Promise<string[]> {
      const made = join(folder, name);
      await tool("identity", "--folder", made);
      await tool("bind", "--folder", made, "--network", network, ...byAccount());
      writeFileSync(join(made, "root.json"), authority.root);
      return ["--folder", made, "--url", url, "--network", network];
    }

    it("is refused when it registers by a first key that is revoked", async () => {
      const revoked = new PythonNode(...(await another("revoked")));
      const { kid } = await revoked.says("ready");
      await tool("revoke", "--url", url, `--node=${String(kid)}`, ...byAccount());
      expect(await revoked.says("not-registered")).toMatchObject({
        status: 403,
        code: "unknown_key",
        signed: true,
      });
      await leave(revoked);
    });

    it("is refused each rule that it breaks, with the code that the document names", async () => {
      const said = (await tool("refusals", ...(await another("unruly"))))
        .split("\n")
        .map((line) => JSON.parse(line) as Said)
        .filter(({ what }) => what !== undefined)
        .map(({ what, status, signed, code, reason }) => {
          const named = typeof reason === "string" ? reason.split(":")[0] : code;
          const words = [status, reason === undefined ? undefined : code, named, signed && "signed"];
          return `${String(what)}: ${words.filter(Boolean).join(" ")}`;
        });
      expect(said).toEqual([
        "a ping before the registration: 400 unknown_key",
        "no subprotocol: 400",
        "another subprotocol: 400",
        "a hello before the registration: 4401 unknown_key",
        "a number that was there before: 409 sequence signed",
        "a hello of version 2: 4426 version",
        "a hello for another URL: 4401 wrong_audience",
        "a hello of another network: 4413 wrong_network",
        "a hello of an hour ago: 4401 clock_skew",
        "a hello to another challenge: 4401 wrong_challenge",
        "a hello of another node: 4401 wrong_node",
        "a skipped number: 4412 sequence",
        "another session's frame: 4412 wrong_session",
        "a frame of the service sent back: 4401 wrong_typ",
        "a frame by another key: 4401 unknown_key",
        "a resume after the last one: 4400 schema",
        "a binary message: 4400 malformed",
        "an older session: 4409 a newer session of this node has begun",
        "a process that another one follows: 4409 identity conflict",
        "a ping of an hour ago: 409 clock_skew signed",
        "a ping of another node: 409 wrong_node signed",
        "a ping without time: 400 schema",
        "a ping for another URL: 400 wrong_audience",
        "too many pings: 429",
      ]);
    });

    it("has the receipts that the service exports, and their chain is whole", async () => {
      const exported = await io(["receipts", "export", "acme", "--data", data]);
      const own = join(nodeFolder, "receipts.jsonl");
      expect(existsSync(own)).toBe(true);
      const file = join(folder, "receipts.jsonl");
      writeFileSync(file, exported);
      expect(exported.trim().split("\n")).toHaveLength(9);
      expect(await io(["receipts", "verify", file, "--data", data])).toContain("9 receipts");
      expect(await io(["receipts", "verify", own, "--data", data])).toContain("9 receipts");
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
      expect(verified).toEqual({ code: 0, out: "9 receipts, each by this node: the chain is whole\n" });
    });
  });
});
