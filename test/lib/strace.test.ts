import { describe, expect, it } from "vitest";
import { countSyncs, offsetOf, parseTrace, precedes, stringsOf, syncAfter, writtenBy } from "./strace.ts";
import { transactionsOf } from "./strace-sqlite.ts";
import { sentFrames } from "./strace-ws.ts";

const trace = (...lines: readonly string[]) => parseTrace(lines.map((line) => `${line}\n`).join(""));

const socket = "27<TCP:[127.0.0.1:8480->127.0.0.1:35756]>";
const log = "22</data/io.db-wal>";

describe("a trace", () => {
  it("tells name, thread, file, arguments and result of a call", () => {
    const [sync, failed, write] = trace(
      "100 1700000000.000001 fsync(22</data/io.db-wal>)   = 0",
      "100 1700000000.000002 fdatasync(22</data/io.db>) = -1 EIO (Input/output error)",
      `7 1700000000.000003 write(${socket}, "a) = 5 <unfinished ...>", 23) = 23`,
    );
    expect(sync).toMatchObject({
      name: "fsync",
      thread: 100,
      file: "/data/io.db-wal",
      result: 0,
      begun: 0,
      ended: 0,
    });
    expect(failed).toMatchObject({ name: "fdatasync", file: "/data/io.db", result: -1 });
    expect(write).toMatchObject({ thread: 7, file: "TCP:[127.0.0.1:8480->127.0.0.1:35756]", result: 23 });
    expect(write?.at).toBe(1700000000.000003);
  });

  it("joins a call that was interrupted by other threads, and knows when it had returned", () => {
    const [sync, write, never] = trace(
      "1 1.0 fsync(22</data/io.db-wal> <unfinished ...>",
      `2 1.1 write(${socket}, "early", 5 <unfinished ...>`,
      "3 1.2 fsync(22</data/io.db> <unfinished ...>",
      "2 1.3 <... write resumed>)           = 5",
      "1 1.4 <... fsync resumed>)            = 0",
    );
    expect([sync, write, never].map((call) => [call?.begun, call?.ended])).toEqual([
      [0, 4],
      [1, 3],
      [2, Infinity],
    ]);
    expect([sync?.result, write?.result, never?.result]).toEqual([0, 5, undefined]);
    if (!sync || !write || !never) throw new Error("calls are missing");
    expect(writtenBy(write).toString()).toBe("early");
    // Overlapping is not before.
    expect([precedes(sync, write), precedes(write, sync), precedes(never, write)]).toEqual([
      false,
      false,
      false,
    ]);
  });

  it("leaves out signals, exits and a last line that is not whole", () => {
    expect(
      parseTrace(
        "1 1.0 --- SIGURG {si_signo=SIGURG} ---\n2 1.1 +++ exited with 0 +++\n1 1.2 fsync(3</a>) = 0\n1 1.3 fsy",
      ),
    ).toHaveLength(1);
  });

  it.each(["nonsense", "1 1.0 <... fsync resumed>) = 0", "1 1.0 what"])(
    "is refused where it is none: %s",
    (line) => {
      expect(() => trace(line)).toThrow(/^trace, line 1: /);
    },
  );

  it("gives the bytes of strings, whatever is in them", () => {
    const [write] = trace(
      `1 1.0 pwrite64(${log}, "\\0\\12\\1773\\n\\t\\"\\\\\\33[\\x07\\200\\377", 12, 4152) = 12`,
    );
    if (!write) throw new Error("no call");
    expect([...(stringsOf(write)[0] ?? [])]).toEqual([0, 10, 127, 51, 10, 9, 34, 92, 27, 91, 7, 128, 255]);
    expect(writtenBy(write)).toHaveLength(12);
    expect(offsetOf(write)).toBe(4152);
  });

  it("counts only what was written, over all parts of a vector", () => {
    const [writev, failed] = trace(
      `1 1.0 writev(${socket}, [{iov_base="\\201~", iov_len=2}, {iov_base="abc", iov_len=3}], 2) = 4`,
      `1 1.1 write(${socket}, "abc", 3) = -1 EAGAIN (Resource temporarily unavailable)`,
    );
    expect(writev && writtenBy(writev).toString("latin1")).toBe("\u0081~ab");
    expect(failed && writtenBy(failed)).toHaveLength(0);
  });

  it("refuses a string that strace has cut short", () => {
    const [write] = trace(`1 1.0 write(${socket}, "abc"..., 4000) = 4000`);
    expect(() => write && writtenBy(write)).toThrow("larger -s");
  });

  it("finds the sync that a write waits for: of the same file, begun after it, and successful", () => {
    const calls = trace(
      `1 1.0 fsync(${log}) = 0`,
      `1 1.1 pwrite64(${log}, "x", 1, 0) = 1`,
      "1 1.2 fsync(23</data/io.db>) = 0",
      `1 1.3 fsync(${log}) = -1 EIO (Input/output error)`,
      `1 1.4 fdatasync(${log}) = 0`,
      `1 1.5 fsync(${log}) = 0`,
    );
    const write = calls.find(({ name }) => name === "pwrite64");
    expect(write && syncAfter(calls, "/data/io.db-wal", write)?.begun).toBe(4);
    const folder = trace(
      '1 1.0 rename("/a/.x.new", "/a/x") = 0',
      "2 1.1 fsync(4</a> <unfinished ...>",
      "1 1.2 fsync(5</a>) = 0",
      "2 1.3 <... fsync resumed>) = 0",
    );
    // Of two that run at once the earlier one may return later.
    expect(folder[0] && syncAfter(folder, "/a", folder[0])?.thread).toBe(1);
    expect(countSyncs(calls, (file) => file.endsWith("-wal"))).toBe(3);
  });
});

describe("the write-ahead log of SQLite", () => {
  const zeros = "\\0".repeat(16);
  const head = (size: number) =>
    `1 1.0 pwrite64(${log}, "\\0\\0\\0\\1\\0\\0\\0\\${size}${zeros}", 24, 32) = 24`;
  const page = (text: string) =>
    `1 1.0 pwrite64(${log}, "${text}${"\\0".repeat(30)}", ${text.length + 30}, 56) = ${text.length + 30}`;
  const sync = `1 1.0 fsync(${log}) = 0`;

  const shown = (...lines: readonly string[]) =>
    transactionsOf(trace(...lines), "/data/io.db").map(({ pages, end, sync }) => [
      /job-\d/.exec(pages.toString("latin1"))?.[0],
      end.begun,
      sync?.begun,
    ]);

  it("shows transactions from their first page to the frame that commits them, and their syncs", () => {
    const lines = [head(0), page("job-1"), sync, head(2), page("-"), sync, head(3), page("job-2"), sync];
    expect(shown(...lines)).toEqual([
      ["job-1", 4, 5],
      ["job-2", 7, 8],
    ]);
  });

  it("shows a commit that was never synced as such, and half a transaction as none", () => {
    expect(shown(head(1), page("job-1"))).toEqual([["job-1", 1, undefined]]);
    expect(shown(head(0), page("job-1"), sync)).toEqual([]);
  });
});

describe("messages on WebSockets", () => {
  const part = (value: unknown) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const jws = (kind: string, payload: unknown) => `${part({ typ: `rn1.${kind}` })}.${part(payload)}.c2ln`;
  const escaped = (bytes: Buffer) =>
    [...bytes].map((byte) => `\\x${byte.toString(16).padStart(2, "0")}`).join("");
  const write = (bytes: Buffer, to = socket) =>
    `1 1.0 write(${to}, "${escaped(bytes)}", ${bytes.length}) = ${bytes.length}`;

  function frame(text: string, mask?: readonly number[]): Buffer {
    const body = Buffer.from(text);
    const size = body.length < 126 ? [body.length] : [126, body.length >> 8, body.length & 255];
    const head = [0x81, (size[0] ?? 0) | (mask ? 0x80 : 0), ...size.slice(1), ...(mask ?? [])];
    return Buffer.concat([Buffer.from(head), body.map((byte, at) => byte ^ (mask?.[at % 4] ?? 0))]);
  }
  const answer = Buffer.from("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n");
  const request = Buffer.from("GET /v1/session HTTP/1.1\r\nUpgrade: websocket\r\n\r\n");

  it("are read from a server and, unmasked, from a client, with the call that wrote each one's first byte", () => {
    const other = "30<TCP:[127.0.0.1:1->127.0.0.1:2]>";
    const long = jws("result", { job: "job-1", text: "x".repeat(300) });
    const calls = trace(
      write(answer),
      write(request, other),
      write(frame(jws("ack", { results: [1] }))),
      write(frame(long, [1, 2, 3, 4]), other),
    );
    expect(sentFrames(calls)).toMatchObject([
      { kind: "ack", payload: { results: [1] }, write: { begun: 2 } },
      { kind: "result", payload: { job: "job-1" }, write: { begun: 3 } },
    ]);
  });

  it("are put together from several writes, and taken apart from one; control frames are no messages", () => {
    const [one, two] = [frame(jws("ack", { n: 1 })), frame(jws("offer", { n: 2 }))];
    const ping = Buffer.from([0x89, 0]);
    const calls = trace(
      write(Buffer.concat([answer, one.subarray(0, 1)])),
      write(Buffer.concat([one.subarray(1, 9)])),
      write(Buffer.concat([one.subarray(9), ping, two])),
    );
    expect(sentFrames(calls).map(({ kind, write }) => [kind, write.begun])).toEqual([
      ["ack", 0],
      ["offer", 2],
    ]);
  });

  it("are not looked for in plain HTTP or in a message that is not whole", () => {
    expect(sentFrames(trace(write(Buffer.from("HTTP/1.1 200 OK\r\n\r\nhello"))))).toEqual([]);
    expect(sentFrames(trace(write(answer), write(frame("hello").subarray(0, 4))))).toEqual([]);
  });
});
