import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { modelFetch } from "../../../src/agent/edge/model-fetch.ts";
import { messageOf } from "../../../src/lib/errors.ts";

let server: Server;
let url: string;
let answer: (request: IncomingMessage, response: ServerResponse) => void;
let dir: string;

beforeEach(async () => {
  dir = mkdtempSync(join(tmpdir(), "fetch-"));
  server = createServer((request, response) => answer(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (typeof address !== "object" || !address) throw new Error("the server does not listen");
  url = `http://127.0.0.1:${address.port}`;
});

afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  rmSync(dir, { recursive: true });
});

const never = new AbortController().signal;

async function read(from: number, at = `${url}/file`, env = {}, dirs: readonly string[] = []) {
  const fetched = await modelFetch(env, dirs).open(at, from, never);
  const parts: Uint8Array[] = [];
  for await (const part of fetched.body) parts.push(part);
  fetched.close();
  return { from: fetched.from, size: fetched.size, text: Buffer.concat(parts).toString() };
}

const fault = async (...given: Parameters<typeof read>) => {
  try {
    return JSON.stringify(await read(...given));
  } catch (thrown) {
    return messageOf(thrown);
  }
};

describe("weights over HTTP", () => {
  it("are asked for from where they are needed, uncompressed", async () => {
    let asked: IncomingMessage["headers"] = {};
    answer = (request, response) => {
      asked = request.headers;
      response.writeHead(206, { "content-range": "bytes 3-5/6" }).end("def");
    };
    expect(await read(3)).toEqual({ from: 3, size: 6, text: "def" });
    expect(asked).toMatchObject({ range: "bytes=3-", "accept-encoding": "identity" });
  });

  it("begin at 0 where a place knows no ranges", async () => {
    answer = (_, response) => void response.writeHead(200, { "content-length": "6" }).end("abcdef");
    expect(await read(3)).toEqual({ from: 0, size: 6, text: "abcdef" });
  });

  it.each<[string, number, Record<string, string>, RegExp]>([
    ["another range than was asked for", 206, { "content-range": "bytes 0-5/6" }, /HTTP 206/],
    ["a range without its place", 206, {}, /HTTP 206/],
    ["compressed bytes", 200, { "content-encoding": "gzip" }, /HTTP 200/],
    ["an error", 404, {}, /\/file answered HTTP 404/],
    [
      "a redirect to a file",
      302,
      { location: "file:///etc/passwd" },
      /redirects to nowhere that may be asked/,
    ],
    ["a redirect to nowhere", 302, {}, /redirects to nowhere/],
  ])("are not taken with %s", async (_, status, headers, says) => {
    answer = (_request, response) => void response.writeHead(status, headers).end("abc");
    expect(await fault(3)).toMatch(says);
  });

  it("follow redirects, five and no more, whose signed queries are not told", async () => {
    let hops = 5;
    answer = (_, response) => {
      if (hops-- > 0) response.writeHead(307, { location: `/next?signature=secret${hops}` }).end();
      else response.writeHead(200).end("abc");
    };
    expect((await read(0)).text).toBe("abc");
    hops = 6;
    expect(await fault(0)).toMatch(/redirects more than 5 times/);
    answer = (request, response) => {
      if (request.url === "/file") response.writeHead(302, { location: "/next?signature=secret" }).end();
      else response.writeHead(403).end();
    };
    const said = await fault(0);
    expect(said).toMatch(/\/next answered HTTP 403/);
    expect(said).not.toContain("secret");
  });

  it("come through a proxy where the environment names one", async () => {
    let asked = "";
    answer = (request, response) => {
      asked = request.url ?? "";
      response.writeHead(200).end("abc");
    };
    const far = "http://weights.invalid/file";
    expect((await read(0, far, { HTTP_PROXY: url })).text).toBe("abc");
    expect(asked).toBe(far);
  });

  it("that break off say so", async () => {
    answer = (_, response) => {
      response.writeHead(200, { "content-length": "6" });
      response.write("abc", () => response.destroy());
    };
    expect(await fault(0)).not.toContain("abc");
  });
});

describe("weights in a folder of the host", () => {
  it("are read in the folders that the owner names, and through no link out of them", async () => {
    const allowed = join(dir, "allowed");
    mkdirSync(allowed);
    writeFileSync(join(allowed, "w"), "abcdef");
    writeFileSync(join(dir, "secret"), "secret");
    symlinkSync(join(dir, "secret"), join(allowed, "link"));
    symlinkSync(join(allowed, "w"), join(allowed, "inside"));
    const file = (name: string) => `file://${allowed}/${name}`;
    expect(await read(2, file("w"), {}, [allowed])).toEqual({ from: 2, size: 6, text: "cdef" });
    expect((await read(0, file("inside"), {}, [dir, allowed])).text).toBe("abcdef");
    for (const name of ["link", "../secret", "%2e%2e/secret", "..%2fsecret"])
      expect(await fault(0, file(name), {}, [allowed]), name).not.toContain('"secret"');
    for (const dirs of [[], [join(dir, "allow")], ["/nonexistent"]])
      expect(await fault(0, file("w"), {}, dirs)).toMatch(/--models-source-dir/);
    expect(await fault(0, `file://${dir}/allowed`, {}, [dir])).toMatch(/no file/);
  });
});
