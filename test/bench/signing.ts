import { createHash, sign, verify } from "node:crypto";
import { chainStart, openReceipt, sealCountersign, sealReceipt } from "../../src/protocol/receipt.ts";
import { generateKey, importPrivateKey, type NodeId } from "../../src/protocol/keys.ts";
import type { ConfigDigest, JobId } from "../../src/protocol/fields.ts";
import { agentChannel, serviceChannel } from "../../src/protocol/session/channel.ts";
import type { Bench } from "./bench.ts";
import { alone, compare, pairs, type Sample } from "./figures.ts";

const network = "bench";
const account = "bench";
const model = "bench/model";
const digest = `sha256:${"a".repeat(64)}` as ConfigDigest;
const node = importPrivateKey(generateKey());
const service = importPrivateKey(generateKey());
const nodeId = String(node.kid) as NodeId;
const sid = Buffer.alloc(16, 1).toString("base64url");
const token = Buffer.alloc(16, 2).toString("base64url");
const sha256 = (text: string): string => createHash("sha256").update(text).digest("hex");

/** Events that a stream of 100 tokens is gathered into: 2 s at 50 tokens a second, a chunk every 50 ms. */
const streamChunks = Array.from(
  { length: 40 },
  (_, at) =>
    `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"${model}","choices":[{"index":0,"delta":{"content":" word${at}"},"finish_reason":null}]}\n\n`,
);
const plainOutput = JSON.stringify({
  id: "chatcmpl-1",
  object: "chat.completion",
  model,
  choices: [
    { index: 0, message: { role: "assistant", content: "word ".repeat(100) }, finish_reason: "stop" },
  ],
  usage: { prompt_tokens: 10, completion_tokens: 100, total_tokens: 110 },
});

/** Everything that is signed for one job and what it says, at both ends of one session. */
class JobFrames {
  readonly #service = serviceChannel(sid, service, node);
  readonly #agent = agentChannel(sid, node, service);
  #jobs = 0;

  /** Signs and verifies all frames of a job, and its receipt; gives back every signed text. */
  job(chunks: readonly string[], stream: boolean): string[] {
    const job = `job-${String(++this.#jobs).padStart(8, "0")}` as JobId;
    const lease = { job, attempt: 1, token };
    const body = JSON.stringify({ model, messages: [{ role: "user", content: "Say something." }], stream });
    const output = chunks.join("");
    const offer = this.#service.seal("offer", {
      ...lease,
      model,
      endpoint: "/v1/chat/completions",
      stream,
      durable: false,
      body,
      consumer: "client",
      deadline_ms: 600_000,
    });
    this.#agent.open(offer);
    const texts = [offer];
    let offset = 0;
    for (const data of chunks) {
      const chunk = this.#agent.seal("chunk", { ...lease, offset, data });
      this.#service.open(chunk);
      texts.push(chunk);
      offset += Buffer.byteLength(data);
    }
    const usage = { prompt_tokens: 10, completion_tokens: 100 };
    const receipt = sealReceipt(
      {
        network,
        job,
        attempt: 1,
        node_id: nodeId,
        account,
        consumer: "client",
        model,
        config_digest: digest,
        input_sha256: sha256(body),
        output_sha256: sha256(output),
        ...usage,
        duration_ms: 2_000,
        outcome: "completed",
        time: 1_767_225_600_000,
      },
      node,
    );
    const result = this.#agent.seal("result", {
      ...lease,
      outcome: "completed",
      status: 200,
      output_sha256: sha256(output),
      output_bytes: offset,
      usage,
      duration_ms: 2_000,
      receipt,
    });
    this.#service.open(result);
    openReceipt(receipt, node);
    const countersign = sealCountersign(
      {
        receipt,
        account,
        index: this.#jobs,
        prev: chainStart,
        metered: usage,
        committed_at: 1_767_225_600_000,
      },
      service,
    );
    const ack = this.#service.seal("ack", {
      upto: this.#agent.sent,
      results: [{ job, attempt: 1, status: "committed", receipt: countersign }],
    });
    this.#agent.open(ack);
    return [...texts, receipt, result, countersign, ack];
  }
}

/** CPU of this process for each of `count` calls, µs. */
function cpuEach(count: number, call: () => void): number {
  const before = process.cpuUsage();
  for (let at = 0; at < count; at++) call();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / count;
}

/** What signing costs above Ed25519 itself. */
export const signing: Bench = {
  name: "signing",
  what: "CPU to sign and verify all of one job at both ends, against node:crypto over the same bytes",
  async run({ quick }) {
    const jobs = quick ? 100 : 1_000;
    const arms = { plain: [plainOutput], streamed: streamChunks };
    const frames = new JobFrames();
    const ours = (): Promise<Sample> =>
      Promise.resolve({
        plain: cpuEach(jobs, () => frames.job(arms.plain, false)),
        streamed: cpuEach(jobs / 10, () => frames.job(arms.streamed, true)),
      });
    const bare = (chunks: readonly string[]): (() => void) => {
      // The countersignature is verified by nobody on this path, everything else once.
      const texts = frames.job(chunks, true).map((text) => text.slice(0, text.lastIndexOf(".")));
      return () => {
        for (const [at, text] of texts.entries()) {
          const bytes = Buffer.from(text);
          const signature = sign(null, bytes, node.privateKey);
          if (at !== texts.length - 2 && !verify(null, bytes, node.key, signature))
            throw new Error("not verified");
        }
      };
    };
    const bareArms = { plain: bare(arms.plain), streamed: bare(arms.streamed) };
    const peer = (): Promise<Sample> =>
      Promise.resolve({
        plain: cpuEach(jobs, bareArms.plain),
        streamed: cpuEach(jobs / 10, bareArms.streamed),
      });
    await ours(); // both compiled
    await peer();
    const measured = await pairs(quick ? 3 : 9, ours, peer);
    const against = "bare sign and verify";
    const unit = "µs";
    return {
      figures: [
        compare(measured, "plain", {
          name: "one plain job: 6 signatures, 5 verified",
          unit,
          against,
        }),
        compare(measured, "streamed", {
          name: "one stream of 40 chunks: 45 signatures, 44 verified",
          unit,
          against,
        }),
        alone(measured.peer, "plain", "bare Ed25519 of a plain job", unit),
      ],
      notes: ["Ours includes JSON, base64url, schema, sequence, and the hashes of input and output."],
    };
  },
};
