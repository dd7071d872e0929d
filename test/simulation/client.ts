import type { HttpExchange } from "../../src/agent/ports.ts";
import type { ServiceHttp } from "./http.ts";
import { Link } from "./network.ts";
import { serviceUrl } from "./node.ts";
import { SimProcess } from "./process.ts";
import type { Dice } from "./random.ts";
import type { World } from "./world.ts";

/** One request of a client for an answer, and what came of it. */
export interface Request {
  /** The client's own mark, which is its prompt. */
  readonly mark: string;
  readonly stream: boolean;
  /** Job as the service has named it in its answer; "" = it has not. */
  job: string;
  status: number;
  text: string;
  /** `ended`: the answer came to its end. `failed`: the connection broke. `left`: the client went away. */
  state: "open" | "ended" | "failed" | "left";
  /** Times of the service's process when it was sent, and when it was over: whether it died in between. */
  readonly serviceLife: number;
  serviceLifeAtEnd: number;
}

/** A consumer with an API key. */
export class SimClient {
  readonly consumer: string;
  readonly key: string;
  readonly requests: Request[] = [];
  readonly #process: SimProcess;
  readonly #link: Link;
  readonly #http: ServiceHttp;
  readonly #life: () => number;

  constructor(world: World, consumer: string, dice: Dice, http: ServiceHttp, life: () => number) {
    this.consumer = consumer;
    this.key = `key-of-${consumer}-0123456789`;
    this.#process = new SimProcess(world, consumer, { skewMs: 0 });
    this.#link = new Link(world, consumer, dice.fork("link"));
    this.#http = http;
    this.#life = life;
  }

  get open(): readonly Request[] {
    return this.requests.filter(({ state }) => state === "open");
  }

  /** @param leaveAfter ms after which the client goes away, if it is still waiting. */
  ask(stream: boolean, tokens: number, leaveAfter?: number): Request {
    const mark = `${this.consumer}-${this.requests.length}`;
    const request: Request = {
      mark,
      stream,
      job: "",
      status: 0,
      text: "",
      state: "open",
      serviceLife: this.#life(),
      serviceLifeAtEnd: 0,
    };
    this.requests.push(request);
    const over = (state: Request["state"]) => {
      if (request.state !== "open") return;
      request.state = state;
      request.serviceLifeAtEnd = this.#life();
    };
    const body = JSON.stringify({
      model: "m1",
      ...(stream && { stream }),
      max_tokens: tokens,
      messages: [{ role: "user", content: mark }],
    });
    const exchange: HttpExchange = this.#http.request(
      { name: this.consumer, link: this.#link, process: this.#process },
      {
        method: "POST",
        url: `${serviceUrl}/v1/chat/completions`,
        headers: { authorization: `Bearer ${this.key}`, "content-type": "application/json" },
        body,
      },
      {
        head: ({ status, headers }) => {
          request.status = status;
          request.job = String(headers["x-request-id"] ?? "");
        },
        data: (bytes) => (request.text += Buffer.from(bytes).toString()),
        end: () => over("ended"),
        failed: () => over("failed"),
      },
    );
    if (leaveAfter !== undefined) {
      this.#process.plan(leaveAfter, `${this.consumer} leaves`, () => {
        if (request.state !== "open") return;
        over("left");
        exchange.abort();
      });
    }
    return request;
  }
}
