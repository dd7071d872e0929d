import type { HttpExchange, HttpHandlers, HttpRequest } from "../../src/agent/ports.ts";
import type { Dice } from "./random.ts";
import type { SimDisk } from "./disk.ts";
import type { SimProcess } from "./process.ts";
import type { World } from "./world.ts";

/** One request for an answer that an engine has worked on. */
export interface Run {
  readonly id: string;
  readonly node: string;
  /** The engine was told the job's id. */
  readonly job: string;
  /** The client's own mark of its request. */
  readonly mark: string;
  readonly stream: boolean;
  readonly padding: number;
  /** All that it has said so far, as it went out. */
  said: string;
  /** It has said everything, `[DONE]` included. */
  whole: boolean;
}

/** How an engine behaves. `ill`: any of its requests may go wrong in any way. */
export type EngineMood = "well" | "slow" | "ill" | "hanging";

interface Exchange {
  readonly process: SimProcess;
  readonly handlers: HttpHandlers;
  /** The engine says nothing more. */
  cut: boolean;
  /** The agent hears nothing more. */
  over: boolean;
}

const ways = ["500", "429", "404", "garbage", "no-done", "cut", "silent", "crash", "not-a-stream"] as const;

/** An OpenAI-compatible engine and its launcher, beside an agent on one host. It outlives the agent. */
export class SimEngine {
  readonly runs: Run[] = [];
  mood: EngineMood = "well";
  readonly #world: World;
  readonly #name: string;
  readonly #dice: Dice;
  readonly #disk: SimDisk;
  #port = 0;
  #models: readonly string[] = [];
  #generation = 0;
  #crashes = 0;
  #starts = 1;
  /** Counts processes: what an older one had planned does not happen. */
  #life = 0;
  #up = false;
  readonly #open = new Set<Exchange>();

  constructor(world: World, name: string, dice: Dice, disk: SimDisk) {
    this.#world = world;
    this.#name = name;
    this.#dice = dice;
    this.#disk = disk;
  }

  /** The agent has pointed the launcher at a generation. */
  point(text: string): void {
    const number = Number(/^\d+/.exec(text)?.[0] ?? 0);
    if (number === this.#generation || !text.includes("now")) return;
    this.#generation = number;
    this.#begin();
  }

  /** The process ends by itself; its launcher starts it again. */
  crash(): void {
    if (this.#generation === 0) return;
    this.#crashes++;
    this.#begin();
  }

  /** The host goes off: nothing of it is left; `boot` brings it back. */
  off(): void {
    this.#end();
    this.#life++;
  }

  /** Its pod is gone, and another begins: nothing runs before an agent points at it. */
  gone(): void {
    this.off();
    this.#generation = 0;
    this.#crashes = 0;
    this.#starts = 1;
  }

  boot(): void {
    this.#starts++;
    if (this.#generation > 0) this.#begin();
  }

  #end(): void {
    this.#up = false;
    for (const exchange of this.#open) this.#fail(exchange, "ECONNRESET");
    this.#open.clear();
  }

  #begin(): void {
    this.#end();
    const life = ++this.#life;
    this.#tell("backoff");
    this.#world.plan(this.#dice.between(200, 2_000), `${this.#name} engine starts`, () => {
      if (life !== this.#life) return;
      const engine = this.#disk.text(`/launch/gen/${this.#generation}/engine.json`);
      if (engine === undefined) return;
      const { port, models } = JSON.parse(engine) as { port: number; models: string[] };
      this.#port = port;
      this.#models = models;
      this.#up = true;
      this.#tell("running");
    });
  }

  #tell(phase: string): void {
    const line = `${this.#starts} ${this.#generation} 77 ${this.#crashes} ${this.#crashes > 0 ? 139 : -1} ${phase}`;
    this.#disk.set("/launch/run/state", Buffer.from(line));
  }

  /** A request of the agent's process, over loopback. */
  request(process: SimProcess, request: HttpRequest, handlers: HttpHandlers): HttpExchange {
    const exchange: Exchange = { process, handlers, cut: false, over: false };
    const stop = process.onDeath(() => {
      exchange.cut = exchange.over = true;
      this.#open.delete(exchange);
    });
    process.plan(this.#dice.between(0.1, 1), "", () => {
      if (exchange.over) return;
      const { port, pathname } = new URL(request.url);
      if (!this.#up || Number(port) !== this.#port) return this.#fail(exchange, "ECONNREFUSED");
      this.#open.add(exchange);
      if (this.mood === "hanging") return;
      if (pathname === "/v1/chat/completions") this.#complete(process, request, exchange);
      else this.#answer(exchange, 200, this.#about(pathname));
    });
    return {
      abort: () => {
        exchange.cut = exchange.over = true;
        this.#open.delete(exchange);
        stop();
      },
      pause: () => {},
      resume: () => {},
    };
  }

  #about(path: string): string {
    if (path === "/v1/models") return JSON.stringify({ data: this.#models.map((id) => ({ id })) });
    return path === "/version" ? '{"version":"9"}' : "{}";
  }

  #complete(process: SimProcess, request: HttpRequest, exchange: Exchange): void {
    const body = JSON.parse(String(request.body)) as {
      stream?: boolean;
      max_tokens: number;
      /** Bytes that the answer is to be longer. */
      padding?: number;
      messages: [{ content: string }];
    };
    const run: Run = {
      id: `${this.#name}r${this.runs.length}`,
      node: this.#name,
      job: request.headers?.["x-request-id"] ?? "",
      mark: body.messages[0].content,
      stream: body.stream === true,
      padding: body.padding ?? 0,
      said: "",
      whole: false,
    };
    this.runs.push(run);
    const way = this.mood === "ill" && this.#dice.chance(0.6) ? this.#dice.pick(ways) : undefined;
    const gap = this.#dice.between(5, 60) * (this.mood === "slow" ? 15 : 1);
    const first = this.#dice.between(20, 300) * (this.mood === "slow" ? 15 : 1);
    if (way === "silent") return;
    process.plan(first, "", () => {
      if (way === "500" || way === "429" || way === "404")
        return this.#answer(exchange, Number(way), '{"error":{}}');
      if (way === "garbage") return this.#answer(exchange, 200, "<html>not JSON", run.stream);
      if (way === "not-a-stream") {
        run.said = '{"choices":[]}';
        run.whole = true;
        return this.#answer(exchange, 200, run.said);
      }
      if (run.stream) this.#stream(process, exchange, run, body.max_tokens, gap, way);
      else this.#whole(process, exchange, run, body.max_tokens, gap, way);
    });
  }

  #whole(
    process: SimProcess,
    exchange: Exchange,
    run: Run,
    tokens: number,
    gap: number,
    way: string | undefined,
  ): void {
    process.plan(gap * tokens, "", () => {
      if (exchange.cut) return;
      if (way !== undefined) return way === "crash" ? this.crash() : this.#fail(exchange, "socket hang up");
      const content = Array.from({ length: tokens }, (_, at) => `${run.id}.${at}`).join(" ");
      const usage = { prompt_tokens: 3, completion_tokens: tokens };
      const padding = "y".repeat(run.padding);
      run.said = JSON.stringify({ choices: [{ message: { role: "assistant", content } }], usage, padding });
      run.whole = true;
      this.#answer(exchange, 200, run.said);
    });
  }

  #stream(
    process: SimProcess,
    exchange: Exchange,
    run: Run,
    tokens: number,
    gap: number,
    way: string | undefined,
  ): void {
    if (exchange.cut) return;
    exchange.handlers.head({ status: 200, headers: { "content-type": "text/event-stream" } });
    const breaksAt = way === undefined ? -1 : this.#dice.int(0, tokens);
    const say = (at: number): void => {
      if (exchange.cut) return;
      if (at === breaksAt) {
        if (way === "crash") return this.crash();
        if (way === "cut") return this.#fail(exchange, "socket hang up");
        return this.#finish(exchange);
      }
      let text = `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: `${run.id}.${at} ` } }] })}\n\n`;
      if (at === tokens) {
        const usage = { prompt_tokens: 3, completion_tokens: tokens };
        text = `data: ${JSON.stringify({ choices: [], usage })}\n\ndata: [DONE]\n\n`;
      }
      run.said += text;
      run.whole = at === tokens;
      // Where the network cuts it is nobody's choice.
      const cut = this.#dice.int(0, text.length);
      if (cut > 0) exchange.handlers.data(Buffer.from(text.slice(0, cut)));
      if (!exchange.over && cut < text.length) exchange.handlers.data(Buffer.from(text.slice(cut)));
      if (run.whole) this.#finish(exchange);
      else process.plan(gap, "", () => say(at + 1));
    };
    say(0);
  }

  #answer(exchange: Exchange, status: number, body: string, asEvents = false): void {
    if (exchange.cut) return;
    const type = asEvents ? "text/event-stream" : "application/json";
    exchange.handlers.head({ status, headers: { "content-type": type } });
    if (!exchange.over) exchange.handlers.data(Buffer.from(body));
    this.#finish(exchange);
  }

  #finish(exchange: Exchange): void {
    this.#open.delete(exchange);
    exchange.cut = true;
    if (exchange.over) return;
    exchange.over = true;
    exchange.handlers.end();
  }

  #fail(exchange: Exchange, why: string): void {
    this.#open.delete(exchange);
    exchange.cut = true;
    exchange.process.plan(0.1, "", () => {
      if (exchange.over) return;
      exchange.over = true;
      exchange.handlers.failed(new Error(why));
    });
  }
}
