import type { Usage } from "../../protocol/messages.ts";
import type { HttpHead } from "../ports.ts";
import type { ByteBudget } from "../../lib/byte-budget.ts";
import { EventCutter, eventData, maxEventChars } from "./events.ts";
import { JobOutput } from "./output.ts";
import { countDeltas, parseObject, usageOf } from "./usage.ts";

/** Text that has come in crumbs is a tree of them, 32 bytes each: so much of it is made flat, characters. */
const flatChars = 64 * 1024;
/** What the end of an event takes beside its bytes: an engine may send events of one byte. */
const bytesPerEvent = 16;

/** Why an engine's answer is no answer. `busy` and `model` name a state of the engine, the rest is its fault. */
export class AnswerError extends Error {
  readonly kind: "engine" | "busy" | "model";

  constructor(kind: AnswerError["kind"], message: string) {
    super(message);
    this.kind = kind;
  }
}

/**
 * Reads an engine's answer as it comes and turns it into job output. A stream is passed on event by event; a plain
 * answer is held until it is whole and is JSON, so that what is not can still be tried elsewhere. An answer 4xx is the
 * client's to see, as it is; except 429 (the engine is full) and 404 (it has not the model), which other nodes may
 * answer better, and 5xx, which is a fault.
 *
 * Bytes that are not UTF-8 become U+FFFD. Memory is bounded by `maxBytes` of output and one event, and by what `budget` has
 * left for all jobs together.
 */
export class AnswerReader {
  readonly output = new JobOutput();
  readonly #stream: boolean;
  readonly #maxBytes: number;
  readonly #budget: ByteBudget;
  readonly #decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  readonly #cutter = new EventCutter();
  #status = 0;
  #events = false;
  #first = true;
  #done = false;
  /** A plain answer: what has been made flat, and what came since. */
  #flat: string[] = [];
  #crumbs = "";
  #received = 0;
  /** Bytes of the budget that are this answer's. */
  #taken = 0;
  #usage: Usage | undefined;

  constructor(stream: boolean, maxBytes: number, budget: ByteBudget) {
    this.#stream = stream;
    this.#maxBytes = maxBytes;
    this.#budget = budget;
  }

  /** HTTP status of the answer; 0 before its head has come. */
  get status(): number {
    return this.#status;
  }

  /** @throws {AnswerError} */
  head({ status, headers }: HttpHead): void {
    this.#status = status;
    if (status === 429) throw new AnswerError("busy", "the engine is full (HTTP 429)");
    if (status === 404) throw new AnswerError("model", "the engine does not have the model (HTTP 404)");
    if (status < 200 || (status >= 300 && status < 400) || status >= 500)
      throw new AnswerError("engine", `the engine answered HTTP ${status}`);
    if (status >= 400) return;
    this.#events = String(headers["content-type"] ?? "").startsWith("text/event-stream");
    if (this.#stream && !this.#events)
      throw new AnswerError("engine", "the engine answered a streamed request without a stream of events");
  }

  /**
   * Takes bytes; true when there is new output.
   * @throws {AnswerError}
   */
  data(bytes: Uint8Array): boolean {
    this.#received += bytes.length;
    this.#hold(bytes.length);
    return this.#take(this.#decoder.decode(bytes, { stream: true }));
  }

  #hold(bytes: number): void {
    if (!this.#budget.take(bytes))
      throw new AnswerError("busy", "the node holds as much output as it has memory for");
    this.#taken += bytes;
  }

  /**
   * The answer is over.
   * @throws {AnswerError} when it is not whole.
   */
  end(): void {
    this.#take(this.#decoder.decode());
    if (this.#events && this.#stream) return this.#endOfStream();
    const plain = this.#flat.join("") + this.#crumbs;
    const answer = parseObject(plain);
    if (!answer && this.#status < 400) throw new AnswerError("engine", "the engine's answer is not JSON");
    this.#usage = usageOf(answer);
    if (plain !== "") this.output.append(plain);
    this.#flat = [];
    this.#crumbs = "";
  }

  /** Token counts: the engine's own, or what {@link countDeltas} says. */
  usage(): Usage {
    if (this.#usage) return this.#usage;
    return { prompt_tokens: 0, completion_tokens: this.#stream ? countDeltas(this.output.events()) : 0 };
  }

  /** The output is not needed any more: its bytes are others' to hold. */
  release(): void {
    this.#budget.give(this.#taken);
    this.#taken = 0;
  }

  #endOfStream(): void {
    const { rest } = this.#cutter;
    // The last event may lack its blank line; browsers would drop it, engines that end so mean it.
    if (rest.trim() !== "") this.#event(rest);
    if (!this.#done) throw new AnswerError("engine", "the engine's stream ended without [DONE]");
  }

  #take(text: string): boolean {
    if (text === "") return false;
    if (!this.#stream || this.#status >= 400) {
      this.#crumbs += text;
      if (this.#crumbs.length >= flatChars) {
        this.#flat.push(Buffer.from(this.#crumbs).toString());
        this.#crumbs = "";
      }
      if (this.#received > this.#maxBytes) throw this.#tooLarge();
      return false;
    }
    const events = this.#cutter.push(text);
    for (const event of events) this.#event(event);
    if (this.#cutter.rest.length > maxEventChars)
      throw new AnswerError("engine", `the engine sent an event of more than ${maxEventChars} characters`);
    return events.length > 0;
  }

  #event(event: string): void {
    if (this.output.size + Buffer.byteLength(event) > this.#maxBytes) throw this.#tooLarge();
    this.#hold(bytesPerEvent);
    const isDone = /^data: ?\[DONE\]/m.test(event);
    // The first event with data shows whether this is an engine that speaks the API at all.
    if (this.#first && !isDone) {
      const data = eventData(event);
      if (data !== "" && !parseObject(data))
        throw new AnswerError("engine", "the engine's first event is not JSON");
      this.#first = data === "";
    }
    if (isDone) this.#done = true;
    if (event.includes('"usage"')) this.#usage = usageOf(parseObject(eventData(event))) ?? this.#usage;
    this.output.append(event);
  }

  #tooLarge(): AnswerError {
    return new AnswerError(
      "engine",
      `the answer is larger than the ${this.#maxBytes} bytes that the config allows`,
    );
  }
}
