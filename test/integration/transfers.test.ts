import { randomBytes } from "node:crypto";
import { Agent, type ClientRequest, type IncomingMessage, request } from "node:http";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import {
  envelopeContentType,
  envelopeHeader,
  jobInputTyp,
  jobOutputTyp,
  openAnswer,
  paths,
  sealRequest,
} from "../../src/protocol/http.ts";
import { generateKey, importPrivateKey, type SigningKey } from "../../src/protocol/keys.ts";
import { type AgentSession, leaseOf, type Offer, plainOf, ScriptedAgent } from "../io/fixture/agent.ts";
import { IoProcess, sha256 } from "../io/fixture/network.ts";
import { supervise } from "../testbed/processes.ts";
import { until } from "../testbed/until.ts";

/** Large bodies on a real service, with nodes whose every byte the test decides. */
const model = "m";
const mib = 1024 * 1024;
const inFlight = 100 * mib;
const processes = supervise();
// A connection that is to be closed after its answer may be reset under a client that still sends.
const connections = new Agent({ keepAlive: true });
let io: IoProcess;
let key: string;
let config: ConfigDigest;
let newAgent: () => ScriptedAgent;

beforeAll(async () => {
  io = await IoProcess.start(processes, ["--retry", "10ms", "--max-bytes-in-flight", String(inFlight)]);
  config = await io.publish([model]);
  const accountKey = await io.account("acme");
  key = await io.apiKey("someone");
  newAgent = () =>
    new ScriptedAgent({ url: io.url, root: io.root, account: "acme", accountKey, models: [model], config });
});
afterAll(async () => {
  connections.destroy();
  await processes.close();
});

interface Answered {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly body: Buffer;
}

/** The answer to a request, whenever it comes; also before the request's body is through. */
function answerTo(sent: ClientRequest): Promise<Answered> {
  return new Promise((resolve, reject) => {
    sent.once("error", reject);
    sent.once("response", (response: IncomingMessage) => {
      const parts: Buffer[] = [];
      response.on("data", (part: Buffer) => parts.push(part));
      response.once("error", reject);
      response.once("end", () =>
        resolve({
          status: response.statusCode ?? 0,
          headers: response.headers,
          body: Buffer.concat(parts),
        }),
      );
    });
  });
}

/** A client's request that has begun, its body not sent yet. */
function asking(length: number | undefined, bearer = key): ClientRequest {
  return request(`${io.url}/v1/chat/completions`, {
    method: "POST",
    agent: connections,
    headers: {
      authorization: `Bearer ${bearer}`,
      "content-type": "application/json",
      ...(length === undefined ? {} : { "content-length": length }),
    },
  });
}

/** A client's request, and what it is answered. */
function ask(body: Buffer): Promise<Answered> {
  const sent = asking(body.length);
  const answer = answerTo(sent);
  sent.end(body);
  return answer;
}

const bodyOf = (bytes: number): Buffer => {
  const pad = randomBytes(Math.ceil(bytes / 2)).toString("hex");
  const messages = [{ role: "user", content: pad }];
  return Buffer.from(JSON.stringify({ model, messages }));
};

/** A node's session whose HTTP requests the test makes. */
class Node {
  readonly session: AgentSession;
  seq = 100;

  constructor(session: AgentSession) {
    this.session = session;
  }

  static async connect(): Promise<Node> {
    const agent = newAgent();
    await agent.register();
    return new Node(await agent.connect());
  }

  get #agent(): ScriptedAgent {
    return this.session.agent;
  }

  #envelope(typ: string, path: string, payload: object, by: SigningKey = this.#agent.key): string {
    const said = { node_id: this.#agent.nodeId, time: Date.now(), ...payload };
    return sealRequest(typ, said, by, `${io.url}${path}`, ++this.seq);
  }

  async fetch(offer: Offer, change: object = {}, by?: SigningKey): Promise<Answered> {
    const path = paths.jobInput(offer.job);
    const body = this.#envelope(jobInputTyp, path, { ...leaseOf(offer), ...change }, by);
    return post(path, body);
  }

  /** Begins an upload; nothing of its body is sent. */
  uploading(offer: Offer, output: Buffer, change: object = {}, by?: SigningKey): ClientRequest {
    const path = paths.jobOutput(offer.job);
    const said = { ...leaseOf(offer), sha256: sha256(output), size: output.length, ...change };
    return uploadingWith(path, this.#envelope(jobOutputTyp, path, said, by), output.length);
  }

  async upload(offer: Offer, output: Buffer, change: object = {}, by?: SigningKey): Promise<Answered> {
    const sent = this.uploading(offer, output, change, by);
    const answer = answerTo(sent);
    sent.end(output);
    return answer;
  }

  /** The service's signed word. */
  told({ body }: Answered) {
    return openAnswer(body.toString(), this.session.challenge.serviceKey);
  }
}

function post(path: string, body: string): Promise<Answered> {
  const sent = request(`${io.url}${path}`, {
    method: "POST",
    agent: connections,
    headers: { "content-type": envelopeContentType, "content-length": body.length },
  });
  const answer = answerTo(sent);
  sent.end(body);
  return answer;
}

function uploadingWith(path: string, envelope: string | undefined, length: number): ClientRequest {
  return request(`${io.url}${path}`, {
    method: "PUT",
    agent: connections,
    headers: {
      "content-type": "application/octet-stream",
      "content-length": length,
      ...(envelope === undefined ? {} : { [envelopeHeader]: envelope }),
    },
  });
}

async function bytesInFlight(): Promise<number> {
  const text = await (await fetch(`${io.url}/metrics`)).text();
  return Number(/^resultity_io_bytes_in_flight (\d+)/m.exec(text)?.[1]);
}

/** A plain job that is offered to `node`, and what its client will be answered. */
async function offered(node: Node, body: Buffer = Buffer.from(JSON.stringify({ model, messages: [1] }))) {
  const answer = ask(body);
  const offer = await node.session.offer();
  return { offer, answer };
}

describe("a large job", () => {
  it("of 20 MiB in and 20 MiB out goes through byte for byte, with a receipt over both", async () => {
    const node = await Node.connect();
    const body = bodyOf(20 * mib);
    const { offer, answer } = await offered(node, body);
    expect(offer.body).toBeUndefined();
    expect(offer.input).toEqual({ sha256: sha256(body), size: body.length });
    const input = await node.fetch(offer);
    expect([input.status, input.headers["content-length"]]).toEqual([200, String(body.length)]);
    expect(sha256(input.body)).toBe(sha256(body));

    const text = plainOf(offer, randomBytes(10 * mib).toString("hex"));
    const output = Buffer.from(text);
    const brought = await node.upload(offer, output);
    expect([brought.status, node.told(brought).error]).toEqual([200, undefined]);
    node.session.send("result", node.session.agent.result(offer, text));
    const { status, body: got } = await answer;
    expect([status, sha256(got)]).toEqual([200, sha256(output)]);
    expect((await node.session.next("ack")).payload.results).toMatchObject([{ status: "committed" }]);
    await until("memory to be free again", async () => (await bytesInFlight()) === 0);
    node.session.drop();
  });

  it("whose text is small but whose JSON would not fit into a frame is fetched too", async () => {
    const node = await Node.connect();
    const body = Buffer.from(JSON.stringify({ model, messages: [], pad: '"'.repeat(60_000) }));
    const { offer, answer } = await offered(node, body);
    expect(offer.input?.size).toBe(body.length);
    expect((await node.fetch(offer)).body).toEqual(body);
    node.session.answer(offer, plainOf(offer, "ok"));
    expect((await answer).status).toBe(200);
    node.session.drop();
  });
});

describe("an upload", () => {
  const output = Buffer.from(plainOf({ job: "job-x" as Offer["job"], model }, "x".repeat(3 * mib)));

  it("that is cut in the middle leaves nothing, and begins again", async () => {
    const node = await Node.connect();
    const { offer, answer } = await offered(node);
    const cut = node.uploading(offer, output);
    cut.on("error", () => {});
    cut.write(output.subarray(0, mib));
    await until("the first half", async () => (await bytesInFlight()) > output.length);
    cut.destroy();
    await until("its memory to be free", async () => (await bytesInFlight()) < output.length);
    expect((await node.upload(offer, output)).status).toBe(200);
    node.session.send("result", node.session.agent.result(offer, output.toString()));
    expect(sha256((await answer).body)).toBe(sha256(output));
    node.session.drop();
  });

  it("of other bytes than it names is refused and leaves nothing, and the right one counts", async () => {
    const node = await Node.connect();
    const { offer, answer } = await offered(node);
    const wrong = await node.upload(offer, output, { sha256: sha256("other") });
    expect([wrong.status, node.told(wrong).error?.code]).toEqual([409, "digest_mismatch"]);
    const short = await node.upload(offer, output, { size: output.length - 1 });
    expect([short.status, node.told(short).error?.code]).toEqual([409, "digest_mismatch"]);
    expect((await node.upload(offer, output)).status).toBe(200);
    // Again, as after a lost answer: nothing is doubled, in memory neither.
    expect((await node.upload(offer, output)).status).toBe(200);
    expect(await bytesInFlight()).toBeLessThan(2 * output.length);
    node.session.send("result", node.session.agent.result(offer, output.toString()));
    expect(sha256((await answer).body)).toBe(sha256(output));
    node.session.drop();
  });

  it("B34 whose hash is right and whose result then names another is refused", async () => {
    const node = await Node.connect();
    const { offer, answer } = await offered(node);
    expect((await node.upload(offer, output)).status).toBe(200);
    node.session.send("result", node.session.agent.result(offer, `${output.toString()} `));
    expect((await node.session.next("ack")).payload.results).toMatchObject([{ status: "refused" }]);
    const again = await node.session.offer();
    expect(again.attempt).toBe(2);
    // What the refused attempt had brought takes no memory until the job's end.
    expect(await bytesInFlight()).toBeLessThan(output.length);
    node.session.answer(again, plainOf(again, "ok"));
    expect((await answer).status).toBe(200);
    node.session.drop();
  });

  it("B07 B23 with a wrong token, by another node, or after the attempt is over, is refused before its body", async () => {
    const node = await Node.connect();
    const { offer, answer } = await offered(node);
    const other = await Node.connect();
    const refusals: readonly [Node, ClientRequest][] = [
      [node, node.uploading(offer, output, { token: Buffer.alloc(16).toString("base64url") })],
      [node, node.uploading(offer, output, { attempt: 2 })],
      [other, other.uploading(offer, output)],
    ];
    for (const [speaker, sent] of refusals) {
      const answered = answerTo(sent);
      sent.flushHeaders();
      const told = await answered;
      expect([told.status, speaker.told(told).error?.code]).toEqual([409, "E_LEASE_STALE"]);
      sent.destroy();
    }
    for (const refused of [
      await node.fetch(offer, { token: Buffer.alloc(16).toString("base64url") }),
      await other.fetch(offer),
    ])
      expect(refused.status).toBe(409);
    node.session.answer(offer, plainOf(offer, "ok"));
    expect((await answer).status).toBe(200);
    const late = await node.upload(offer, output);
    expect(node.told(late).error?.code).toBe("E_LEASE_STALE");
    await until("memory to be free", async () => (await bytesInFlight()) === 0);
    node.session.drop();
    other.session.drop();
  });

  it("B05 B07 B08 B31 of a stranger, under another's name, for another job or as something else is refused before its body", async () => {
    const node = await Node.connect();
    const { offer, answer } = await offered(node);
    const path = paths.jobOutput(offer.job);
    const stranger = importPrivateKey(generateKey());
    const said = { ...leaseOf(offer), node_id: node.session.agent.nodeId, time: Date.now() };
    const sealed = (typ: string, on: string) =>
      sealRequest(
        typ,
        { ...said, sha256: sha256(output), size: output.length },
        node.session.agent.key,
        on,
        999,
      );
    const own = `${io.url}${path}`;
    const cases: readonly [string | undefined, string, string][] = [
      [undefined, path, "malformed"],
      ["not.a.jws", path, "malformed"],
      [sealRequest(jobOutputTyp, said, stranger, own, 1), path, "unknown_key"],
      [sealed(jobInputTyp, own), path, "wrong_typ"],
      [sealed(jobOutputTyp, `${io.url}${paths.jobInput(offer.job)}`), path, "wrong_audience"],
      [sealed(jobOutputTyp, own), paths.jobOutput("job-another" as Offer["job"]), "wrong_audience"],
      [sealed(jobOutputTyp, own), "/v1/nodes/jobs/..%2f..%2fx/output", "wrong_audience"],
    ];
    for (const [envelope, on, code] of cases) {
      const sent = uploadingWith(on, envelope, output.length);
      const answered = answerTo(sent);
      sent.flushHeaders();
      const told = await answered;
      expect([told.status, JSON.parse(told.body.toString())]).toMatchObject([400, { error: { code } }]);
      sent.destroy();
    }
    node.session.answer(offer, plainOf(offer, "ok"));
    expect((await answer).status).toBe(200);
    node.session.drop();
  });

  it("B01 that is replayed is refused, and told from where to go on", async () => {
    const node = await Node.connect();
    const { offer, answer } = await offered(node, bodyOf(mib));
    expect((await node.fetch(offer)).status).toBe(200);
    const { seq } = node;
    node.seq = 100;
    const replayed = await node.fetch(offer);
    expect(replayed.status).toBe(409);
    expect(node.told(replayed)).toMatchObject({ http_seq: seq, error: { code: "sequence" } });
    node.seq = node.told(replayed).http_seq;
    expect((await node.fetch(offer)).status).toBe(200);
    node.session.answer(offer, plainOf(offer, "ok"));
    expect((await answer).status).toBe(200);
    node.session.drop();
  });
});

describe("B19 a body over its limit", () => {
  it("of a client is 413 in OpenAI's form, with its length known or not; one byte less is read", async () => {
    const error = { type: "invalid_request_error", code: "request_too_large", param: null };
    const known = asking(32 * mib + 1);
    const knownAnswer = answerTo(known);
    known.flushHeaders();
    const told = await knownAnswer;
    expect([told.status, JSON.parse(told.body.toString())]).toMatchObject([413, { error }]);
    known.destroy();

    const unknown = asking(undefined);
    const unknownAnswer = answerTo(unknown);
    unknown.end(Buffer.alloc(33 * mib, 0x20));
    const late = await unknownAnswer;
    expect([late.status, JSON.parse(late.body.toString())]).toMatchObject([413, { error }]);

    const whole = await ask(Buffer.alloc(32 * mib, 0x20));
    expect([whole.status, JSON.parse(whole.body.toString())]).toMatchObject([
      400,
      { error: { code: "invalid_json" } },
    ]);
    await until("memory to be free again", async () => (await bytesInFlight()) === 0);
  });

  it("of a node is refused: envelope, and output", async () => {
    const node = await Node.connect();
    const { offer, answer } = await offered(node);
    expect((await post(paths.jobInput(offer.job), "x".repeat(4097))).status).toBe(413);
    const path = paths.jobOutput(offer.job);
    expect((await answerTo(uploadingWith(path, "x".repeat(4097), 0).end())).status).toBe(400);
    const said = { size: 32 * mib + 1 };
    const over = node.uploading(offer, Buffer.alloc(0), said);
    const refused = answerTo(over);
    over.end();
    expect(JSON.parse((await refused).body.toString())).toMatchObject({ error: { code: "schema" } });
    node.session.answer(offer, plainOf(offer, "ok"));
    expect((await answer).status).toBe(200);
    node.session.drop();
  });

  it("of all together is 429 with Retry-After, for clients and nodes; what is there is not harmed", async () => {
    const node = await Node.connect();
    const { offer, answer } = await offered(node);
    // Requests that say how long they are, and then say nothing more.
    const slow: ClientRequest[] = [];
    const hold = (bearer: string) => {
      const sent = asking(32 * mib, bearer);
      sent.on("error", () => {});
      sent.flushHeaders();
      slow.push(sent);
    };
    hold(key);
    await until("the memory to be taken", async () => (await bytesInFlight()) >= 32 * mib);
    // Half is what one consumer may take; the rest is for others.
    const more = asking(19 * mib);
    const refusedMore = answerTo(more);
    more.flushHeaders();
    expect((await refusedMore).status).toBe(429);
    more.destroy();
    for (const consumer of ["second", "third"]) hold(await io.apiKey(consumer));
    await until("the memory to be taken", async () => (await bytesInFlight()) >= 96 * mib);
    const client = await ask(bodyOf(8 * mib));
    expect([client.status, client.headers["retry-after"]]).toEqual([429, "2"]);
    expect(JSON.parse(client.body.toString())).toMatchObject({
      error: { type: "rate_limit_error", code: "too_many_bytes" },
    });
    const upload = node.uploading(offer, Buffer.alloc(8 * mib));
    const refused = answerTo(upload);
    upload.flushHeaders();
    const told = await refused;
    expect([told.status, told.headers["retry-after"], node.told(told).error?.code]).toEqual([
      429,
      "2",
      "E_BUSY",
    ]);
    upload.destroy();
    for (const sent of slow) sent.destroy();
    await until("the memory to be free", async () => (await bytesInFlight()) < mib);
    const output = Buffer.from(plainOf(offer, "y".repeat(8 * mib)));
    expect((await node.upload(offer, output)).status).toBe(200);
    node.session.send("result", node.session.agent.result(offer, output.toString()));
    expect(sha256((await answer).body)).toBe(sha256(output));
    node.session.drop();
  });

  it("of one node at half of the memory is 429: the rest is for others", async () => {
    const node = await Node.connect();
    const one = await offered(node);
    const other = await offered(node);
    const slow = node.uploading(one.offer, Buffer.alloc(30 * mib));
    slow.on("error", () => {});
    slow.flushHeaders();
    await until("the memory to be taken", async () => (await bytesInFlight()) >= 30 * mib);
    const more = node.uploading(other.offer, Buffer.alloc(21 * mib));
    const refused = answerTo(more);
    more.flushHeaders();
    expect((await refused).status).toBe(429);
    more.destroy();
    slow.destroy();
    for (const { offer, answer } of [one, other]) {
      node.session.answer(offer, plainOf(offer, "ok"));
      expect((await answer).status).toBe(200);
    }
    node.session.drop();
  });

  it("of a stranger costs nothing: it is refused before its body", async () => {
    const sent = asking(30 * mib, "rk-nobody");
    const answer = answerTo(sent);
    sent.flushHeaders();
    expect((await answer).status).toBe(401);
    expect(await bytesInFlight()).toBe(0);
    sent.destroy();
  });
});
