import { Agent, request } from "node:http";
import { messageOf } from "../../src/lib/errors.ts";
import { quantile } from "./figures.ts";

/** Where requests go and what they ask. */
export interface Asked {
  /** Base URL without `/v1`. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly model: string;
  readonly stream: boolean;
  readonly tokens: number;
}

/** What a load has seen. Durations in ms, from the request to its last byte. */
export interface LoadResult {
  readonly requests: number;
  readonly perSecond: number;
  readonly p50: number;
  readonly p99: number;
  /** Of streams: ms to the first byte of the body, median. */
  readonly firstByte: number;
  /** Requests without a whole answer of 200; in no other figure. */
  readonly failed: number;
  /** What one of them got. */
  readonly failure: string;
}

/**
 * `clients` that each ask again as soon as they have their answer, for `seconds`. Connections are kept. Each answer is read
 * whole and must be 200; a stream must end with `[DONE]`. Others are counted as failed.
 */
export async function load(asked: Asked, clients: number, seconds: number): Promise<LoadResult> {
  const agent = new Agent({ keepAlive: true, maxSockets: clients });
  const took: number[] = [];
  const first: number[] = [];
  let failed = 0;
  let failure = "";
  const begun = performance.now();
  const end = begun + seconds * 1000;
  const body = JSON.stringify({
    model: asked.model,
    messages: [{ role: "user", content: "Say something about the river." }],
    max_tokens: asked.tokens,
    ...(asked.stream && { stream: true }),
  });
  const client = async (): Promise<void> => {
    while (performance.now() < end) {
      const at = performance.now();
      try {
        const firstAt = await ask(asked, body, agent);
        first.push(firstAt - at);
        took.push(performance.now() - at);
      } catch (error) {
        failed++;
        failure = messageOf(error);
      }
    }
  };
  await Promise.all(Array.from({ length: clients }, client));
  const spent = (performance.now() - begun) / 1000;
  agent.destroy();
  return {
    requests: took.length,
    perSecond: took.length / spent,
    p50: quantile(took, 0.5),
    p99: quantile(took, 0.99),
    firstByte: quantile(first, 0.5),
    failed,
    failure,
  };
}

/** One request to its end; resolves to the time of its first byte. */
function ask({ url, headers, stream }: Asked, body: string, agent: Agent): Promise<number> {
  return new Promise((resolve, reject) => {
    const sent = request(`${url}/v1/chat/completions`, {
      method: "POST",
      agent,
      headers: { ...headers, "content-type": "application/json", "content-length": Buffer.byteLength(body) },
    });
    sent.on("error", reject);
    sent.on("response", (response) => {
      let firstAt = 0;
      let tail = "";
      response.on("data", (part: Buffer) => {
        firstAt ||= performance.now();
        tail = (tail + part.toString("latin1")).slice(-400);
      });
      response.on("error", reject);
      response.on("end", () => {
        const whole = !stream || tail.includes("data: [DONE]");
        if (response.statusCode === 200 && whole) resolve(firstAt);
        else reject(new Error(`${url} answered ${response.statusCode}, ending ${JSON.stringify(tail)}`));
      });
    });
    sent.end(body);
  });
}
