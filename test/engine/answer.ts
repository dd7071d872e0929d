import { createHash } from "node:crypto";

const words =
  "the of light and rail over stone under glass with seven rivers past every quiet engine room".split(" ");

/**
 * The words of the test engine's answer: `count` of them, a pure function of model and messages, so that a client can
 * check every byte that reached it.
 */
export function answerWords(model: string, messages: unknown, count: number): string[] {
  const out: string[] = [];
  let digest = createHash("sha256")
    .update(JSON.stringify([model, messages]))
    .digest();
  while (out.length < count) {
    for (const byte of digest) {
      if (out.length < count) out.push(words[byte % words.length] ?? "");
    }
    digest = createHash("sha256").update(digest).digest();
  }
  return out;
}
