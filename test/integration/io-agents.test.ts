import { readFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { join } from "node:path";
import OpenAI from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type AccountKey, mintBinding } from "../../src/protocol/binding.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { TestNetwork } from "../agent/fixture/network.ts";
import { engineCommand, NodeProcesses } from "../agent/fixture/process.ts";
import { IoProcess } from "../io/fixture/network.ts";
import { freePort } from "../testbed/ports.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/** Real agents, launchers and engines on a real service: what no scripted end can show. */
const model = "m1";
const processes = supervise();
let io: IoProcess;
let client: OpenAI;
let accountKey: AccountKey;
let config: ConfigDigest;
let nodes: NodeProcesses[];
let proxy: Awaited<ReturnType<typeof cuttableProxy>>;

/** A TCP proxy in front of the service whose connections a test can cut. */
async function cuttableProxy(to: number) {
  const open = new Set<Socket>();
  const port = await freePort();
  const server = createServer((from) => {
    const onward = connect(to, "127.0.0.1");
    for (const socket of [from, onward]) {
      open.add(socket);
      socket.on("error", () => {});
      socket.on("close", () => {
        open.delete(socket);
        from.destroy();
        onward.destroy();
      });
    }
    from.pipe(onward).pipe(from);
  });
  await new Promise<void>((resolve) => server.listen(port, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${port}`,
    cut: () => {
      for (const socket of open) socket.destroy();
    },
    close: () => {
      for (const socket of open) socket.destroy();
      server.close();
    },
  };
}

/** A node whose identity is of the service's network; it gets its config from the service. */
async function startNode(endpoint: string): Promise<NodeProcesses> {
  const node = await NodeProcesses.make(processes, new TestNetwork());
  const { nodeId } = node.identity;
  node.write("identity/binding.json", JSON.stringify(mintBinding(accountKey, io.network, "acme", nodeId)));
  node.write("identity/root.json", readFileSync(join(io.keys, "root.json"), "utf8"));
  node.desire({ target: config });
  node.startAgent(endpoint);
  await node.startLauncher();
  return node;
}

beforeAll(async () => {
  io = await IoProcess.start(processes, ["--disconnect-grace", "5s", "--lease", "10s", "--heartbeat", "1s"]);
  const port = Number(new URL(io.url).port);
  proxy = await cuttableProxy(port);
  await io.allowAudience(proxy.url);
  accountKey = await io.account("acme");
  const log = join(io.folder, "engine.log");
  config = await io.publish([model], { engine: "test", command: engineCommand({ log, tokenDelayMs: 20 }) });
  client = new OpenAI({ baseURL: `${io.url}/v1`, apiKey: await io.apiKey("someone"), maxRetries: 0 });
  nodes = [await startNode(io.url), await startNode(proxy.url)];
  await ready(2);
});
afterAll(async () => {
  proxy.close();
  await processes.close();
});

/** Waits until so many nodes have a session and serve the model. */
async function ready(count: number): Promise<void> {
  await until(
    `${count} nodes that serve`,
    async () =>
      (await io.nodes()).filter((node) => node.connected && node.models.includes(model)).length === count,
    { deadlineMs: 60_000, intervalMs: 300 },
  );
}

interface Answered {
  readonly id: string;
  readonly text: string;
  readonly error: string | undefined;
}

/** Both nodes serve, whatever the test before has left. */
async function twoServe(): Promise<void> {
  if (!io.child?.running()) await io.serve();
  for (const [at, node] of nodes.entries())
    if (!node.agent?.running()) node.startAgent(at === 0 ? io.url : proxy.url);
  await ready(2);
}

/** One streamed request to its end, however that is. */
async function stream(onText: () => void = () => {}, maxTokens = 60): Promise<Answered> {
  const messages = [{ role: "user" as const, content: "tell me" }];
  const { data, response } = await client.chat.completions
    .create({ model, messages, stream: true, max_tokens: maxTokens })
    .withResponse();
  const id = response.headers.get("x-request-id") ?? "";
  let text = "";
  try {
    for await (const part of data) {
      text += part.choices[0]?.delta.content ?? "";
      onText();
    }
    return { id, text, error: undefined };
  } catch (error) {
    return { id, text, error: error instanceof OpenAI.APIError ? String(error.code) : String(error) };
  }
}

async function plain(): Promise<Answered> {
  const messages = [{ role: "user" as const, content: "tell me" }];
  const { data, response } = await client.chat.completions
    .create({ model, messages, max_tokens: 20 })
    .withResponse();
  const id = response.headers.get("x-request-id") ?? "";
  return { id, text: data.choices[0]?.message.content ?? "", error: undefined };
}

describe("real agents and engines", () => {
  it("answer plain and streamed requests, each with a receipt", async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, at) => (at % 2 === 0 ? stream() : plain())),
    );
    expect(answers.map(({ error }) => error).filter((error) => error !== undefined)).toEqual([]);
    expect(answers.every(({ text }) => text.length > 0)).toBe(true);
    expect(new Set(answers.map(({ id }) => id)).size).toBe(20);
    await until("the acknowledgements", async () => {
      const states = await io.states();
      return answers.every(({ id }) => states.get(id) === "CONFIRMED");
    });
    expect((await io.job(answers[0]?.id ?? ""))["receipt"]).toMatchObject({ account: "acme", attempt: 1 });
  });

  it("F40 a session that is cut in mid-stream comes back, and the client reads one unbroken stream", async () => {
    await twoServe();
    const whole = (await stream()).text;
    let cuts = 0;
    const answers = await Promise.all(
      Array.from({ length: 4 }, () => {
        let pieces = 0;
        return stream(() => {
          if (++pieces === 10 && cuts++ === 0) proxy.cut();
        });
      }),
    );
    expect(cuts).toBeGreaterThan(0);
    expect(answers.map(({ error }) => error)).toEqual([undefined, undefined, undefined, undefined]);
    for (const { text } of answers) expect(text).toBe(whole);
    await ready(2);
  });

  it("F39 an agent killed with SIGKILL: plain requests are answered elsewhere, its streams end as node_lost", async () => {
    await twoServe();
    const [, victim] = nodes;
    let killed = false;
    const asked = Array.from({ length: 8 }, (_, at) =>
      at % 2 === 0
        ? stream(() => {
            if (killed) return;
            killed = true;
            void victim?.agent?.stop({ graceMs: 0 });
          })
        : plain(),
    );
    const answers = await Promise.all(asked);
    // Of a synchronous job the client hears before the disk does.
    const states = await until("their ends on disk", async () => {
      const seen = await io.states();
      const over = new Set(["COMMITTED", "CONFIRMED", "INTERRUPTED"]);
      return answers.every(({ id }) => over.has(seen.get(id) ?? "")) && seen;
    });
    for (const [at, { id, error, text }] of answers.entries()) {
      if (at % 2 === 1) expect(text.length).toBeGreaterThan(0);
      expect([undefined, "node_lost"]).toContain(error);
      expect(error === undefined ? ["COMMITTED", "CONFIRMED"] : ["INTERRUPTED"]).toContain(states.get(id));
    }
    victim?.startAgent(proxy.url);
    await ready(2);
  });

  it("the service killed with SIGKILL: agents come back, and what is asked then is answered", async () => {
    await twoServe();
    const offered = () => io.metric("resultity_io_offers_total");
    const before = await offered();
    let pieces = 0;
    const known = (await io.states()).size;
    // Long enough not to end before the service does.
    const asked = Promise.allSettled(Array.from({ length: 6 }, () => stream(() => pieces++, 2_000)));
    await until("streams under way", async () => pieces > 0 && (await offered()) >= before + 6);
    await until("all of them on disk", async () => (await io.states()).size === known + 6);
    await io.kill();
    // The connection was cut: no client was told that its answer is complete.
    for (const outcome of await asked)
      if (outcome.status === "fulfilled") expect(outcome.value.error).toBeDefined();
    await io.serve();
    const states = [...(await io.states()).values()];
    expect(states.filter((state) => state === "CANCELLED")).toHaveLength(6);
    await ready(2);
    const answers = await Promise.all(Array.from({ length: 6 }, () => stream()));
    expect(answers.map(({ error }) => error)).toEqual(Array.from({ length: 6 }, () => undefined));
  });
});
