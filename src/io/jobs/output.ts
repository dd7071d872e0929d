import { createHash, type Hash } from "node:crypto";

/** How an attempt's output reaches the client: event by event as it comes, or whole after the commit. */
export type OutputKind = "events" | "whole";

const field = /^(?:data|event|id|retry)?:/;
const done = "[DONE]";
const doneLine = /^data: ?$/;
/** The beginning of a piece of text in an event: engines send a token in each. */
const pieceOfText = /"(?:content|reasoning_content)": ?"(?!")|"tool_calls": ?\[/g;

/** True for text that begins as a stream of events does (WHATWG HTML §9.2.6), rather than as an error in JSON. */
export function looksLikeEvents(text: string): boolean {
  return field.test(text.replace(/^\uFEFF?[\r\n]*/, ""));
}

/** Where the `[DONE]` event begins, if the piece ends with one; -1 = it does not. */
function startOfDone(data: Buffer): number {
  const word = data.indexOf(done, Math.max(0, data.length - 32));
  if (word === -1) return -1;
  const line = Math.max(data.lastIndexOf(0x0a, word), data.lastIndexOf(0x0d, word)) + 1;
  return doneLine.test(data.toString("latin1", line, word)) ? line : -1;
}

/**
 * The output of one attempt as it comes in: hash and size of all of it. Of events, `[DONE]` is held back until the result
 * has been verified and committed, so that a client which has read it has a committed job; of a whole answer, all of it.
 */
export class Output {
  kind: OutputKind = "whole";
  /** Made with the first bytes: thousands of jobs wait without any. */
  #hash: Hash | undefined;
  #bytes = 0;
  #held: Buffer[] = [];
  #pieces = 0;
  /** What is to be done when the bytes are not held any more. */
  #afterwards: (() => void)[] = [];

  /** Bytes so far. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Pieces of text in the events that the client may have seen: what stands for tokens when no result names them. */
  get pieces(): number {
    return this.#pieces;
  }

  /** SHA-256 of the bytes so far, hex. May be asked again. */
  sha256(): string {
    return (this.#hash?.copy() ?? createHash("sha256")).digest("hex");
  }

  /** What is held back. */
  get held(): readonly Buffer[] {
    return this.#held;
  }

  /** Takes bytes; returns those that the client may see now. */
  append(data: Buffer): Buffer | undefined {
    this.#hash ??= createHash("sha256");
    this.#hash.update(data);
    this.#bytes += data.length;
    if (this.kind === "whole" || this.#held.length > 0) {
      this.#held.push(data);
      return undefined;
    }
    // The agent cuts at the ends of events, so the last event of a piece is whole.
    const at = startOfDone(data);
    const visible = at === -1 ? data : data.subarray(0, at);
    if (at !== -1) this.#held.push(data.subarray(at));
    if (visible.length === 0) return undefined;
    this.#pieces += visible.toString("latin1").match(pieceOfText)?.length ?? 0;
    return visible;
  }

  /** Calls `afterwards` once when the bytes so far are not held any more: another attempt begins, or the job is over. */
  whenLetGo(afterwards: () => void): void {
    this.#afterwards.push(afterwards);
  }

  /** Nobody needs the bytes any more. */
  letGo(): void {
    for (const afterwards of this.#afterwards.splice(0)) afterwards();
  }

  /** Another attempt begins; nothing of this one was shown. */
  restart(): void {
    this.letGo();
    this.kind = "whole";
    this.#hash = undefined;
    this.#bytes = 0;
    this.#held = [];
    this.#pieces = 0;
  }
}
