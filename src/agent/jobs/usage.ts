import type { Usage } from "../../protocol/messages.ts";
import { eventData } from "./events.ts";

/** Parsed JSON if it is an object, else undefined. For what an engine sent: it never throws. */
export function parseObject(text: string): Readonly<Record<string, unknown>> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

const isCount = (value: unknown): value is number => Number.isSafeInteger(value) && Number(value) >= 0;

/** The token counts of an answer as the engine gave them; undefined if it gave none. */
export function usageOf(answer: Readonly<Record<string, unknown>> | undefined): Usage | undefined {
  const usage = answer?.["usage"];
  if (!isRecord(usage)) return undefined;
  const { prompt_tokens: prompt, completion_tokens: completion } = usage;
  return isCount(prompt) && isCount(completion)
    ? { prompt_tokens: prompt, completion_tokens: completion }
    : undefined;
}

/**
 * Counts the pieces of text in events: what stands for `completion_tokens` when a streaming engine gave no usage. It is a
 * count of deltas that were relayed, which for engines that send a token per event is the tokens. Nothing else is
 * invented: `prompt_tokens` is then 0.
 */
export function countDeltas(events: Iterable<string>): number {
  let deltas = 0;
  for (const event of events) {
    const choices = parseObject(eventData(event))?.["choices"];
    if (!Array.isArray(choices)) continue;
    for (const choice of choices) {
      const delta: unknown = isRecord(choice) ? choice["delta"] : undefined;
      if (!isRecord(delta)) continue;
      const text = delta["content"] ?? delta["reasoning_content"] ?? delta["tool_calls"];
      if (typeof text === "string" ? text !== "" : text !== undefined && text !== null) deltas++;
    }
  }
  return deltas;
}
