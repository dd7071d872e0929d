import { answerWords } from "../../engine/answer.ts";
import { until } from "../../testbed/until.ts";
import { loopModel } from "../authority.ts";
import type { ClientEntry } from "../load.ts";

/** An asynchronous job that the service has promised to do. */
export interface Promised {
  readonly id: string;
  readonly begun: number;
  readonly expected: string;
}

interface Client {
  readonly baseURL: string;
  readonly apiKey: string;
}

/** Submits jobs one after another, every `everyMs`, until the signal. Whatever is not taken is an error: nobody tries again. */
export async function submitJobs(
  client: Client,
  options: { readonly everyMs: number; readonly maxTokens: number; readonly signal: AbortSignal },
): Promise<Promised[]> {
  const promised: Promised[] = [];
  const { everyMs, maxTokens, signal } = options;
  while (!signal.aborted) {
    const begun = Date.now();
    const messages = [{ role: "user", content: `asynchronous question ${promised.length}` }];
    const response = await fetch(`${client.baseURL}/v1/chat/completions`, {
      method: "POST",
      headers: { ...headersOf(client), "content-type": "application/json", prefer: "respond-async" },
      body: JSON.stringify({ model: loopModel, max_tokens: maxTokens, messages }),
    });
    const text = await response.text();
    if (response.status !== 202) throw new Error(`a job was answered ${response.status}: ${text}`);
    const { id } = JSON.parse(text) as { id: string };
    promised.push({ id, begun, expected: answerWords(loopModel, messages, maxTokens).join(" ") });
    await new Promise((resolve) => setTimeout(resolve, Math.max(0, begun + everyMs - Date.now())));
  }
  return promised;
}

/** Fetches every answer; what has none by the deadline is an entry that is not ok. */
export async function collectJobs(client: Client, promised: readonly Promised[]): Promise<ClientEntry[]> {
  const entries: ClientEntry[] = [];
  for (const { id, begun, expected } of promised) {
    const entry = { id, begun, expected, stream: false, relayed: false, tokens: 0, code: undefined };
    try {
      const text = await until(`job ${id}`, async () => answerOf(client, id), { deadlineMs: 60_000 });
      const ok = text === expected;
      const error = ok ? undefined : "the text is not the engine's";
      entries.push({ ...entry, ended: Date.now(), text, ok, error });
    } catch (thrown) {
      entries.push({ ...entry, ended: Date.now(), text: "", ok: false, error: String(thrown) });
    }
  }
  return entries;
}

async function answerOf(client: Client, id: string): Promise<string | undefined> {
  const response = await fetch(`${client.baseURL}/v1/jobs/${id}/result`, { headers: headersOf(client) });
  const text = await response.text();
  if (response.status === 409) return undefined;
  if (response.status !== 200) throw new Error(`its result was answered ${response.status}: ${text}`);
  const { choices } = JSON.parse(text) as { choices: readonly { message: { content: string } }[] };
  return choices[0]?.message.content ?? "";
}

const headersOf = ({ apiKey }: Client) => ({ authorization: `Bearer ${apiKey}` });
