import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Agent } from "undici";
import { silentLogger } from "../../../src/lib/logger.ts";
import { releaseEntry, snapshotEntry } from "../../../src/operator/names.ts";
import { entriesOf, rotationEntry } from "../../../src/operator/network/entries.ts";
import { takeInputs } from "../../../src/operator/network/inputs.ts";
import { type Knowledge, newKnowledge } from "../../../src/operator/network/knowledge.ts";
import type { Inputs } from "../../../src/operator/network/observe.ts";
import { fetchBackoff, fetchSnapshot, refreshDocuments } from "../../../src/operator/network/refresh.ts";
import { Refusal } from "../../../src/operator/network/refusal.ts";
import { fetchTimeoutMs } from "../../../src/operator/network/source.ts";
import type { Statement } from "../../../src/protocol/config/statement.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { random32 } from "../../protocol/network.ts";
import { until } from "../../testbed/until.ts";
import { makeAuthority, type TestAuthority } from "./authority.ts";
import { knowledgeOf, networkObject } from "./observation.ts";
import { type ScriptedIo, startScriptedIo } from "./scripted-io.ts";

let io: ScriptedIo;
let clock: FakeClock;
let dispatcher: Agent;
let authority: TestAuthority;
let knowledge: Knowledge;
const signal = new AbortController().signal;
const jitter = 0.5;

beforeEach(async () => {
  io = await startScriptedIo();
  clock = new FakeClock();
  dispatcher = new Agent();
  authority = makeAuthority();
  knowledge = knowledgeOf(authority, undefined);
  knowledge.reached = undefined;
  io.root = authority.rootText;
});
afterEach(async () => {
  await dispatcher.destroy();
  await io.stop();
});

const context = () => ({ dispatcher, clock, random: () => jitter, logger: silentLogger });
const refresh = (endpoints: readonly string[] = [io.url]) =>
  refreshDocuments(networkObject(undefined, undefined, endpoints), knowledge, context(), signal);
const serve = (release: Statement) => void (io.release = JSON.stringify(release));
const reasons = () =>
  Object.fromEntries(
    Object.entries(knowledge.findings).flatMap(([check, finding]) =>
      finding ? [[check, finding.reason]] : [],
    ),
  );

describe("root and release", () => {
  test("are verified, and asked for again after the interval with the ETags that are known", async () => {
    serve(authority.release(authority.snapshot("1")));
    await refresh();
    expect(reasons()).toEqual({});
    expect(knowledge).toMatchObject({
      sequence: 1,
      reached: io.url,
      fetchAt: 30_000,
      release: { release: { sequence: 1 } },
    });
    await refresh();
    expect(io.log).toEqual([
      "GET /v1/config/root 200",
      "GET /v1/config/release 200",
      "GET /v1/config/root 304",
      "GET /v1/config/release 304",
    ]);
  });

  test("come from the first endpoint that gives what is believed", async () => {
    await using stale = await startScriptedIo();
    stale.root = io.root;
    stale.release = JSON.stringify(authority.release(authority.snapshot("1")));
    serve(authority.release(authority.snapshot("2")));
    await refresh();
    expect(knowledge.sequence).toBe(2);
    await refresh(["http://127.0.0.1:1", stale.url, `${io.url}/`]);
    expect(reasons()).toEqual({});
    expect(knowledge).toMatchObject({ sequence: 2, reached: `${io.url}/`, failures: 0 });
    await refresh([stale.url]);
    expect(reasons()).toEqual({ release: "SequenceWentBack" });
    expect(knowledge).toMatchObject({ sequence: 2, release: { release: { sequence: 2 } } });
  });

  test("an ETag is not shown once another document is known", async () => {
    const first = authority.release(authority.snapshot("1"));
    serve(first);
    await refresh();
    await using other = await startScriptedIo();
    other.root = io.root;
    other.release = JSON.stringify(authority.release(authority.snapshot("2")));
    await refresh([other.url]);
    // The first endpoint still has the old one: it must show it, and be refused.
    await refresh();
    expect(reasons()).toEqual({ release: "SequenceWentBack" });
    expect(io.log.at(-1)).toBe("GET /v1/config/release 200");
  });

  test("failures are followed by growing waits, full of jitter, up to the interval", async () => {
    await io.stop();
    const waits: number[] = [];
    for (let turn = 0; turn < 8; turn++) {
      await refresh();
      waits.push(knowledge.fetchAt - clock.monotonic());
    }
    expect(waits).toEqual(
      [1, 2, 4, 8, 16, 30, 30, 30].map((seconds) => seconds * fetchBackoff.base * jitter),
    );
    await io.start();
    serve(authority.release(authority.snapshot("1")));
    await refresh();
    expect(knowledge).toMatchObject({ failures: 0, fetchAt: 30_000 });
  });

  const refusals: readonly { name: string; set: () => void; says: Record<string, string> }[] = [
    { name: "no release yet", set: () => undefined, says: { release: "NotYetKnown" } },
    {
      name: "not the address of an IO service",
      set: () => void (io.root = undefined),
      says: { reach: "EndpointRefused" },
    },
    {
      name: "an error of the service",
      set: () => void (io.intercept = (_request, response) => !!response.writeHead(503).end()),
      says: { reach: "EndpointRefused" },
    },
    {
      name: "a redirect",
      set: () =>
        void (io.intercept = (_request, response) =>
          !!response.writeHead(302, { location: "http://127.0.0.1:1/" }).end()),
      says: { reach: "EndpointRefused" },
    },
    {
      name: "an answer without end",
      set: () =>
        void (io.intercept = (request, response) => {
          if (request.url !== "/v1/config/release") return false;
          const more = () => {
            while (!response.destroyed && response.write("x".repeat(65_536)));
          };
          response.on("drain", more);
          more();
          return true;
        }),
      says: { reach: "EndpointRefused" },
    },
    {
      name: "a page in place of a release",
      set: () => void (io.release = "<html>"),
      says: { release: "SignatureInvalid" },
    },
    {
      name: "bytes that are no text",
      set: () =>
        void (io.intercept = (request, response) =>
          request.url === "/v1/config/release" && !!response.writeHead(200).end(Buffer.from([0xff, 0xfe]))),
      says: { release: "SignatureInvalid" },
    },
    {
      name: "one signature, given twice",
      set: () => {
        const [key] = authority.configKeys;
        serve(authority.release(authority.snapshot("1"), { keys: [key, key] }));
      },
      says: { release: "ThresholdNotMet" },
    },
    {
      name: "keys of another role",
      set: () => serve(authority.release(authority.snapshot("1"), { keys: authority.rootKeys })),
      says: { release: "ThresholdNotMet" },
    },
    {
      name: "a payload that was altered after it was signed",
      set: () => {
        const signed = authority.release(authority.snapshot("1"));
        serve({ ...authority.release(authority.snapshot("2")), signatures: signed.signatures });
      },
      says: { release: "SignatureInvalid" },
    },
    {
      name: "a release of another network",
      set: () => serve(authority.release(authority.snapshot("1"), { network: "othernet" })),
      says: { release: "OtherNetwork" },
    },
    {
      name: "a root of another network",
      set: () => {
        io.root = makeAuthority("othernet").rootText;
        serve(authority.release(authority.snapshot("1")));
      },
      says: { served: "OtherNetwork" },
    },
    {
      name: "a next root that the one known has not signed",
      set: () => {
        io.root = makeAuthority().rotate().text;
        serve(authority.release(authority.snapshot("1")));
      },
      says: { served: "RootInvalid" },
    },
    {
      name: "another root of this network",
      set: () => {
        io.root = makeAuthority().rootText;
        serve(authority.release(authority.snapshot("1")));
      },
      says: { served: "RootInvalid" },
    },
  ];
  test.each(refusals)("refused by name: $name", async ({ set, says }) => {
    set();
    await refresh();
    expect(reasons()).toEqual(says);
    if (!("served" in says)) expect(knowledge.release).toBeUndefined();
    expect(knowledge.failures).toBe(1);
  });

  test("an endpoint that never answers is given up after five seconds", async () => {
    io.intercept = () => true;
    const done = refresh();
    await until("the request to wait", () => clock.pending === 1);
    clock.advance(fetchTimeoutMs);
    await done;
    expect(knowledge.findings.reach).toMatchObject({ reason: "EndpointUnreachable" });
    expect(knowledge.findings.reach?.message).toContain("no answer within 5 s");
    expect(clock.pending).toBe(0);
  });

  test("a reconcile that ends takes the request with it", async () => {
    io.intercept = () => true;
    const abort = new AbortController();
    const done = refreshDocuments(
      networkObject(undefined, undefined, [io.url]),
      knowledge,
      context(),
      abort.signal,
    );
    await until("the request to wait", () => clock.pending === 1);
    abort.abort(new Error("no longer leading"));
    await expect(done).rejects.toThrow("no longer leading");
  });
});

describe("rotation of the root", () => {
  test("is followed one by one; releases count by the newest", async () => {
    const rotated = authority.rotate();
    io.root = rotated.text;
    serve(authority.release(authority.snapshot("1")));
    await refresh();
    expect(knowledge.root?.version).toBe(2);
    expect(reasons()).toEqual({ release: "ThresholdNotMet" });
    serve(authority.release(authority.snapshot("1"), { keys: rotated.configKeys }));
    await refresh();
    expect(reasons()).toEqual({});
    expect(knowledge.sequence).toBe(2);
  });

  test("that skips one is refused, and what the known root verifies still counts", async () => {
    authority.rotate();
    io.root = authority.rotate().text;
    serve(authority.release(authority.snapshot("1")));
    await refresh();
    expect(reasons()).toEqual({ served: "RootInvalid" });
    expect(knowledge.findings.served?.message).toContain("take the new one from a place that you trust");
    expect(knowledge).toMatchObject({ root: { version: 1 }, sequence: 1 });
  });

  test("an endpoint that has an older root than ours is no finding", async () => {
    const old = io.root;
    io.root = authority.rotate().text;
    serve(authority.release(authority.snapshot("1")));
    await refresh();
    io.root = old;
    await refresh();
    expect(reasons()).toEqual({ release: "ThresholdNotMet" });
    expect(knowledge.root?.version).toBe(2);
  });
});

describe("a snapshot", () => {
  const get = (endpoints: readonly string[] = [io.url]) => {
    const { digest } = authority.snapshot("1");
    return fetchSnapshot(
      networkObject(undefined, undefined, endpoints),
      digest,
      knowledge,
      context(),
      signal,
    );
  };

  test("is taken from the endpoint that has it, by its exact bytes", async () => {
    const { digest, bytes, snapshot } = authority.snapshot("1");
    io.put(digest, bytes);
    await get(["http://127.0.0.1:1", io.url]);
    expect(knowledge.snapshots.get(digest)).toEqual({ snapshot, text: bytes.toString() });
  });

  test.each([
    { name: "not there", put: () => undefined, says: "SnapshotInvalid", part: "answers 404" },
    {
      name: "other bytes",
      put: () => io.put(authority.snapshot("1").digest, authority.snapshot("2").bytes),
      says: "SnapshotInvalid",
      part: "digest_mismatch",
    },
    {
      name: "too large",
      put: () => io.put(authority.snapshot("1").digest, Buffer.alloc(256 * 1024 + 1, 32)),
      says: "SnapshotInvalid",
      part: "larger than 262144 bytes",
    },
  ])("is refused and asked for again later: $name", async ({ put, says, part }) => {
    put();
    const { digest } = authority.snapshot("1");
    await get();
    expect(knowledge.missed.get(digest)).toMatchObject({ failures: 1, at: 500, finding: { reason: says } });
    expect(knowledge.missed.get(digest)?.finding?.message).toContain(part);
    await get();
    expect(knowledge.missed.get(digest)).toMatchObject({ failures: 2, at: 1000 });
    io.put(digest, authority.snapshot("1").bytes);
    await get();
    expect(knowledge.missed.size).toBe(0);
    expect(knowledge.snapshots.has(digest)).toBe(true);
  });
});

describe("what the spec points at, and what the ConfigMap kept", () => {
  const inputs = (more: Partial<Inputs> = {}): Inputs => ({
    root: authority.rootText,
    rootFrom: "spec.trust.root",
    accountKey: `${random32()}\n`,
    configMap: undefined,
    ...more,
  });
  const stored = (data: Record<string, string>, ours = true) => ({ resourceVersion: "1", data, ours });

  test("a new operator believes what it kept before, after checking it again", () => {
    const rotated = authority.rotate();
    const only = authority.snapshot("1");
    const before = knowledgeOf(authority, authority.release(only, { keys: rotated.configKeys }), [only]);
    const begun = newKnowledge("uid", 0);
    const rotations = { [rotationEntry(2)]: rotated.text };
    takeInputs(begun, inputs({ configMap: stored({ ...entriesOf(before, [only.digest]), ...rotations }) }));
    expect(begun).toMatchObject({
      root: { version: 2 },
      sequence: 1,
      release: { release: { current: only.digest } },
    });
    expect([...begun.snapshots.keys()]).toEqual([only.digest]);
    expect(begun.findings).toMatchObject({ root: undefined, account: undefined, stored: undefined });
  });

  test.each([
    {
      name: "is somebody else's",
      alter: (data: Record<string, string>) => stored(data, false),
      floor: 0,
      says: undefined,
    },
    {
      name: "has an altered release",
      alter: (data: Record<string, string>) => stored({ ...data, [releaseEntry]: "{}" }),
      floor: 0,
      says: "SignatureInvalid",
    },
    {
      name: "has an older release than the status knows of",
      alter: (data: Record<string, string>) => stored(data),
      floor: 2,
      says: "SequenceWentBack",
    },
  ])("a release is not believed from a ConfigMap that $name", ({ alter, floor, says }) => {
    const only = authority.snapshot("1");
    const data = entriesOf(knowledgeOf(authority, authority.release(only), [only]), [only.digest]);
    const begun = newKnowledge("uid", floor);
    takeInputs(begun, inputs({ configMap: alter(data) }));
    expect(begun.release).toBeUndefined();
    expect(begun.sequence).toBe(floor);
    expect(begun.findings.stored?.reason).toBe(says);
  });

  test("a snapshot with other bytes than its name says is not taken", () => {
    const only = authority.snapshot("1");
    const begun = newKnowledge("uid", 0);
    takeInputs(begun, inputs({ configMap: stored({ [snapshotEntry(only.digest)]: "{}" }) }));
    expect(begun.snapshots.size).toBe(0);
  });

  test("what is missing or wrong is a finding, and the last good one stays", () => {
    const begun = newKnowledge("uid", 0);
    takeInputs(begun, inputs());
    const { root, accountKey } = begun;
    takeInputs(begun, inputs({ root: new Refusal("RootNotFound", "gone"), accountKey: "short" }));
    expect(begun.findings).toMatchObject({
      root: { reason: "RootNotFound" },
      account: { reason: "AccountSecretInvalid" },
    });
    takeInputs(begun, inputs({ root: "{}", accountKey: new Refusal("AccountSecretNotFound", "gone") }));
    expect(begun.findings).toMatchObject({
      root: { reason: "RootInvalid" },
      account: { reason: "AccountSecretNotFound" },
    });
    expect(begun.root).toBe(root);
    expect(begun.accountKey).toBe(accountKey);
    expect(JSON.stringify(begun.findings)).not.toContain("short");
  });

  test("another root in the spec takes away what only the old one had signed", () => {
    const only = authority.snapshot("1");
    Object.assign(knowledge, knowledgeOf(authority, authority.release(only), [only]));
    takeInputs(knowledge, inputs({ root: makeAuthority().rootText }));
    expect(knowledge.release).toBeUndefined();
    expect(knowledge).toMatchObject({ sequence: 1, fetchAt: 0 });
  });
});
