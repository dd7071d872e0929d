/** An OpenAI-compatible engine on the loopback interface of a pod in memory, with the answers of the test engine. */
import type { Http, HttpExchange, HttpHandlers, HttpRequest } from "../../../../src/agent/ports.ts";
import type { Clock } from "../../../../src/lib/clock.ts";
import { answerWords } from "../../../engine/answer.ts";
import type { EngineBehaviour, RequestLine } from "./engine-program.ts";
import { isObject } from "./json.ts";
import type { MemoryPod } from "./pod.ts";

/** What an engine is started with. */
export interface MemoryEngineOptions {
  readonly clock: Clock;
  readonly pod: MemoryPod;
  readonly port: number;
  readonly models: readonly string[];
  readonly version: string;
  readonly behaviour: () => EngineBehaviour;
  readonly onRequest: (line: RequestLine) => void;
}

/** One request under way. */
interface Exchange {
  readonly handlers: HttpHandlers;
  /** Job that it answers; undefined for everything else. */
  job: string | undefined;
  over: boolean;
}

/** An engine from its start to its end. */
export class MemoryEngine implements Http {
  readonly #options: MemoryEngineOptions;
  readonly #open = new Set<Exchange>();
  #stopped = false;

  constructor(options: MemoryEngineOptions) {
    this.#options = options;
    const { clock, pod, port, behaviour } = options;
    clock.setTimer(() => {
      if (!this.#stopped) pod.loopback.set(port, this);
    }, behaviour().startMs ?? 0);
  }

  /** Ends; answers under way are cut. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    const { pod, port } = this.#options;
    if (pod.loopback.get(port) === this) pod.loopback.delete(port);
    for (const exchange of this.#open)
      this.#end(exchange, () => exchange.handlers.failed(new Error("socket hang up")));
  }

  request(request: HttpRequest, handlers: HttpHandlers): HttpExchange {
    const exchange: Exchange = { handlers, job: undefined, over: false };
    this.#open.add(exchange);
    this.#later(exchange, 0, () => this.#serve(request, exchange));
    return {
      abort: () => this.#end(exchange, () => {}),
      pause: () => {},
      resume: () => {},
    };
  }

  #serve(request: HttpRequest, exchange: Exchange): void {
    const { models, version, behaviour } = this.#options;
    const { mode = "ok" } = behaviour();
    if (mode === "hang") return;
    const path = new URL(request.url).pathname;
    if (path === "/v1/models")
      this.#json(exchange, 200, { object: "list", data: models.map((id) => ({ id })) });
    else if (path === "/version") this.#json(exchange, 200, { version });
    else if (path === "/health") this.#json(exchange, 200, {});
    else if (path !== "/v1/chat/completions")
      this.#json(exchange, 404, { error: { message: "no such route" } });
    else this.#complete(request, exchange, mode);
  }

  #complete(request: HttpRequest, exchange: Exchange, mode: "ok" | "error"): void {
    const body: unknown = JSON.parse(Buffer.from(request.body ?? "{}").toString("utf8"));
    if (!isObject(body)) return this.#json(exchange, 400, { error: { message: "no JSON object" } });
    const { model, messages } = body;
    const job = request.headers?.["x-request-id"];
    if (job !== undefined) {
      exchange.job = job;
      this.#options.onRequest({ event: "begin", id: job });
    }
    if (mode === "error") return this.#json(exchange, 500, { error: { message: "switched to fail" } });
    if (!this.#options.models.includes(String(model)))
      return this.#json(exchange, 404, { error: { message: `model ${String(model)} is not loaded` } });
    const asked = Number(body["max_completion_tokens"] ?? body["max_tokens"] ?? 24);
    const count = Math.min(4096, asked);
    const words = answerWords(String(model), messages, count);
    const promptTokens = JSON.stringify(messages).split(/\s+/).length;
    const usage = {
      prompt_tokens: promptTokens,
      completion_tokens: count,
      total_tokens: promptTokens + count,
    };
    const id = `chatcmpl-${job ?? "none"}`;
    const base = { id, created: 1_700_000_000, model };
    const { tokenDelayMs = 20 } = this.#options.behaviour();
    if (body["stream"] !== true) {
      const choices = [
        { index: 0, message: { role: "assistant", content: words.join(" ") }, finish_reason: "stop" },
      ];
      const whole = { ...base, object: "chat.completion", choices, usage };
      // The agent's own test request asks for one token, and is answered at once.
      this.#later(exchange, count === 1 ? 0 : tokenDelayMs * count, () => this.#json(exchange, 200, whole));
      return;
    }
    exchange.handlers.head({ status: 200, headers: { "content-type": "text/event-stream" } });
    const event = (text: string) => exchange.handlers.data(Buffer.from(`data: ${text}\n\n`));
    const chunk = (delta: object, finish: string | null) =>
      event(
        JSON.stringify({
          ...base,
          object: "chat.completion.chunk",
          choices: [{ index: 0, delta, finish_reason: finish }],
        }),
      );
    chunk({ role: "assistant", content: "" }, null);
    const options = body["stream_options"];
    const wantsUsage = isObject(options) && options["include_usage"] === true;
    const say = (at: number): void => {
      if (at < words.length) {
        chunk({ content: at === 0 ? words[at] : ` ${words[at]}` }, null);
        this.#later(exchange, tokenDelayMs, () => say(at + 1));
        return;
      }
      chunk({}, "stop");
      if (wantsUsage) event(JSON.stringify({ ...base, object: "chat.completion.chunk", choices: [], usage }));
      event("[DONE]");
      this.#end(exchange, () => exchange.handlers.end(), "completed");
    };
    this.#later(exchange, tokenDelayMs, () => say(0));
  }

  #json(exchange: Exchange, status: number, body: object): void {
    exchange.handlers.head({ status, headers: { "content-type": "application/json" } });
    if (!exchange.over) exchange.handlers.data(Buffer.from(JSON.stringify(body)));
    this.#end(exchange, () => exchange.handlers.end(), status === 200 ? "completed" : "error");
  }

  #later(exchange: Exchange, ms: number, then: () => void): void {
    this.#options.clock.setTimer(() => {
      if (!exchange.over) then();
    }, ms);
  }

  #end(exchange: Exchange, last: () => void, outcome = "aborted"): void {
    if (exchange.over) return;
    exchange.over = true;
    this.#open.delete(exchange);
    const { job } = exchange;
    if (job !== undefined) this.#options.onRequest({ event: "end", id: job, outcome });
    last();
  }
}
