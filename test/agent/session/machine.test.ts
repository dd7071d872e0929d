import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { handshakeTimeoutMs, SessionMachine, sessionUrl } from "../../../src/agent/session/machine.ts";
import type { SessionAction } from "../../../src/agent/session/terms.ts";
import { identityConflictReason } from "../../../src/protocol/codes.ts";
import { openFrame, sealFrame } from "../../../src/protocol/frame.ts";
import { jobIdField } from "../../../src/protocol/fields.ts";
import { generateKey, importPrivateKey, type SigningKey } from "../../../src/protocol/keys.ts";
import { splitJws } from "../../../src/protocol/jws.ts";
import type { Report } from "../../../src/protocol/messages.ts";
import { type ServiceChannel, serviceChannel } from "../../../src/protocol/session/channel.ts";
import { sealReady, verifyHello } from "../../../src/protocol/session/handshake.ts";
import { testIdentity, TestNetwork } from "../fixture/network.ts";

const network = new TestNetwork();
const identity = testIdentity(network);
const endpoint = "http://io.example:8080";
const bytes32 = (fill: number) => Buffer.alloc(32, fill).toString("base64url");
const sid = Buffer.alloc(16, 7).toString("base64url");
const token = Buffer.alloc(16, 1).toString("base64url");

const report: Report = {
  agent_version: "1.0.0",
  engine: { type: "test", version: null, image: null, health: "healthy" },
  hardware: { cpus: 1, memory_mib: 1, gpus: [] },
  config: { applied: null, target: null, staged: null, release_sequence: 0 },
  models: { installed: [], active: [] },
  load: { slots: 1, active: 0, accepting: true },
  subclouds: [],
};

let now: number;
let random: number;
let held: number;
let machine: SessionMachine;
/** The key that the node signs with, and the others that it has. */
let key: SigningKey;
let others: SigningKey[];

beforeEach(() => {
  now = Date.UTC(2026, 0, 1);
  random = 0.5;
  held = 0;
  key = identity.key;
  others = [];
  let nonces = 0;
  machine = new SessionMachine(
    {
      endpoints: [endpoint],
      identity: {
        nodeId: identity.nodeId,
        get key() {
          return key;
        },
        network: network.name,
        instance: sid,
        agentVersion: "1.0.0",
      },
      root: network.root,
    },
    {
      now: () => now,
      random: () => random,
      nonce: () => bytes32(++nonces),
      report: () => report,
      leases: () => [],
      held: () =>
        Array.from({ length: held }, (_, index) => ({
          job: jobIdField.parse(`job-${String(index).padStart(8, "0")}`),
          attempt: 1,
          token,
          next_offset: index,
          finished: false,
        })),
      releaseSequence: () => 3,
      otherKey: (refused) => {
        const found = others.find(({ kid }) => !refused.has(kid));
        if (found) key = found;
        return found !== undefined;
      },
    },
  );
});

const only = <T extends SessionAction["type"]>(actions: SessionAction[], type: T) =>
  actions.filter((action): action is Extract<SessionAction, { type: T }> => action.type === type);
const sentBy = (actions: SessionAction[]) => only(actions, "transmit").map(({ text }) => text);
const redialIn = (actions: SessionAction[]) =>
  only(actions, "set-timer").find(({ name }) => name === "redial")?.ms;

function challengeFrame(key: SigningKey = network.service, skew = 0, ttl = 86_400_000): string {
  return sealFrame(
    "challenge",
    {
      challenge: bytes32(9),
      time: now + skew,
      network: network.name,
      delegation: network.delegation(now, network.service, ttl),
    },
    key,
  );
}

/** Up to `ready`; gives the service's end and what the agent did at last. */
function open(ttl?: number, meanwhile = () => {}): { channel: ServiceChannel; actions: SessionAction[] } {
  if (machine.state.at === "closed") machine.step({ type: "start" });
  else machine.step({ type: "timer", name: "redial" });
  const challenge = challengeFrame(network.service, 0, ttl);
  const [hello = ""] = sentBy(machine.step({ type: "frame", text: challenge }));
  const verified = verifyHello(hello, {
    challenge: bytes32(9),
    audiences: [sessionUrl(endpoint)],
    network: network.name,
    now,
    nodeByKey: () => ({ nodeId: identity.nodeId, key: identity.key }),
  });
  const ready = sealReady(
    { challenge, hello },
    {
      sid,
      epoch: 4,
      time: now,
      http_seq: 11,
      latest: { release_sequence: 3, digest: null, nonce: verified.payload.nonce },
      heartbeat_ms: 10_000,
      lease_ms: 30_000,
    },
    network.service,
  );
  meanwhile();
  const actions = machine.step({ type: "frame", text: ready });
  return { channel: serviceChannel(sid, network.service, identity.key), actions };
}

describe("the way to a session", () => {
  it("dials, answers the challenge and is open after ready", () => {
    expect(only(machine.step({ type: "start" }), "dial")).toEqual([
      { type: "dial", url: "ws://io.example:8080/v1/session" },
    ]);
    expect(machine.state.at).toBe("dialing");
    const [hello = ""] = sentBy(machine.step({ type: "frame", text: challengeFrame() }));
    expect(machine.state.at).toBe("challenged");
    expect(openFrame(hello, ["hello"], identity.key).payload).toMatchObject({
      audience: "ws://io.example:8080/v1/session",
      release_sequence: 3,
    });
  });

  it("sends the last resume frame before anything else, then a heartbeat", () => {
    held = 300;
    const { channel, actions } = open();
    const frames = sentBy(actions).map((text) => channel.open(text));
    expect(frames.map(({ kind }) => kind)).toEqual(["resume", "resume", "heartbeat"]);
    const resumes = frames.flatMap((frame) => (frame.kind === "resume" ? [frame.payload] : []));
    expect(resumes.map(({ jobs, last }) => [jobs.length, last])).toEqual([
      [256, false],
      [44, true],
    ]);
    expect(only(actions, "opened")).toEqual([{ type: "opened", epoch: 4, httpSeq: 11 }]);
  });

  it("sends one empty resume frame when it holds nothing", () => {
    const { channel, actions } = open();
    expect(channel.open(sentBy(actions)[0] ?? "").payload).toMatchObject({ jobs: [], last: true });
  });

  it("gives a service up that does not come to ready in time", () => {
    machine.step({ type: "start" });
    const actions = machine.step({ type: "timer", name: "handshake" });
    expect(only(actions, "close")).toHaveLength(1);
    expect(machine.lastError).toContain(String(handshakeTimeoutMs));
    expect(machine.state.at).toBe("waiting");
  });

  it("F23 names the skew when the clocks differ by more than five minutes", () => {
    machine.step({ type: "start" });
    const actions = machine.step({ type: "frame", text: challengeFrame(network.service, 3_600_000) });
    expect(only(actions, "close")[0]).toMatchObject({ code: 4401 });
    expect(machine.lastError).toContain("3600 s");
  });

  it("refuses a challenge that the delegated key did not sign", () => {
    machine.step({ type: "start" });
    const stranger = importPrivateKey(generateKey());
    const actions = machine.step({ type: "frame", text: challengeFrame(stranger) });
    expect(only(actions, "close")[0]).toMatchObject({ code: 4401 });
    expect(sentBy(actions)).toEqual([]);
  });
});

describe("registration", () => {
  const refuse = (reason: string) => {
    machine.step({ type: "frame", text: challengeFrame() });
    return machine.step({ type: "closed", code: 4401, reason });
  };

  it("follows when the service does not know the key, and then it dials at once", () => {
    machine.step({ type: "start" });
    const actions = refuse("unknown_key: no node is registered with this key");
    expect(only(actions, "register")[0]).toMatchObject({
      endpoint,
      serviceKey: { kid: network.service.kid },
    });
    expect(only(machine.step({ type: "registered" }), "dial")).toHaveLength(1);
  });

  it("is tried once per wait", () => {
    machine.step({ type: "start" });
    refuse("unknown_key");
    machine.step({ type: "registered" });
    const again = refuse("unknown_key");
    expect(only(again, "register")).toEqual([]);
    expect(redialIn(again)).toBeGreaterThan(0);
    machine.step({ type: "timer", name: "redial" });
    expect(only(refuse("unknown_key"), "register")).toHaveLength(1);
  });

  it("does not follow another refusal", () => {
    machine.step({ type: "start" });
    const actions = refuse("clock_skew: clocks differ by 900 s");
    expect(only(actions, "register")).toEqual([]);
    expect(machine.lastError).toContain("clock_skew");
  });
});

describe("a node with two keys", () => {
  const other = importPrivateKey(generateKey());
  const signer = (actions: SessionAction[]) => splitJws(sentBy(actions)[0] ?? "", "rn1.hello").header.kid;

  it("tries the other one when the first is unknown, and registers when both are", () => {
    others = [other];
    machine.step({ type: "start" });
    expect(signer(machine.step({ type: "frame", text: challengeFrame() }))).toBe(identity.key.kid);
    const unknown = { type: "closed", code: 4401, reason: "unknown_key: not this one" } as const;
    expect(only(machine.step(unknown), "dial")).toHaveLength(1);
    expect(signer(machine.step({ type: "frame", text: challengeFrame() }))).toBe(other.kid);
    expect(only(machine.step(unknown), "register")).toHaveLength(1);
  });

  it("dials at once with the new one, and says which jobs it holds", () => {
    const { channel } = open();
    held = 2;
    const actions = machine.step({ type: "rekeyed" });
    expect(only(actions, "close")).toMatchObject([{ code: 1000 }]);
    expect(only(actions, "dial")).toHaveLength(1);
    expect(only(actions, "ended")).toHaveLength(1);
    expect(only(actions, "transmit").map(({ text }) => channel.open(text).kind)).toEqual([]);
    const [resume = ""] = sentBy(open().actions);
    expect(openFrame(resume, ["resume"], identity.key).payload.jobs).toHaveLength(2);
  });

  it("keeps the key of the hello for the whole session, whatever the node's key becomes meanwhile", () => {
    const { actions } = open(undefined, () => (key = other));
    expect(openFrame(sentBy(actions)[0] ?? "", ["resume"], identity.key).kind).toBe("resume");
    const later = machine.seal("goodbye", { reason: "drained" });
    expect(openFrame(later ?? "", ["goodbye"], identity.key).kind).toBe("goodbye");
  });
});

it("an identity conflict is named for what it is, and waits a minute more", () => {
  machine.step({ type: "start" });
  machine.step({ type: "frame", text: challengeFrame() });
  const actions = machine.step({ type: "closed", code: 4409, reason: identityConflictReason });
  expect(redialIn(actions)).toBeGreaterThanOrEqual(60_000);
  expect(machine.lastError).toMatch(/identity conflict: another process/);
});

describe("back-off", () => {
  it("is full jitter of 1 s·2ⁿ, at most 64 s, at most 8 s while jobs are held", () => {
    fc.assert(
      fc.property(fc.nat(20), fc.boolean(), fc.double({ min: 0, max: 0.99, noNaN: true }), (n, busy, r) => {
        const cap = busy ? 8_000 : 64_000;
        machine.step({ type: "start" });
        if (machine.state.at === "waiting") machine.step({ type: "timer", name: "redial" });
        const { channel } = open();
        machine.step({ type: "frame", text: ackFor(channel) });
        random = r;
        held = busy ? 1 : 0;
        let wait: number | undefined;
        for (let i = 0; i <= n; i++) {
          wait = redialIn(machine.step({ type: "closed", code: 1006, reason: "" }));
          machine.step({ type: "timer", name: "redial" });
        }
        expect(wait).toBe(Math.floor(r * Math.min(cap, 1_000 * 2 ** n)));
        machine.step({ type: "closed", code: 1006, reason: "" });
      }),
      { numRuns: 25 },
    );
  });

  /** A heartbeat answer that the session accepts; its nonce is of no matter here. */
  const ackFor = (channel: ServiceChannel) =>
    channel.seal("heartbeat-ack", {
      time: now,
      latest: { release_sequence: 3, digest: null, nonce: bytes32(200) },
      lost: [],
    });

  it.each([4409, 4403, 4426])("waits a minute at least after %i", (code) => {
    open();
    random = 0;
    expect(redialIn(machine.step({ type: "closed", code, reason: "" }))).toBeGreaterThanOrEqual(60_000);
  });

  it("takes the endpoints in turn", () => {
    const two = new SessionMachine(
      {
        endpoints: ["http://a", "https://b/"],
        identity: {
          nodeId: identity.nodeId,
          key: identity.key,
          network: network.name,
          instance: sid,
          agentVersion: "1.0.0",
        },
        root: network.root,
      },
      {
        now: () => now,
        random: () => 0,
        nonce: () => bytes32(1),
        report: () => report,
        leases: () => [],
        held: () => [],
        releaseSequence: () => 0,
        otherKey: () => false,
      },
    );
    const urls = [...only(two.step({ type: "start" }), "dial")];
    for (let i = 0; i < 2; i++) {
      two.step({ type: "closed", code: 1006, reason: "" });
      urls.push(...only(two.step({ type: "timer", name: "redial" }), "dial"));
    }
    expect(urls.map(({ url }) => url)).toEqual([
      "ws://a/v1/session",
      "wss://b/v1/session",
      "ws://a/v1/session",
    ]);
  });
});

describe("an open session", () => {
  it("tells changes at once, and those that follow within a tenth of a second together", () => {
    const { channel, actions } = open();
    for (const text of sentBy(actions)) channel.open(text);
    now += 1_000;
    expect(sentBy(machine.step({ type: "changed" }))).toHaveLength(1);
    now += 10;
    const second = machine.step({ type: "changed" });
    expect(sentBy(second)).toEqual([]);
    expect(only(second, "set-timer")).toEqual([{ type: "set-timer", name: "changed", ms: 90 }]);
    expect(machine.step({ type: "changed" })).toEqual([]);
    now += 90;
    expect(sentBy(machine.step({ type: "timer", name: "changed" }))).toHaveLength(1);
  });

  it("believes `latest` only when it echoes a nonce of its own", () => {
    const { channel, actions } = open();
    const frames = sentBy(actions).map((text) => channel.open(text));
    const heartbeat = frames.find((frame) => frame.kind === "heartbeat");
    if (heartbeat?.kind !== "heartbeat") throw new Error("no heartbeat");
    const answer = (nonce: string) =>
      machine.step({
        type: "frame",
        text: channel.seal("heartbeat-ack", {
          time: now,
          latest: { release_sequence: 9, digest: null, nonce },
          lost: [],
        }),
      });
    expect(only(answer(bytes32(99)), "latest")).toEqual([]);
    expect(only(answer(heartbeat.payload.nonce), "latest")).toHaveLength(1);
    // A recorded answer is not believed twice.
    expect(only(answer(heartbeat.payload.nonce), "latest")).toEqual([]);
  });

  it("B02 ends with 4412 on a gap, and goes back to waiting", () => {
    const { channel } = open();
    channel.seal("ack", { upto: 0, results: [] });
    const actions = machine.step({ type: "frame", text: channel.seal("ack", { upto: 0, results: [] }) });
    expect(only(actions, "close")[0]).toMatchObject({ code: 4412 });
    expect(only(actions, "ended")).toHaveLength(1);
    expect(machine.state.at).toBe("waiting");
  });

  it("B17 ends with 4400 on a binary message", () => {
    open();
    expect(only(machine.step({ type: "frame", text: undefined }), "close")[0]).toMatchObject({ code: 4400 });
  });

  it("ends when nothing was heard for three heartbeats", () => {
    const { actions } = open();
    expect(only(actions, "set-timer")).toContainEqual({ type: "set-timer", name: "silence", ms: 30_000 });
    const after = machine.step({ type: "timer", name: "silence" });
    expect(only(after, "close")[0]).toMatchObject({ code: 4408 });
  });

  it("ends when the service's delegation does", () => {
    const { actions } = open(60_000);
    expect(only(actions, "set-timer")).toContainEqual({ type: "set-timer", name: "delegation", ms: 60_000 });
    now += 60_000;
    const after = machine.step({ type: "timer", name: "delegation" });
    expect(only(after, "close")[0]).toMatchObject({ code: 4401 });
    expect(machine.lastError).toContain("delegation");
  });

  it("sends nothing of a job once it is over", () => {
    open();
    machine.step({ type: "closed", code: 1006, reason: "" });
    expect(
      machine.seal("accept", { job: jobIdField.parse("job-00000000"), attempt: 1, token }),
    ).toBeUndefined();
  });

  it("speaks by HTTP while it is down, and only to a service it has believed", () => {
    machine.step({ type: "start" });
    expect(only(machine.step({ type: "timer", name: "http-heartbeat" }), "http-heartbeat")).toEqual([]);
    machine.step({ type: "closed", code: 1006, reason: "" });
    open();
    expect(machine.step({ type: "timer", name: "http-heartbeat" })).toEqual([]);
    machine.step({ type: "closed", code: 1006, reason: "" });
    expect(only(machine.step({ type: "timer", name: "http-heartbeat" }), "http-heartbeat")).toHaveLength(1);
  });
});

describe("leaving", () => {
  it("says goodbye, closes, and is done when the peer has closed", () => {
    const { channel, actions } = open();
    for (const text of sentBy(actions)) channel.open(text);
    const leaving = machine.step({ type: "leave", reason: "drained" });
    expect(channel.open(sentBy(leaving)[0] ?? "")).toMatchObject({
      kind: "goodbye",
      payload: { reason: "drained" },
    });
    expect(only(leaving, "left")).toEqual([]);
    expect(only(machine.step({ type: "closed", code: 1000, reason: "" }), "left")).toHaveLength(1);
    expect(machine.step({ type: "timer", name: "redial" })).toEqual([]);
  });

  it("does not wait for a peer that does not answer", () => {
    open();
    machine.step({ type: "leave", reason: "drained" });
    expect(only(machine.step({ type: "timer", name: "leave" }), "left")).toHaveLength(1);
  });

  it("is done at once while there is no session", () => {
    machine.step({ type: "start" });
    expect(only(machine.step({ type: "leave", reason: "shutdown" }), "left")).toHaveLength(1);
  });
});
