import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { createServer as createTlsServer } from "node:https";
import { connect } from "node:net";
import type { AddressInfo } from "node:net";
import { getCACertificates, setDefaultCACertificates } from "node:tls";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { WebSocketServer } from "ws";
import { modelDisk } from "../../src/agent/edge/model-disk.ts";
import { diskFiles } from "../../src/agent/edge/files.ts";
import { nodeHttp } from "../../src/agent/edge/http.ts";
import { wsTransport } from "../../src/agent/edge/transport.ts";
import { requestBytes } from "../../src/agent/http-bytes.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { maxFrameBytes } from "../../src/protocol/messages.ts";
import { createAuthority } from "../testbed/certificates.ts";
import { smallDisk, whyNoSmallDisk } from "../lib/small-disk.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

const processes = supervise();
afterAll(() => processes.close());

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) {
    server.closeAllConnections();
    server.close();
  }
});

async function listening(server: Server): Promise<number> {
  servers.push(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

/** What came through a dialled socket. */
function dial(url: string, proxyEnv: Record<string, string> = {}) {
  const seen = { messages: [] as (string | undefined)[], closed: undefined as [number, string] | undefined };
  const socket = wsTransport(proxyEnv).dial(url, {
    opened: () => {},
    message: (text) => seen.messages.push(text),
    closed: (code, reason) => {
      seen.closed = [code, reason];
    },
  });
  return { socket, seen };
}

const limits = { maxBytes: 1_000, timeoutMs: 5_000 };

describe("through a proxy, with a certificate of an own authority", () => {
  it("session and HTTP pass by CONNECT, and what NO_PROXY names does not", async () => {
    const authority = createAuthority("test authority");
    setDefaultCACertificates([...getCACertificates("default"), authority.cert]);
    const { key, cert } = authority.issue({ commonName: "io", usage: "server", hosts: ["io.example"] });
    const service = createTlsServer({ key, cert }, (_request, response) => response.end("hello"));
    new WebSocketServer({ server: service }).on("connection", (ws) => ws.send("hi"));
    const port = await listening(service);
    const entered: string[] = [];
    const proxy = createServer();
    proxy.on("connect", (request, client) => {
      entered.push(request.url ?? "");
      const upstream = connect(port, "127.0.0.1", () => {
        client.write("HTTP/1.1 200 Connection established\r\n\r\n");
        upstream.pipe(client).pipe(upstream);
      });
      upstream.on("error", () => client.destroy());
      client.on("error", () => upstream.destroy());
    });
    const env = { HTTPS_PROXY: `http://127.0.0.1:${await listening(proxy)}` };

    const { seen, socket } = dial("wss://io.example/v1/session", env);
    await until("the message", () => seen.messages[0] === "hi");
    socket.terminate();
    const request = { method: "GET", url: "https://io.example/v1/config/release" } as const;
    expect((await requestBytes(nodeHttp(env), systemClock, request, limits)).body.toString()).toBe("hello");
    expect(entered).toEqual(["io.example:443", "io.example:443"]);

    const direct = requestBytes(nodeHttp({ ...env, NO_PROXY: "io.example" }), systemClock, request, limits);
    await expect(direct).rejects.toThrow(/GET https:\/\/io\.example/);
    expect(entered).toHaveLength(2);
  });
});

describe("the transport", () => {
  it("B19 closes with 1009 when a message is larger than a frame may be, and tells binary ones apart", async () => {
    const server = createServer();
    const codes: number[] = [];
    new WebSocketServer({ server }).on("connection", (ws) => {
      ws.send(Buffer.from("binary"));
      ws.send("x".repeat(maxFrameBytes + 1));
      ws.on("close", (code) => codes.push(code));
    });
    const { seen } = dial(`ws://127.0.0.1:${await listening(server)}/`);
    await until("the end", () => seen.closed !== undefined && codes.length > 0);
    expect(seen.messages).toEqual([undefined]);
    expect(codes).toEqual([1009]);
  });

  it("tells how a dial failed", async () => {
    const port = await listening(createServer());
    const { seen } = dial(`ws://127.0.0.1:${port}/`);
    servers.pop()?.close();
    await until("the failure", () => seen.closed);
    expect(seen.closed?.[0]).toBe(1006);
    expect(seen.closed?.[1]).not.toBe("");
  });
});

describe("HTTP", () => {
  const ask = async (server: Server, over: Partial<typeof limits> = {}) =>
    requestBytes(
      nodeHttp({}),
      systemClock,
      { method: "GET", url: `http://127.0.0.1:${await listening(server)}/` },
      { ...limits, ...over },
    );

  it("bounds an answer in size and time, and notices one that is cut", async () => {
    const endless = createServer((_request, response) => {
      const more = () => {
        while (!response.destroyed && response.write("x".repeat(1024)));
      };
      response.on("drain", more);
      more();
    });
    await expect(ask(endless)).rejects.toThrow(/larger than 1000 bytes/);
    await expect(
      ask(
        createServer(() => {}),
        { timeoutMs: 50 },
      ),
    ).rejects.toThrow(/no answer within 50 ms/);
    const cut = createServer((_request, response) => {
      response.writeHead(200, { "content-length": "10" }).write("half");
      setImmediate(() => response.destroy());
    });
    await expect(ask(cut)).rejects.toThrow(/GET http/);
  });

  it("waits for an engine that is silent for longer than idle connections are kept", async () => {
    const slow = createServer((_request, response) => void setTimeout(() => response.end("late"), 2_500));
    expect((await ask(slow)).body.toString()).toBe("late");
  });
});

describe("a folder of weights", () => {
  const why = whyNoSmallDisk();

  it.skipIf(why !== undefined)(
    `is known to be read-only whatever is missing in it${why === undefined ? "" : ` (${why})`}`,
    async () => {
      const { folder, seal } = smallDisk(processes, 1);
      const paths = [folder, join(folder, "sha256"), join(folder, "sha256", "deeper")];
      for (const path of paths) expect(await modelDisk.writable(path)).toBe(true);
      rmSync(join(folder, "sha256"), { recursive: true });
      seal();
      for (const path of paths) expect(await modelDisk.writable(path)).toBe(false);
    },
  );
});

describe("files", () => {
  it("are written whole, readable for whom they are meant, and leave nothing behind", async () => {
    const dir = join(processes.folder("files"), "deep", "er");
    await diskFiles.write(join(dir, "a"), "one", 0o644);
    await diskFiles.write(join(dir, "a"), "two", 0o644);
    await diskFiles.write(join(dir, "b"), "secret");
    expect(readFileSync(join(dir, "a"), "utf8")).toBe("two");
    expect(statSync(join(dir, "a")).mode & 0o777).toBe(0o644);
    expect(statSync(join(dir, "b")).mode & 0o777).toBe(0o600);
    expect(readdirSync(dir).sort()).toEqual(["a", "b"]);
  });

  it("that cannot be written leave nothing behind that would fill the disk", async () => {
    const dir = processes.folder("files");
    mkdirSync(join(dir, "taken", "by a folder"), { recursive: true });
    await expect(diskFiles.write(join(dir, "taken"), "x".repeat(1000))).rejects.toThrow(/EISDIR|ENOTEMPTY/);
    expect(readdirSync(dir)).toEqual(["taken"]);
  });

  it("that are not there are undefined, those that cannot be read an error", async () => {
    const dir = processes.folder("files");
    expect(await diskFiles.read(join(dir, "none"))).toBeUndefined();
    expect(await diskFiles.read(join(dir, "none", "deeper"))).toBeUndefined();
    expect(await diskFiles.list(join(dir, "none"))).toEqual([]);
    mkdirSync(join(dir, "folder"));
    await expect(diskFiles.read(join(dir, "folder"))).rejects.toThrow(/EISDIR/);
  });

  it("tell of a change in a folder that is watched, and a folder that is not there is no fault", async () => {
    const dir = processes.folder("files");
    let changes = 0;
    const stop = diskFiles.watch(dir, () => changes++);
    await diskFiles.write(join(dir, "desired"), "x");
    await until("a change", () => changes > 0);
    stop();
    expect(diskFiles.watch(join(dir, "none"), () => {})).toBeTypeOf("function");
  });
});
