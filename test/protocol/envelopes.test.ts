import { randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import {
  accountAuthorization,
  type AccountKey,
  accountRequestMaxAgeMs,
  checkAccountClaim,
  checkBinding,
  mintBinding,
  parseAccountAuthorization,
  parseAccountKey,
} from "../../src/protocol/binding.ts";
import {
  openRegistration,
  openRequest,
  pingSchema,
  pingTyp,
  registerTyp,
  sealRegistration,
  sealRequest,
} from "../../src/protocol/http.ts";
import { signJws } from "../../src/protocol/jws.ts";
import {
  chainHash,
  chainStart,
  openReceipt,
  type Receipt,
  sealCountersign,
  sealReceipt,
  verifyChain,
} from "../../src/protocol/receipt.ts";
import { type AgentStatus, openStatus, sealStatus } from "../../src/protocol/status.ts";
import { expectCode } from "./errors.ts";
import { makeNetwork, newKey, random16, random32 } from "./network.ts";

const url = "http://io.test/v1/nodes/ping";
const accountKey = randomBytes(32) as AccountKey;

describe("HTTP envelope", () => {
  const { node, now } = makeNetwork();
  const request = (seq: number) => sealRequest(pingTyp, { node_id: node.id, time: now }, node.key, url, seq);
  const open = (body: string, urls = [url]) =>
    openRequest(body, pingTyp, pingSchema, { urls, keyFor: () => node.key });

  it("gives payload and seq of a genuine request", () => {
    expect(open(request(7))).toMatchObject({ seq: 7, payload: { node_id: node.id } });
  });

  it("is bound to its url, its typ and its key", () => {
    expectCode("wrong_audience", () => open(request(1), ["http://io.test/v1/nodes/heartbeat"]));
    expectCode("wrong_typ", () => open(sealRequest("rn1.http-heartbeat", {}, node.key, url, 1)));
    expectCode("unknown_key", () =>
      open(sealRequest(pingTyp, { node_id: node.id, time: now }, newKey(), url, 1)),
    );
    expectCode("sequence", () => open(request(0)));
  });
});

describe("registration", () => {
  const net = makeNetwork();
  const registerUrl = "http://io.test/v1/nodes/register";
  const binding = mintBinding(accountKey, net.network, "acme", net.node.id);
  const payload = { binding, agent_version: "0.1.0", time: net.now };

  it("proves possession of the key that the binding names", () => {
    const opened = openRegistration(sealRegistration(payload, net.node.key, registerUrl, "nonce"), [
      registerUrl,
    ]);
    expect(opened).toMatchObject({ nonce: "nonce", payload: { binding } });
    expect(opened.key.kid).toBe(net.node.key.kid);
  });

  it("B33 refuses a binding shown by another key", () => {
    expectCode("wrong_node", () =>
      openRegistration(sealRegistration(payload, newKey(), registerUrl, "n"), [registerUrl]),
    );
  });

  it("refuses an embedded key that is not the one that signed", () => {
    const body = signJws(registerTyp, JSON.stringify(payload), newKey(), {
      url: registerUrl,
      nonce: "n",
      jwk: net.node.key.jwk,
    });
    expectCode("unknown_key", () => openRegistration(body, [registerUrl]));
  });
});

describe("account binding", () => {
  const { node } = makeNetwork();
  it("holds for the node, account and network that it names, and under its key only", () => {
    const binding = mintBinding(accountKey, "testnet", "acme", node.id);
    expect(checkBinding(accountKey, binding)).toBe(true);
    expect(checkBinding(randomBytes(32) as AccountKey, binding)).toBe(false);
    expect(checkBinding(accountKey, { ...binding, account: "other" })).toBe(false);
    expect(checkBinding(accountKey, { ...binding, network: "mainnet" })).toBe(false);
    expect(checkBinding(accountKey, { ...binding, node_id: makeNetwork().node.id })).toBe(false);
  });

  it("reads a key of 32 bytes and nothing else", () => {
    expect(parseAccountKey(` ${accountKey.toString("base64url")}\n`)?.equals(accountKey)).toBe(true);
    expect(parseAccountKey("short")).toBeUndefined();
    expect(parseAccountKey("")).toBeUndefined();
  });

  it("authorises one method and path for five minutes", () => {
    const time = Date.UTC(2026, 0, 1);
    const header = accountAuthorization(accountKey, {
      account: "acme",
      method: "GET",
      path: "/v1/fleet/feed",
      time,
      nonce: random32(),
    });
    const claim = parseAccountAuthorization(header);
    if (!claim) throw new Error("not parsed");
    const request = { method: "GET", path: "/v1/fleet/feed", now: time };
    expect(checkAccountClaim(accountKey, claim, request)).toBe(true);
    expect(checkAccountClaim(accountKey, claim, { ...request, path: "/v1/other" })).toBe(false);
    expect(checkAccountClaim(accountKey, claim, { ...request, now: time + accountRequestMaxAgeMs + 1 })).toBe(
      false,
    );
    expect(checkAccountClaim(accountKey, { ...claim, account: "other" }, request)).toBe(false);
    expect(parseAccountAuthorization("Bearer x")).toBeUndefined();
    // Another spelling of the same bytes.
    const last = header.slice(-1);
    const other = String.fromCharCode(last.charCodeAt(0) + 1);
    expect(parseAccountAuthorization(header.slice(0, -1) + other)).toBeUndefined();
  });
});

describe("receipts", () => {
  const net = makeNetwork();
  const receipt: Receipt = {
    network: net.network,
    job: "job-00000001" as Receipt["job"],
    attempt: 1,
    node_id: net.node.id,
    account: "acme",
    consumer: "client",
    model: "tiny",
    config_digest: net.digest,
    input_sha256: "0".repeat(64),
    output_sha256: "1".repeat(64),
    prompt_tokens: 3,
    completion_tokens: 5,
    duration_ms: 12,
    outcome: "completed",
    time: net.now,
  };

  it("form a chain in which a missing or swapped link is seen", () => {
    const chain: string[] = [];
    for (let index = 1; index <= 3; index++) {
      const last = chain.at(-1);
      const prev = last === undefined ? chainStart : chainHash(last);
      const text = sealReceipt({ ...receipt, attempt: index }, net.node.key);
      chain.push(
        sealCountersign(
          {
            receipt: text,
            account: "acme",
            index,
            prev,
            metered: { prompt_tokens: 1, completion_tokens: 1 },
            committed_at: net.now,
          },
          net.service,
        ),
      );
    }
    const links = verifyChain(chain, net.service);
    expect(openReceipt(links[2]?.receipt ?? "", net.node.key).attempt).toBe(3);
    expectCode("sequence", () => verifyChain(chain.slice(1), net.service));
    expectCode("sequence", () => verifyChain([chain[0] ?? "", chain[2] ?? ""], net.service));
    expectCode("unknown_key", () => verifyChain(chain, newKey()));
  });
});

describe("signed status", () => {
  const net = makeNetwork();
  const status: AgentStatus = {
    nonce: random32(),
    time: net.now,
    node_id: net.node.id,
    instance: random16(),
    desired_revision: 3,
    report: {
      agent_version: "0.1.0",
      engine: { type: "openai", version: null, image: null, health: "healthy" },
      hardware: { cpus: 2, memory_mib: 1024, gpus: [{ product: null, memory_mib: null }] },
      config: { applied: net.digest, target: net.digest, staged: null, release_sequence: 5 },
      models: { installed: ["tiny"], active: ["tiny"] },
      load: { slots: 4, active: 0, accepting: true },
      subclouds: [],
    },
    config_error: null,
    drain: { state: "serving", jobs: 0, since: null },
    session: { connected: true, since: net.now, epoch: 1, last_error: null },
  };

  it("answers one request, by one key", () => {
    const text = sealStatus(status, net.node.key);
    expect(openStatus(text, net.node.key, status.nonce)).toEqual(status);
    expectCode("wrong_challenge", () => openStatus(text, net.node.key, random32()));
    expectCode("unknown_key", () => openStatus(text, newKey(), status.nonce));
  });
});
