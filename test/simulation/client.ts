import type { HttpExchange, HttpHandlers } from "../../src/agent/ports.ts";
import type { ServiceHttp } from "./http.ts";
import { Link } from "./network.ts";
import { serviceUrl } from "./node.ts";
import { SimProcess } from "./process.ts";
import type { Dice } from "./random.ts";
import { Violation, type World } from "./world.ts";

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

/** One asynchronous job of a client: submitted until it is taken, then looked at until it is over. */
export interface AsyncRequest {
  readonly mark: string;
  /** Job as the 202 has named it; "" = no 202 has come yet. */
  job: string;
  /** How it ended, as `GET /v1/jobs/<id>` said; "" = it has not. */
  status: string;
  /** Answer to `GET /v1/jobs/<id>/result`. */
  result: { readonly status: number; readonly text: string } | undefined;
}

/** What a client asks for. */
export interface Wanted {
  readonly tokens: number;
  /** Bytes that the prompt is longer, and that the answer is longer. */
  readonly padding?: { readonly prompt: number; readonly answer: number } | undefined;
}

interface Answer {
  readonly status: number;
  readonly text: string;
}

/** How often a client that has no answer yet asks again, ms. */
const askAgainMs = { from: 500, to: 3_000 };
/** States of a job that it does not leave. */
const overStates: ReadonlySet<string> = new Set([
  "completed",
  "failed",
  "cancelled",
  "expired",
  "interrupted",
]);

/** A consumer with an API key. */
export class SimClient {
  readonly consumer: string;
  readonly key: string;
  readonly requests: Request[] = [];
  readonly asyncRequests: AsyncRequest[] = [];
  readonly #process: SimProcess;
  readonly #link: Link;
  readonly #http: ServiceHttp;
  readonly #life: () => number;
  readonly #dice: Dice;

  constructor(world: World, consumer: string, dice: Dice, http: ServiceHttp, life: () => number) {
    this.consumer = consumer;
    this.key = `key-of-${consumer}-0123456789`;
    this.#process = new SimProcess(world, consumer, { skewMs: 0 });
    this.#link = new Link(world, consumer, dice.fork("link"));
    this.#http = http;
    this.#life = life;
    this.#dice = dice;
  }

  /** Requests and jobs that have not come to their end. */
  get open(): number {
    const waiting = this.requests.filter(({ state }) => state === "open").length;
    return waiting + this.asyncRequests.filter(({ result }) => result === undefined).length;
  }

  #body(mark: string, { tokens, padding }: Wanted, stream: boolean): string {
    return JSON.stringify({
      model: "m1",
      ...(stream && { stream }),
      max_tokens: tokens,
      ...(padding && { padding: padding.answer }),
      messages: [{ role: "user", content: mark }],
      ...(padding && { filler: "x".repeat(padding.prompt) }),
    });
  }

  #request(
    method: "GET" | "POST",
    path: string,
    more: { readonly headers?: Record<string, string>; readonly body?: string },
    handlers: HttpHandlers,
  ): HttpExchange {
    const { headers, body } = more;
    return this.#http.request(
      { name: this.consumer, link: this.#link, process: this.#process },
      {
        method,
        url: `${serviceUrl}${path}`,
        headers: {
          authorization: `Bearer ${this.key}`,
          ...(body !== undefined && { "content-type": "application/json" }),
          ...headers,
        },
        ...(body !== undefined && { body }),
      },
      handlers,
    );
  }

  /** @param leaveAfter ms after which the client goes away, if it is still waiting. */
  ask(stream: boolean, wanted: Wanted, leaveAfter?: number): Request {
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
    const body = this.#body(mark, wanted, stream);
    const exchange = this.#request(
      "POST",
      "/v1/chat/completions",
      { body },
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

  /** Submits an asynchronous job, again and again until it is taken, and looks at it until it is over. */
  submit(wanted: Wanted, cancelAfter?: number): AsyncRequest {
    const mark = `${this.consumer}-async-${this.asyncRequests.length}`;
    const request: AsyncRequest = { mark, job: "", status: "", result: undefined };
    this.asyncRequests.push(request);
    this.#submitting(request, this.#body(mark, wanted, false));
    if (cancelAfter !== undefined)
      this.#process.plan(cancelAfter, `${this.consumer} cancels`, () => {
        if (request.job !== "") this.#whole("POST", `/v1/jobs/${request.job}/cancel`, {}, () => {});
      });
    return request;
  }

  #submitting(request: AsyncRequest, body: string): void {
    const headers = { prefer: "respond-async", "idempotency-key": request.mark };
    this.#whole("POST", "/v1/chat/completions", { headers, body }, (answer) => {
      if (answer?.status !== 202) return this.#later(() => this.#submitting(request, body));
      request.job = (JSON.parse(answer.text) as { id: string }).id;
      this.#looking(request);
    });
  }

  #looking(request: AsyncRequest): void {
    this.#later(() =>
      this.#whole("GET", `/v1/jobs/${request.job}`, {}, (answer) => {
        if (answer?.status === 404) throw new Violation("I3", `job ${request.job} was taken, and is unknown`);
        const { status = "" } = answer?.status === 200 ? (JSON.parse(answer.text) as { status: string }) : {};
        if (!overStates.has(status)) return this.#looking(request);
        if (request.status !== "" && request.status !== status)
          throw new Violation("I2", `job ${request.job} was ${request.status}, and is ${status}`);
        request.status = status;
        this.#fetching(request);
      }),
    );
  }

  #fetching(request: AsyncRequest): void {
    this.#whole("GET", `/v1/jobs/${request.job}/result`, {}, (answer) => {
      // A service that cannot tell now (it begins, its store is away) is asked again.
      const tellsNothing = !answer || (answer.status === 503 && request.status !== "expired");
      if (tellsNothing) return this.#later(() => this.#fetching(request));
      request.result = answer;
    });
  }

  #later(act: () => void): void {
    const { from, to } = askAgainMs;
    this.#process.plan(this.#dice.between(from, to), "", act);
  }

  /** Collects a whole answer; undefined = the connection broke. */
  #whole(
    method: "GET" | "POST",
    path: string,
    more: { readonly headers?: Record<string, string>; readonly body?: string },
    then: (answer: Answer | undefined) => void,
  ): void {
    let status = 0;
    const parts: Uint8Array[] = [];
    this.#request(method, path, more, {
      head: (head) => (status = head.status),
      data: (bytes) => parts.push(bytes),
      end: () => then({ status, text: Buffer.concat(parts).toString() }),
      failed: () => then(undefined),
    });
  }
}
