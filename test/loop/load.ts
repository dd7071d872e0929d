import OpenAI, { APIError } from "openai";
import { answerWords } from "../engine/answer.ts";
import { loopModel } from "./authority.ts";

/** How one completion ended, as the client saw it. */
export interface ClientEntry {
  /** `x-request-id` of the response; undefined when there was none. */
  readonly id: string | undefined;
  readonly stream: boolean;
  readonly begun: number;
  readonly ended: number;
  readonly ok: boolean;
  readonly text: string;
  /** Something of a streamed answer was read, if only its first event, which has no text. */
  readonly relayed: boolean;
  readonly tokens: number;
  readonly error: string | undefined;
  /** `code` of the API's error, in the answer or as the last event of a stream; undefined when there was none. */
  readonly code: string | undefined;
  /** The text that the whole answer has. */
  readonly expected: string;
}

export interface LoadOptions {
  readonly baseURL: string;
  readonly apiKey: string;
  readonly total: number;
  /** Requests at once. */
  readonly concurrency: number;
  readonly maxTokens: number;
  readonly signal?: AbortSignal;
  readonly onEntry?: (entry: ClientEntry, done: number) => void;
}

/** Asks for completions, every second one streamed, with a client that never retries. Resolves with one entry for each. */
export async function runLoad(options: LoadOptions): Promise<ClientEntry[]> {
  const client = new OpenAI({
    baseURL: `${options.baseURL}/v1`,
    apiKey: options.apiKey,
    maxRetries: 0,
    timeout: 120_000,
  });
  const entries: ClientEntry[] = [];
  let next = 0;
  const worker = async () => {
    while (next < options.total && !options.signal?.aborted) {
      const at = next++;
      const entry = await complete(client, at, options.maxTokens);
      entries.push(entry);
      options.onEntry?.(entry, entries.length);
    }
  };
  await Promise.all(Array.from({ length: options.concurrency }, worker));
  return entries;
}

/** One completion; request number `at` is streamed if odd. */
export async function complete(client: OpenAI, at: number, maxTokens: number): Promise<ClientEntry> {
  const begun = Date.now();
  const stream = at % 2 === 1;
  let id: string | undefined;
  let [text, tokens, relayed] = ["", 0, false];
  const end = (ok: boolean, error?: string, code?: string): ClientEntry => ({
    id,
    stream,
    begun,
    ended: Date.now(),
    ok,
    text,
    relayed,
    tokens,
    error,
    code,
    expected,
  });
  const messages = [{ role: "user" as const, content: `question ${at}` }];
  const body = { model: loopModel, max_tokens: maxTokens, messages };
  const expected = answerWords(loopModel, messages, maxTokens).join(" ");
  try {
    if (!stream) {
      const { data, response } = await client.chat.completions.create(body).withResponse();
      id = response.headers.get("x-request-id") ?? undefined;
      text = data.choices[0]?.message.content ?? "";
      tokens = data.usage?.completion_tokens ?? 0;
      return text === expected ? end(true) : end(false, "the text is not the engine's");
    }
    const { data, response } = await client.chat.completions
      .create({ ...body, stream: true, stream_options: { include_usage: true } })
      .withResponse();
    id = response.headers.get("x-request-id") ?? undefined;
    let finished = false;
    for await (const part of data) {
      relayed = true;
      text += part.choices[0]?.delta.content ?? "";
      finished ||= part.choices[0]?.finish_reason === "stop";
      tokens = part.usage?.completion_tokens ?? tokens;
    }
    if (!finished) return end(false, "the stream ended without a finish_reason");
    return text === expected ? end(true) : end(false, "the text is not the engine's");
  } catch (thrown) {
    if (thrown instanceof APIError) id ??= thrown.headers?.get("x-request-id") ?? undefined;
    const code = thrown instanceof APIError && typeof thrown.code === "string" ? thrown.code : undefined;
    return end(false, thrown instanceof Error ? thrown.message : String(thrown), code);
  }
}
