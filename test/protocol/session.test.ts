import { describe, expect, it } from "vitest";
import { CloseCode, cutReason } from "../../src/protocol/codes.ts";
import { sealFrame } from "../../src/protocol/frame.ts";
import { agentChannel, serviceChannel } from "../../src/protocol/session/channel.ts";
import {
  maxSkewMs,
  sealHello,
  sealReady,
  verifyChallenge,
  verifyHello,
  verifyReady,
} from "../../src/protocol/session/handshake.ts";
import { signDelegation } from "../../src/protocol/config/delegation.ts";
import { expectCode } from "./errors.ts";
import { makeNetwork, newKey, random16, random32 } from "./network.ts";

const audience = "http://127.0.0.1:8080/v1/session";

/** One handshake; `change` alters a step before it is checked. */
function handshake() {
  const net = makeNetwork();
  const challengePayload = {
    challenge: random32(),
    time: net.now,
    network: net.network,
    delegation: net.delegation,
  };
  const challengeFrame = sealFrame("challenge", challengePayload, net.service);
  const challenge = verifyChallenge(challengeFrame, net.root, net.network, net.now);
  const identity = {
    nodeId: net.node.id,
    key: net.node.key,
    network: net.network,
    instance: random16(),
    agentVersion: "0.1.0",
  };
  const nonce = random32();
  const hello = sealHello(challenge, identity, { audience, nonce, now: net.now, releaseSequence: 0 });
  const expected = {
    challenge: challengePayload.challenge,
    audiences: [audience],
    network: net.network,
    now: net.now,
    nodeByKey: (kid: string) =>
      kid === net.node.key.kid ? { nodeId: net.node.id, key: net.node.key } : undefined,
  };
  const readyBody = {
    sid: random16(),
    epoch: 1,
    time: net.now,
    http_seq: 0,
    latest: { release_sequence: 5, digest: net.digest, nonce },
    heartbeat_ms: 10_000,
    lease_ms: 30_000,
  };
  return { net, challengePayload, challengeFrame, challenge, identity, nonce, hello, expected, readyBody };
}

describe("handshake", () => {
  it("opens a session that both ends believe", () => {
    const { net, challengeFrame, challenge, hello, nonce, expected, readyBody } = handshake();
    expect(verifyHello(hello, expected).payload.node_id).toBe(net.node.id);
    const ready = sealReady({ challenge: challengeFrame, hello }, readyBody, net.service);
    expect(verifyReady(ready, { challenge, hello, nonce }).payload.epoch).toBe(1);
  });

  it("agent refuses a service whose key the network did not delegate", () => {
    const { net, challengePayload } = handshake();
    const impostor = newKey();
    const frame = sealFrame("challenge", challengePayload, impostor);
    expectCode("unknown_key", () => verifyChallenge(frame, net.root, net.network, net.now));
    const own = signDelegation({ network: net.network, key: impostor.jwk, expires: net.now + 1000 }, [
      impostor,
    ]);
    const forged = sealFrame("challenge", { ...challengePayload, delegation: own }, impostor);
    expectCode("threshold", () => verifyChallenge(forged, net.root, net.network, net.now));
  });

  it("agent refuses an expired delegation and another network", () => {
    const { net, challengeFrame, challengePayload } = handshake();
    expectCode("expired", () => verifyChallenge(challengeFrame, net.root, net.network, net.now + 86_400_001));
    const frame = sealFrame("challenge", { ...challengePayload, network: "mainnet" }, net.service);
    expectCode("wrong_network", () => verifyChallenge(frame, net.root, net.network, net.now));
  });

  it("F23 both ends name a skew over five minutes", () => {
    const { net, challengeFrame, hello, expected } = handshake();
    const behind = expectCode("clock_skew", () =>
      verifyChallenge(challengeFrame, net.root, net.network, net.now - 3_600_000),
    );
    expect(behind.message).toContain("3600 s (peer ahead");
    expect(behind.closeCode).toBe(CloseCode.Auth);
    expectCode("clock_skew", () => verifyHello(hello, { ...expected, now: net.now + maxSkewMs + 1000 }));
    expect(verifyHello(hello, { ...expected, now: net.now + maxSkewMs }).verified).toBe(true);
  });

  it.each([
    ["B32 another audience", "wrong_audience", { audiences: ["https://elsewhere.test/v1/session"] }],
    ["another challenge (replayed hello)", "wrong_challenge", { challenge: random32() }],
    ["another network", "wrong_network", { network: "mainnet" }],
    ["unknown signing key", "unknown_key", { nodeByKey: () => undefined }],
  ] as const)("service refuses a hello with %s", (_name, code, change) => {
    const { hello, expected } = handshake();
    expectCode(code, () => verifyHello(hello, { ...expected, ...change }));
  });

  it("B07 service refuses a node that signs for another node", () => {
    const { net, challenge, identity, nonce, expected } = handshake();
    const other = makeNetwork().node.id;
    const hello = sealHello(
      challenge,
      { ...identity, nodeId: other },
      { audience, nonce, now: net.now, releaseSequence: 0 },
    );
    expectCode("wrong_node", () => verifyHello(hello, expected));
  });

  it("agent refuses a ready that answers another handshake", () => {
    const a = handshake();
    const b = handshake();
    const ready = sealReady({ challenge: a.challengeFrame, hello: b.hello }, a.readyBody, a.net.service);
    expectCode("wrong_transcript", () =>
      verifyReady(ready, { challenge: a.challenge, hello: a.hello, nonce: a.nonce }),
    );
  });
});

describe("channel", () => {
  const pair = () => {
    const [node, service, sid] = [newKey(), newKey(), random16()];
    return {
      node,
      service,
      sid,
      agent: agentChannel(sid, node, service),
      io: serviceChannel(sid, service, node),
    };
  };

  it("carries frames in order, each direction numbered by itself", () => {
    const { agent, io } = pair();
    expect(io.open(agent.seal("resume", { jobs: [], last: true })).payload).toMatchObject({
      seq: 1,
      last: true,
    });
    expect(io.open(agent.seal("goodbye", { reason: "drained" })).kind).toBe("goodbye");
    expect(agent.open(io.seal("ack", { upto: 2, results: [] })).payload).toMatchObject({ seq: 1, upto: 2 });
  });

  it("B01 refuses a replayed frame and B02 a gap, with 4412", () => {
    const { agent, io } = pair();
    const first = agent.seal("resume", { jobs: [], last: true });
    io.open(first);
    expect(expectCode("sequence", () => io.open(first)).closeCode).toBe(4412);
    agent.seal("goodbye", { reason: "drained" });
    expectCode("sequence", () => io.open(agent.seal("goodbye", { reason: "drained" })));
  });

  it("B03 refuses a frame of another session of the same keys", () => {
    const { node, service, agent } = pair();
    const other = serviceChannel(random16(), service, node);
    expectCode("wrong_session", () => other.open(agent.seal("goodbye", { reason: "drained" })));
  });

  it("refuses its own frames sent back", () => {
    const { agent } = pair();
    expectCode("wrong_typ", () => agent.open(agent.seal("goodbye", { reason: "drained" })));
  });
});

describe("the reason of a close", () => {
  it("fits into a close frame, whatever the script, and no character is cut in two", () => {
    const long = "不正な結果を返した".repeat(20);
    expect(Buffer.byteLength(cutReason(long))).toBeLessThanOrEqual(123);
    expect(long.startsWith(cutReason(long))).toBe(true);
    expect(cutReason("short")).toBe("short");
  });
});
