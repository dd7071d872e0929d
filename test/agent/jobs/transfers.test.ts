import { beforeEach, describe, expect, it } from "vitest";
import { HttpTransfers, TransferError } from "../../../src/agent/jobs/transfers.ts";
import { NodeKeys } from "../../../src/agent/node-keys.ts";
import { NodeHttp } from "../../../src/agent/session/http-node.ts";
import { trustRoot } from "../../../src/protocol/config/root.ts";
import { jobIdField } from "../../../src/protocol/fields.ts";
import {
  envelopeHeader,
  type HttpAnswer,
  jobInputSchema,
  jobInputTyp,
  jobOutputSchema,
  jobOutputTyp,
  openRequest,
  sealAnswer,
} from "../../../src/protocol/http.ts";
import { generateKey, importPrivateKey } from "../../../src/protocol/keys.ts";
import { type FakePorts, fakePorts } from "../fixture/fakes.ts";
import { testIdentity, TestNetwork } from "../fixture/network.ts";
import { sha256 } from "../fixture/service.ts";

const network = new TestNetwork();
const identity = testIdentity(network);
const { nodeId } = identity;
const lease = {
  job: jobIdField.parse("job-00000001"),
  attempt: 1,
  token: Buffer.alloc(16, 1).toString("base64url"),
};
const bytes = Buffer.from("some input, a little long");
const input = { sha256: sha256(bytes.toString()), size: bytes.length };
const endpoint = "https://io.test/base/";
const url = "https://io.test/base/v1/nodes/jobs/job-00000001";

let ports: FakePorts;
let transfers: HttpTransfers;
let peer: { endpoint: string; key: typeof network.service } | undefined;
let stop: AbortController;

beforeEach(() => {
  ports = fakePorts();
  peer = { endpoint, key: network.service };
  stop = new AbortController();
  const keys = NodeKeys.of(nodeId, identity.key);
  const root = trustRoot(network.rootStatement);
  const { key, binding } = identity;
  const node = new NodeHttp(ports, { network: network.name, nodeId, key, keys, binding, root }, "0.1.0");
  transfers = new HttpTransfers(ports, node, () => peer);
});

/** Lets everything that waits for a promise of memory go on. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await Promise.resolve();
}

const signed = (change: Partial<HttpAnswer> = {}, key = network.service): string =>
  sealAnswer({ node_id: nodeId, time: 1, http_seq: 1, ...change }, key);
const refusal = (code: string, http_seq = 1) => signed({ http_seq, error: { code, message: "no" } });

/** What it ends with: `ok`, or the code of the error. */
async function end(transfer: Promise<unknown>): Promise<string> {
  try {
    await transfer;
    return "ok";
  } catch (error) {
    if (error instanceof TransferError) return error.code;
    throw error;
  }
}

const seqOf = (text: string | undefined): unknown =>
  (JSON.parse(Buffer.from(text?.split(".")[0] ?? "", "base64url").toString()) as { seq: unknown }).seq;

describe("an input", () => {
  const fetching = () => transfers.fetch(lease, input, stop.signal);

  it("is asked for by a signed request, and given as it came", async () => {
    const transfer = fetching();
    const { request, handlers } = ports.http.last;
    expect([request.method, request.url]).toEqual(["POST", `${url}/input`]);
    const expected = { urls: [`${url}/input`], keyFor: () => identity.key };
    const said = openRequest(String(request.body), jobInputTyp, jobInputSchema, expected);
    expect(said.payload).toMatchObject({ ...lease, node_id: nodeId });
    handlers.head({ status: 200, headers: {} });
    handlers.data(bytes.subarray(0, 5));
    handlers.data(bytes.subarray(5));
    handlers.end();
    expect(await transfer).toEqual(bytes);
    expect(ports.clock.pending).toBe(0);
  });

  it.each([
    ["shorter", bytes.subarray(1)],
    ["longer", Buffer.concat([bytes, bytes])],
    ["other", Buffer.alloc(bytes.length)],
  ])("that is %s than was offered is a mismatch", async (_what, other) => {
    const transfer = end(fetching());
    ports.http.last.handlers.head({ status: 200, headers: {} });
    ports.http.last.handlers.data(other);
    if (!ports.http.last.aborted) ports.http.last.handlers.end();
    expect(await transfer).toBe("mismatch");
    expect(ports.clock.pending).toBe(0);
  });

  it("is asked for again with the seq that the service names, when requests have crossed", async () => {
    const transfer = end(fetching());
    ports.http.last.answer(409, refusal("sequence", 41));
    await settled();
    expect(seqOf(String(ports.http.last.request.body))).toBe(42);
    ports.http.last.answer(200, bytes.toString());
    expect(await transfer).toBe("ok");
  });

  it("is given up when every seq is refused", async () => {
    const transfer = end(fetching());
    for (let asked = 0; asked < 9; asked++) {
      ports.http.last.answer(409, refusal("sequence"));
      await settled();
    }
    expect(await transfer).toBe("unavailable");
    expect(ports.http.exchanges).toHaveLength(9);
  });

  it.each([
    ["stale", 409, refusal("E_LEASE_STALE")],
    ["busy", 429, refusal("E_BUSY")],
    ["unavailable", 409, refusal("not_allowed")],
    [
      "unavailable",
      409,
      sealAnswer(
        { node_id: nodeId, time: 1, http_seq: 1, error: { code: "E_LEASE_STALE", message: "" } },
        importPrivateKey(generateKey()),
      ),
    ],
    ["unavailable", 502, "<html>"],
    ["busy", 503, "unsigned"],
    ["busy", 429, "unsigned"],
  ] as const)("is %s when it is answered %i with %s", async (code, status, body) => {
    const transfer = end(fetching());
    ports.http.last.answer(status, body);
    expect(await transfer).toBe(code);
  });

  it("of which nothing comes for 10 s is given up, and one that trickles after 5 min", async () => {
    const stalled = end(fetching());
    ports.clock.advance(10_000);
    expect(await stalled).toBe("unavailable");
    expect(ports.http.last.aborted).toBe(true);
    const slow = end(transfers.fetch(lease, { ...input, size: 1_000 }, stop.signal));
    ports.http.last.handlers.head({ status: 200, headers: {} });
    for (let s = 0; s < 300; s += 5) {
      expect(ports.http.last.aborted).toBe(false);
      ports.http.last.handlers.data(Buffer.alloc(1));
      ports.clock.advance(5_000);
    }
    expect(await slow).toBe("unavailable");
    expect(ports.clock.pending).toBe(0);
  });

  it("is not asked for without a session, and ends with its job", async () => {
    const transfer = fetching();
    stop.abort(new TransferError("stale", "gone"));
    expect(await end(transfer)).toBe("stale");
    expect(ports.http.last.aborted).toBe(true);
    peer = undefined;
    expect(await end(transfers.fetch(lease, input, new AbortController().signal))).toBe("unavailable");
    expect(ports.http.exchanges).toHaveLength(1);
  });
});

describe("an output", () => {
  const uploading = () => transfers.upload(lease, bytes, input.sha256, stop.signal);

  it("is brought whole under a signed header", async () => {
    const transfer = end(uploading());
    const { request } = ports.http.last;
    expect([request.method, request.url, request.body]).toEqual(["PUT", `${url}/output`, bytes]);
    const expected = { urls: [`${url}/output`], keyFor: () => identity.key };
    const envelope = request.headers?.[envelopeHeader] ?? "";
    expect(openRequest(envelope, jobOutputTyp, jobOutputSchema, expected).payload).toMatchObject({
      ...lease,
      ...input,
    });
    ports.http.last.answer(200, signed());
    expect(await transfer).toBe("ok");
  });

  it("has not arrived while the answer is not the service's, and says when to try again", async () => {
    const unsigned = end(uploading());
    ports.http.last.answer(200, "ok");
    expect(await unsigned).toBe("unavailable");
    const busy = uploading();
    ports.http.last.answer(429, refusal("E_BUSY"), { "retry-after": "7" });
    await expect(busy).rejects.toMatchObject({ code: "busy", retryMs: 7_000 });
    // A timer of the platform that is set for months fires at once.
    const never = uploading();
    ports.http.last.answer(429, refusal("E_BUSY"), { "retry-after": "99999999999" });
    await expect(never).rejects.toMatchObject({ code: "busy", retryMs: 60_000 });
    const mismatch = end(uploading());
    ports.http.last.answer(409, refusal("digest_mismatch"));
    expect(await mismatch).toBe("mismatch");
  });
});
