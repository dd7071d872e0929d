import { answerWords } from "../engine/answer.ts";
import { loopModel } from "./authority.ts";
import type { ClientEntry } from "./load.ts";

/** A streamed completion read off the wire, since a client library hides `[DONE]` and how the body ended. */
export interface RawStream {
  readonly id: string | undefined;
  /** Data of each event so far, and whether the body came to its proper end. */
  seen(): { readonly events: readonly string[]; readonly complete: boolean };
  /** Resolves when the body has ended, in whatever way. */
  readonly ended: Promise<ClientEntry>;
}

/** Asks for one streamed completion; resolves when the first bytes of the answer have come. */
export async function openStream(options: {
  readonly baseURL: string;
  readonly apiKey: string;
  readonly maxTokens: number;
}): Promise<RawStream> {
  const begun = Date.now();
  const messages = [{ role: "user", content: `raw question at ${begun}` }];
  const response = await fetch(`${options.baseURL}/v1/chat/completions`, {
    method: "POST",
    headers: { authorization: `Bearer ${options.apiKey}`, "content-type": "application/json" },
    body: JSON.stringify({ model: loopModel, max_tokens: options.maxTokens, stream: true, messages }),
  });
  if (response.status !== 200 || !response.body)
    throw new Error(`the stream was answered ${response.status}: ${await response.text()}`);
  const id = response.headers.get("x-request-id") ?? undefined;
  let [body, complete] = ["", false];
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  const read = async (): Promise<boolean> => {
    const { done, value } = await reader.read();
    body += value ?? "";
    complete = done;
    return !done;
  };
  const events = () => [...body.matchAll(/^data: (.*)$/gm)].map(([, data]) => data ?? "");
  await read();
  const rest = async (): Promise<ClientEntry> => {
    let error: string | undefined;
    try {
      while (await read());
    } catch (thrown) {
      error = thrown instanceof Error ? thrown.message : String(thrown);
    }
    const parsed = events().flatMap((data) => (data.startsWith("{") ? [JSON.parse(data) as Event] : []));
    const text = parsed.map(({ choices }) => choices?.[0]?.delta?.content ?? "").join("");
    const expected = answerWords(loopModel, messages, options.maxTokens).join(" ");
    const failure = parsed.at(-1)?.error;
    const ok = complete && text === expected && events().includes("[DONE]");
    return {
      id,
      stream: true,
      begun,
      ended: Date.now(),
      ok,
      text,
      relayed: parsed.some(({ choices }) => choices !== undefined),
      expected,
      tokens: 0,
      error: failure?.message ?? error,
      code: failure?.code,
    };
  };
  return { id, seen: () => ({ events: events(), complete }), ended: rest() };
}

/** What is read of an event. */
interface Event {
  readonly choices?: readonly { readonly delta?: { readonly content?: string } }[];
  readonly error?: { readonly code: string; readonly message: string };
}
