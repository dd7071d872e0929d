import type { ServerResponse } from "node:http";
import type { FastifyInstance } from "fastify";
import type { HttpExchange, HttpHandlers, HttpRequest } from "../../src/agent/ports.ts";
import { type Cuttable, type Link, Pipe } from "./network.ts";
import type { SimProcess } from "./process.ts";
import type { World } from "./world.ts";

/** The service's HTTP as it runs now. */
export interface HttpServer {
  readonly process: SimProcess | undefined;
  readonly app: FastifyInstance | undefined;
}

/** Who asks, and over which way. */
export interface Asker {
  readonly name: string;
  readonly link: Link;
  readonly process: SimProcess;
}

/** Header by which a response is found again, so that its connection can be cut. */
const idHeader = "x-simulated";

/** What answers in place of the service: a mirror or a cache on the way. */
export type Interceptor = (
  asker: Asker,
  request: HttpRequest,
) => { status: number; body: string } | undefined;

/** Told of each answer that the service begins. */
export type AnswerWatcher = (
  asker: Asker,
  request: HttpRequest,
  answer: { readonly status: number; readonly headers: Readonly<Record<string, unknown>> },
) => void;

/** HTTP to the real service: over links, into its fastify, without sockets. */
export class ServiceHttp {
  intercept: Interceptor = () => undefined;
  onAnswer: AnswerWatcher = () => {};
  readonly #world: World;
  readonly #server: HttpServer;
  readonly #responses = new Map<string, ServerResponse>();
  #count = 0;

  constructor(world: World, server: HttpServer) {
    this.#world = world;
    this.#server = server;
  }

  /** To be called for each new instance, before it is ready. */
  attach(app: FastifyInstance): void {
    app.addHook("onRequest", (request, reply, done) => {
      const id = request.headers[idHeader];
      if (typeof id === "string") {
        this.#responses.set(id, reply.raw);
        reply.raw.once("close", () => this.#responses.delete(id));
      }
      done();
    });
  }

  request(asker: Asker, request: HttpRequest, handlers: HttpHandlers): HttpExchange {
    const exchange = new SimExchange(asker, handlers, () => this.#server.process);
    const id = String(++this.#count);
    const stop = () => {
      this.#responses.get(id)?.destroy();
      this.#world.usesHttp();
    };
    const path = request.url.replace(/^https?:\/\/[^/]+/, "");
    exchange.up.send(
      `${asker.name} ${request.method} ${path}`,
      () => {
        if (exchange.over) return;
        const instead = this.intercept(asker, request);
        if (instead) return exchange.answer(instead.status, {}, [instead.body]);
        this.#ask(id, asker, request, exchange);
      },
      () => exchange.refused("ECONNREFUSED"),
    );
    return {
      abort: () => {
        if (exchange.over) return;
        exchange.forget();
        exchange.up.send("abort", stop);
      },
      pause: () => {},
      resume: () => {},
    };
  }

  #ask(id: string, asker: Asker, request: HttpRequest, exchange: SimExchange): void {
    const { app, process } = this.#server;
    if (!app || !process) return exchange.refused("ECONNREFUSED");
    exchange.servedBy(process);
    this.#world.usesHttp();
    const { method, headers, body } = request;
    app
      .inject({
        method,
        url: request.url.replace(/^https?:\/\/[^/]+/, ""),
        headers: { ...headers, [idHeader]: id },
        ...(body !== undefined && { payload: typeof body === "string" ? body : Buffer.from(body) }),
        remoteAddress: asker.name,
        payloadAsStream: true,
      })
      .then((response) => {
        if (!process.alive) return undefined;
        this.onAnswer(asker, request, { status: response.statusCode, headers: response.headers });
        exchange.head(response.statusCode, response.headers);
        const stream = response.stream();
        stream.on("data", (bytes: Buffer) => exchange.data(bytes));
        stream.on("end", () => exchange.end());
        return stream.on("error", () => exchange.refused("the connection was cut in mid-answer"));
      })
      .catch(() => exchange.refused("the connection was cut"));
  }
}

class SimExchange implements Cuttable {
  readonly up: Pipe;
  readonly #down: Pipe;
  readonly #asker: Asker;
  readonly #handlers: HttpHandlers;
  /** The asker hears nothing more. */
  over = false;
  #server: SimProcess | undefined;

  constructor(asker: Asker, handlers: HttpHandlers, server: () => SimProcess | undefined) {
    this.#asker = asker;
    this.#handlers = handlers;
    this.up = new Pipe(asker.link, "up", server);
    this.#down = new Pipe(asker.link, "down", () => asker.process);
    asker.link.sockets.add(this);
    asker.process.onDeath(() => this.forget());
  }

  servedBy(process: SimProcess): void {
    this.#server = process;
    process.onDeath(() => this.refused("ECONNRESET"));
  }

  forget(): void {
    this.over = true;
    this.#asker.link.sockets.delete(this);
  }

  answer(status: number, headers: Record<string, string>, body: readonly string[]): void {
    this.head(status, headers);
    for (const part of body) this.data(Buffer.from(part));
    this.end();
  }

  head(status: number, headers: Readonly<Record<string, number | string | string[] | undefined>>): void {
    const told = Object.fromEntries(
      Object.entries(headers).map(([name, value]) => [
        name,
        typeof value === "number" ? String(value) : value,
      ]),
    );
    this.#tell(`HTTP ${status}`, () => this.#handlers.head({ status, headers: told }));
  }

  data(bytes: Buffer): void {
    this.#tell(`data ${bytes.length}`, () => this.#handlers.data(bytes));
  }

  end(): void {
    this.#tell("end", () => {
      this.forget();
      this.#handlers.end();
    });
  }

  refused(why: string): void {
    this.#tell("failed", () => {
      this.forget();
      this.#handlers.failed(new Error(why));
    });
  }

  #tell(label: string, tell: () => void): void {
    this.#down.send(`${this.#asker.name} ${label}`, () => {
      if (!this.over) tell();
    });
  }

  cut(): void {
    this.up.silence();
    this.#down.silence();
    this.#asker.process.plan(this.#asker.link.delay, `${this.#asker.name} HTTP cut`, () => {
      if (this.over) return;
      this.forget();
      this.#handlers.failed(new Error("ECONNRESET"));
    });
  }

  silence(): void {
    this.up.silence();
    this.#down.silence();
  }

  get server(): SimProcess | undefined {
    return this.#server;
  }
}
