import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { connect, createServer as createTcpServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { Client } from "../../src/kube/client.ts";
import { type ApiConnection, inCluster } from "../../src/kube/config.ts";
import { KubeError } from "../../src/kube/errors.ts";
import { configMaps } from "../../src/kube/resources.ts";
import { Transport, type TransportOptions } from "../../src/kube/transport.ts";
import { Metrics } from "../../src/lib/metrics.ts";
import { FakeClock } from "../lib/fake-clock.ts";
import { until } from "../testbed/until.ts";
import { startFreezingProxy } from "./freezing-proxy.ts";
import { configMap } from "./objects.ts";
import { type Exchange, connectionTo, startScriptedServer, status } from "./scripted-server.ts";

const transports: Transport[] = [];
afterEach(() => transports.splice(0).forEach((transport) => transport.close()));

function open(connection: ApiConnection, options: Partial<TransportOptions> = {}) {
  const transport = new Transport({ connection, userAgent: "resultity-operator/test", ...options });
  transports.push(transport);
  return { transport, client: new Client(transport) };
}

const ok = (exchange: Exchange) => exchange.json(200, configMap("a", 1));
const ref = { namespace: "ns", name: "a" };

async function failure(work: Promise<unknown>): Promise<KubeError> {
  const error = await work.then(
    () => new Error("it did not fail"),
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(KubeError);
  if (error instanceof KubeError) return error;
  throw error;
}

describe("Transport", () => {
  it("sends many requests over one connection, saying who it is", async () => {
    const agents = new Set<string | undefined>();
    await using server = await startScriptedServer((exchange) => {
      agents.add(exchange.headers["user-agent"]);
      ok(exchange);
    });
    const { client } = open(server.connection);
    await Promise.all(Array.from({ length: 200 }, () => client.get(configMaps, ref)));
    expect(server.requests).toHaveLength(200);
    expect(server.accepted()).toBe(1);
    expect([...agents]).toEqual(["resultity-operator/test"]);
  });

  it("sends no more at once than allowed, and the rest when there is room", async () => {
    let now = 0;
    let most = 0;
    await using server = await startScriptedServer((exchange) => {
      most = Math.max(most, ++now);
      setImmediate(() => {
        now--;
        ok(exchange);
      });
    });
    const { client } = open(server.connection, { maxInFlight: 5 });
    await Promise.all(Array.from({ length: 40 }, () => client.get(configMaps, ref)));
    expect(most).toBe(5);
  });

  it("lets an urgent request past those that wait for their turn", async () => {
    await using server = await startScriptedServer((exchange) => {
      if (exchange.path.endsWith("/lease")) ok(exchange);
    });
    const { client } = open(server.connection, { maxInFlight: 1 });
    const abort = new AbortController();
    const stuck = ["a", "b"].map((name) =>
      failure(client.get(configMaps, { namespace: "ns", name }, { signal: abort.signal })),
    );
    await client.get(configMaps, { namespace: "ns", name: "lease" }, { urgent: true });
    abort.abort();
    expect((await Promise.all(stuck)).map(({ code }) => code)).toEqual(["Aborted", "Aborted"]);
  });

  it("goes to a new connection after GOAWAY, while what is open goes on", async () => {
    await using server = await startScriptedServer((exchange) => {
      if (exchange.query.has("watch")) watches.push(exchange.watch());
      else ok(exchange);
    });
    const watches: ReturnType<Exchange["watch"]>[] = [];
    const { client } = open(server.connection);
    const answer = await client.watch(configMaps, { timeoutSeconds: 60, resourceVersion: "1" });
    for (const session of server.sessions) session.goaway();
    await until("a new connection", async () => {
      await client.get(configMaps, ref);
      return server.accepted() === 2;
    });
    watches[0]?.raw("still here\n");
    watches[0]?.end();
    const text: string[] = [];
    for await (const chunk of answer.body) text.push(String(chunk));
    expect(text.join("")).toBe("still here\n");
  });

  it("opens another connection where watches have taken all streams of one, and ends the first with its last watch", async () => {
    const watches: ReturnType<Exchange["watch"]>[] = [];
    await using server = await startScriptedServer(
      (exchange) => {
        if (exchange.query.has("watch")) watches.push(exchange.watch());
        else ok(exchange);
      },
      { maxConcurrentStreams: 3 },
    );
    const { client } = open(server.connection);
    const watch = () => client.watch(configMaps, { timeoutSeconds: 60, resourceVersion: "1" });
    for (let n = 0; n < 3; n++) await watch();
    await Promise.all([client.get(configMaps, ref, { timeout: 2000 }), watch()]);
    expect([server.accepted(), server.sessions.size]).toEqual([2, 2]);
    // The connection with room is used, as long as it has any.
    await client.get(configMaps, ref);
    expect(server.accepted()).toBe(2);
    for (const full of watches.slice(0, 3)) full.end();
    await until("the first connection to end", () => server.sessions.size === 1);
    await client.get(configMaps, ref);
    expect(server.accepted()).toBe(2);
  });

  it("sends again what the server says it never looked at, whatever it is", async () => {
    let refused = 0;
    await using server = await startScriptedServer((exchange) => {
      if (refused++ === 0) exchange.stream.close(7);
      else exchange.json(201, configMap("a", 1));
    });
    const { client } = open(server.connection);
    await client.create(configMaps, { metadata: ref });
    expect(server.requests).toHaveLength(2);
  });

  it("fails what is under way when the connection breaks, and makes a new one for the next", async () => {
    await using server = await startScriptedServer(() => {
      for (const session of server.sessions) session.destroy();
    });
    const { client } = open(server.connection);
    expect((await failure(client.get(configMaps, ref))).code).toBe("Unavailable");
    server.answer = ok;
    expect((await client.get(configMaps, ref)).metadata.name).toBe("a");
  });

  it("says which server it could not reach", async () => {
    const server = await startScriptedServer(ok);
    const { client } = open(server.connection);
    await server[Symbol.asyncDispose]();
    const error = await failure(client.get(configMaps, ref));
    expect(error.code).toBe("Unavailable");
    expect(error.message).toMatch(/^get configmaps ns\/a: API server 127\.0\.0\.1:\d+: cannot connect/);
  });

  it("F14 asks whether it may write when a write is sent, however long that has waited, and when it is sent again", async () => {
    const clock = new FakeClock();
    const first = Promise.withResolvers<void>();
    await using server = await startScriptedServer((exchange) => {
      if (exchange.method === "GET") void first.promise.then(() => ok(exchange));
      else exchange.json(429, status(429, "TooManyRequests", "later"), { "retry-after": "3" });
    });
    const { client } = open(server.connection, { maxInFlight: 1, clock });
    let leads = true;
    const guarded = client.guarded(() => {
      if (!leads) throw new KubeError("NotLeader", "withheld");
    });
    const writes = () => server.requests.filter((request) => !request.startsWith("GET"));
    const inTheWay = client.get(configMaps, ref);
    const create = failure(guarded.create(configMaps, { metadata: ref }));
    await until("the request in the way", () => server.requests.length === 1);
    leads = false;
    first.resolve();
    await inTheWay;
    expect((await create).code).toBe("NotLeader");
    expect(writes()).toEqual([]);

    leads = true;
    const remove = failure(guarded.delete(configMaps, ref));
    await until("the answer to wait", () => clock.pending === 3, { intervalMs: 5 });
    leads = false;
    clock.advance(3000);
    expect((await remove).code).toBe("NotLeader");
    expect(writes()).toHaveLength(1);
  });

  it("F06 obeys Retry-After of 429 and 503 where that is safe, and only so often", async () => {
    const clock = new FakeClock();
    let refusals = 2;
    await using server = await startScriptedServer((exchange) => {
      if (refusals-- > 0) {
        exchange.json(429, status(429, "TooManyRequests", "slow down"), { "retry-after": "3" });
      } else ok(exchange);
    });
    const { client } = open(server.connection, { clock });
    const reading = client.get(configMaps, ref, { timeout: 100_000 });
    // Timers: the request's limit, the next ping, and the wait that the server asked for.
    const waiting = () => until("the wait", () => clock.pending === 3, { intervalMs: 5 });
    await waiting();
    clock.advance(2999);
    expect(clock.pending).toBe(3);
    clock.advance(1);
    await waiting();
    expect(server.requests).toHaveLength(2);
    clock.advance(3000);
    expect((await reading).metadata.name).toBe("a");

    refusals = 1;
    const error = await failure(client.create(configMaps, { metadata: ref }));
    expect([error.code, error.status, error.retryAfter]).toEqual(["TooManyRequests", 429, 3000]);

    refusals = 100;
    const before = server.requests.length;
    const hopeless = failure(client.get(configMaps, ref, { timeout: 100_000 }));
    for (let i = 1; i <= 3; i++) {
      await waiting();
      clock.advance(3000);
    }
    expect((await hopeless).code).toBe("TooManyRequests");
    expect(server.requests).toHaveLength(before + 4);
  });

  it("reads its credentials anew after a 401, once", async () => {
    const asked: (boolean | undefined)[] = [];
    await using server = await startScriptedServer((exchange) => {
      if (exchange.headers.authorization === "Bearer new") ok(exchange);
      else exchange.json(401, status(401, "Unauthorized", "Unauthorized"));
    });
    let token = "old";
    const { client } = open({
      ...server.connection,
      headers: async ({ fresh } = {}) => {
        asked.push(fresh);
        if (fresh) token = token === "old" ? "new" : "worse";
        return { authorization: `Bearer ${token}` };
      },
    });
    await client.get(configMaps, ref);
    expect(asked).toEqual([false, true]);
    token = "revoked";
    expect((await failure(client.get(configMaps, ref))).code).toBe("Unauthorized");
    expect(asked).toEqual([false, true, false, true]);
  });

  it("gives up at its time limit and when the caller does, and tells the server", async () => {
    const closed: number[] = [];
    await using server = await startScriptedServer(({ stream }) => {
      stream.on("close", () => closed.push(stream.rstCode ?? -1));
    });
    const { client } = open(server.connection);
    const late = await failure(client.get(configMaps, ref, { timeout: 50 }));
    expect([late.code, late.message]).toEqual(["Timeout", "get configmaps ns/a: no answer within 0.05 s"]);
    const abort = new AbortController();
    const given = failure(client.get(configMaps, ref, { signal: abort.signal }));
    await until("the request", () => server.requests.length === 2);
    abort.abort();
    expect((await given).code).toBe("Aborted");
    await until("both streams cancelled", () => closed.length === 2);
    expect(closed).toEqual([8, 8]);
    expect((await failure(client.get(configMaps, ref, { signal: AbortSignal.abort() }))).code).toBe(
      "Aborted",
    );
  });

  it("bounds what it reads", async () => {
    await using server = await startScriptedServer(({ stream }) => {
      stream.respond({ ":status": 200 });
      const pour = () => {
        while (!stream.destroyed && stream.write("x".repeat(65_536)));
      };
      stream.on("drain", pour);
      pour();
    });
    const { transport } = open(server.connection);
    const context = { verb: "get", resource: "things", object: "a" };
    const request = transport.request({ method: "GET", path: "/api", context, maxBytes: 1 << 20 });
    const error = await failure(request);
    expect([error.code, error.message]).toEqual([
      "TooLarge",
      "get things a: the answer is longer than 1048576 bytes",
    ]);
  });

  it("F06 takes a cut or garbled answer for a failure of the server", async () => {
    await using server = await startScriptedServer(({ stream }) => {
      stream.respond({ ":status": 200 });
      stream.write('{"kind":');
      stream.close(8);
    });
    const { client } = open(server.connection);
    expect((await failure(client.get(configMaps, ref))).code).toBe("Unavailable");
    server.answer = ({ stream }) => {
      stream.respond({ ":status": 200 });
      stream.end("<html>gateway</html>");
    };
    const error = await failure(client.get(configMaps, ref));
    expect([error.code, error.message]).toEqual([
      "Unavailable",
      "get configmaps ns/a: the answer is cut or not JSON",
    ]);
  });

  it("gives each refusal its code, the server's words, and what was asked", async () => {
    await using server = await startScriptedServer(ok);
    const { client } = open(server.connection);
    for (const [http, reason, code] of [
      [403, "Forbidden", "Forbidden"],
      [404, "NotFound", "NotFound"],
      [409, "AlreadyExists", "AlreadyExists"],
      [409, "Conflict", "Conflict"],
      [410, "Expired", "Gone"],
      [422, "Invalid", "Invalid"],
      [500, "InternalError", "Unavailable"],
      [504, "Timeout", "Timeout"],
    ] as const) {
      server.answer = (exchange) => exchange.json(http, status(http, reason, `because ${reason}`));
      const error = await failure(client.get(configMaps, ref));
      expect([error.code, error.status, error.reason]).toEqual([code, http, reason]);
      expect(error.message).toBe(`get configmaps ns/a: because ${reason}`);
      expect([error.verb, error.resource, error.object]).toEqual(["get", "configmaps", "ns/a"]);
    }
  });

  it("withholds writes, and only writes, when told to", async () => {
    await using server = await startScriptedServer(ok);
    const client = open(server.connection).client.guarded(() => {
      throw new KubeError("NotLeader", "not now");
    });
    await client.get(configMaps, ref);
    const draft = { metadata: ref };
    for (const write of [
      () => client.create(configMaps, draft),
      () => client.update(configMaps, draft),
      () => client.jsonPatch(configMaps, ref, []),
      () => client.mergePatch(configMaps, ref, {}),
      () => client.apply(configMaps, draft, { fieldManager: "x" }),
      () => client.delete(configMaps, ref),
    ]) {
      await expect(async () => write()).rejects.toThrow("not now");
    }
    expect(server.requests).toHaveLength(1);
  });

  it("F08 notices a half-open connection, and leaves a healthy idle watch alone", async () => {
    await using server = await startScriptedServer((exchange) => {
      if (exchange.query.has("watch")) exchange.watch();
      else ok(exchange);
    });
    await using proxy = await startFreezingProxy(server.port);
    const { client } = open(connectionTo(proxy.port), { timing: { pingInterval: 30, pingTimeout: 200 } });
    const { body } = await client.watch(configMaps, { timeoutSeconds: 600, resourceVersion: "1" });
    let ended: unknown;
    let next: Promise<unknown> = Promise.resolve();
    body.on("error", (error) => {
      ended = error;
      // At once, when the dead connection has not yet said that it is closed.
      next = client.get(configMaps, ref);
    });
    body.resume();
    // Twenty silent ping intervals of a healthy connection.
    const pings = performance.now() + 600;
    await until("some pings", () => performance.now() > pings);
    expect(ended).toBeUndefined();
    expect(proxy.accepted()).toBe(1);
    const frozen = performance.now();
    proxy.freeze();
    await until("the dead connection to be noticed", () => ended !== undefined);
    expect(performance.now() - frozen).toBeLessThan(1500);
    await next;
    expect(proxy.accepted()).toBe(2);
  });

  it("takes a connection on which a ping's answer waits behind much else for alive", async () => {
    const line = `${JSON.stringify({ type: "BOOKMARK", object: { text: "x".repeat(1000) } })}\n`;
    await using server = await startScriptedServer((exchange) => exchange.watch().raw(line.repeat(2000)));
    // 16 KiB each 10 ms, so a megabyte ahead of the answer takes three times as long as a ping may.
    const slow = createTcpServer((near) => {
      const far = connect(server.port, "127.0.0.1");
      far.on("data", (part: Buffer) => {
        near.write(part);
        far.pause();
        setTimeout(() => far.resume(), part.length / 1600);
      });
      near.pipe(far);
      for (const socket of [near, far]) socket.on("error", () => undefined);
      near.on("close", () => far.destroy());
    });
    await new Promise<void>((resolve) => slow.listen(0, "127.0.0.1", resolve));
    const address = slow.address();
    const port = typeof address === "object" && address ? address.port : 0;
    const { client, transport } = open(connectionTo(port), {
      timing: { pingInterval: 30, pingTimeout: 200 },
    });
    const { body } = await client.watch(configMaps, { timeoutSeconds: 600, resourceVersion: "1" });
    let bytes = 0;
    let ended: unknown;
    body.on("data", (part: Buffer) => (bytes += part.length));
    body.on("error", (error) => (ended = error));
    await until("all of it", () => bytes === 2000 * line.length || ended !== undefined);
    expect(ended).toBeUndefined();
    transport.close();
    slow.close();
  });

  it("does not wait for the ping when a request went unanswered: the next one goes another way", async () => {
    await using server = await startScriptedServer(ok);
    await using proxy = await startFreezingProxy(server.port);
    const { client } = open(connectionTo(proxy.port));
    await client.get(configMaps, ref);
    proxy.freeze();
    expect((await failure(client.get(configMaps, ref, { timeout: 100 }))).code).toBe("Timeout");
    await client.get(configMaps, ref, { timeout: 5000 });
  });

  it("speaks plain HTTP to a plain server", async () => {
    const server = createServer((request, response) => {
      response.setHeader("content-type", "application/json");
      if (request.url?.endsWith("/slow")) return;
      response.end(JSON.stringify(configMap("plain", 1)));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = server.address();
    const port = typeof address === "object" && address ? address.port : 0;
    const { client } = open({ ...connectionTo(port), server: new URL(`http://127.0.0.1:${port}/prefix/`) });
    expect((await client.get(configMaps, ref)).metadata.name).toBe("plain");
    const slow = client.get(configMaps, { namespace: "ns", name: "slow" }, { timeout: 50 });
    expect((await failure(slow)).code).toBe("Timeout");
    server.closeAllConnections();
    server.close();
  });

  it("counts requests under client-go's name", async () => {
    const metrics = new Metrics();
    await using server = await startScriptedServer(ok);
    const { client } = open(server.connection, { metrics });
    await client.get(configMaps, ref);
    expect(await metrics.text()).toMatch(
      /rest_client_requests_total\{code="200",method="GET",host="[^"]+"\} 1/,
    );
  });
});

describe("inCluster", () => {
  it("reads a rotated token within a minute, and at once when told to", async () => {
    const folder = await mkdtemp(join(tmpdir(), "resultity-sa-"));
    const clock = new FakeClock();
    const write = (token: string) => writeFile(join(folder, "token"), `${token}\n`);
    await Promise.all([
      write("one"),
      writeFile(join(folder, "ca.crt"), "CA"),
      writeFile(join(folder, "namespace"), "sys\n"),
    ]);
    const connection = await inCluster({ host: "fd00::1", port: "443", folder, clock });
    expect([connection.server.href, connection.namespace]).toEqual(["https://[fd00::1]/", "sys"]);
    expect(await connection.headers()).toEqual({ authorization: "Bearer one" });
    await write("two");
    expect(await connection.headers()).toEqual({ authorization: "Bearer one" });
    expect(await connection.headers({ fresh: true })).toEqual({ authorization: "Bearer two" });
    await write("three");
    clock.advance(60_000);
    expect(await connection.headers()).toEqual({ authorization: "Bearer three" });
    await rm(folder, { recursive: true });
    await expect(inCluster({ host: "h", port: "443", folder })).rejects.toThrow(/token/);
  });
});
