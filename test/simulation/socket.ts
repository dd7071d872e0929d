import type { Socket, SocketHandlers } from "../../src/agent/ports.ts";
import type { Wire, WireListener } from "../../src/io/sessions/wire.ts";
import { type Cuttable, type Direction, type Link, Pipe } from "./network.ts";
import type { SimProcess } from "./process.ts";

/** Whoever takes connections of nodes. */
export interface Acceptor {
  readonly process: SimProcess | undefined;
  /** Takes a connection, or says why not. */
  accept(socket: SimSocket): string | undefined;
}

/** Who sees what goes over a socket; gives a word for the trace. */
export interface SocketWatcher {
  sent(socket: SimSocket, direction: Direction, text: string): string;
  arrived(socket: SimSocket, direction: Direction, text: string): void;
  /** An end closes or drops it. */
  ended(socket: SimSocket, by: Direction, code: number): void;
}

/** How long a sender sends into nothing until its own system gives up, ms. */
const giveUpMs = 45_000;

/** A WebSocket between an agent and the service, over a link. */
export class SimSocket implements Cuttable {
  readonly link: Link;
  readonly agent: SimProcess;
  service: SimProcess | undefined;
  /** The newest frame in each direction that has gone out. */
  readonly newest: Partial<Record<Direction, string>> = {};
  readonly #watcher: SocketWatcher;
  readonly #handlers: SocketHandlers;
  #listener: WireListener | undefined;
  readonly #pipes: Readonly<Record<Direction, Pipe>>;
  readonly #open: Record<Direction, boolean> = { up: true, down: true };
  readonly #unsent: Record<Direction, number> = { up: 0, down: 0 };
  readonly #givingUp = new Set<Direction>();

  constructor(
    link: Link,
    agent: SimProcess,
    handlers: SocketHandlers,
    acceptor: Acceptor,
    watcher: SocketWatcher,
  ) {
    this.link = link;
    this.agent = agent;
    this.#handlers = handlers;
    this.#watcher = watcher;
    this.#pipes = {
      up: new Pipe(link, "up", () => this.service ?? acceptor.process),
      down: new Pipe(link, "down", () => agent),
    };
    link.sockets.add(this);
    agent.onDeath(() => this.#dropped("up"));
    const refuse = (why: string) => this.#pipes.down.send("refused", () => this.#agentClosed(1006, why));
    this.#pipes.up.send(
      `${agent.name} dials`,
      () => {
        const process = acceptor.process;
        if (!process || !this.#open.up) return;
        this.service = process;
        process.onDeath(() => this.#dropped("down"));
        const why = acceptor.accept(this);
        if (why !== undefined) refuse(why);
      },
      () => refuse("ECONNREFUSED"),
    );
  }

  /** The agent's end. */
  get socket(): Socket {
    const unsent = () => this.#unsent.up;
    return {
      send: (text) => this.send("up", text),
      close: (code, reason) => this.#close("up", code, reason),
      terminate: () => this.#terminate("up"),
      get buffered() {
        return unsent();
      },
    };
  }

  /** The service's end. */
  get wire(): Wire {
    const unsent = () => this.#unsent.down;
    // The handshake of the WebSocket itself.
    this.#pipes.down.send(`${this.agent.name} connected`, () =>
      this.#open.up ? this.#handlers.opened() : undefined,
    );
    return {
      hear: (listener) => (this.#listener = listener),
      send: (text) => this.send("down", text),
      close: (code, reason) => this.#close("down", code, reason),
      terminate: () => this.#terminate("down"),
      get buffered() {
        return unsent();
      },
    };
  }

  get open(): boolean {
    return this.#open.up && this.#open.down;
  }

  /** Sends as the end that speaks in this direction. */
  send(direction: Direction, text: string): void {
    if (!this.#open[direction]) return;
    const word = this.#watcher.sent(this, direction, text);
    this.newest[direction] = text;
    const pipe = this.#pipes[direction];
    if (pipe.silent) this.#giveUp(direction);
    this.#unsent[direction] += text.length;
    const arrive = () => {
      this.#unsent[direction] -= text.length;
      if (!this.#open[direction === "up" ? "down" : "up"]) return;
      this.#watcher.arrived(this, direction, text);
      if (direction === "up") this.#listener?.message(text);
      else this.#handlers.message(text);
    };
    const label = `${this.agent.name} ${direction} ${word} ${text.slice(-6)}`;
    pipe.send(label, arrive, () => this.#gone(direction));
  }

  cut(): void {
    for (const direction of ["up", "down"] as const) {
      const process = direction === "up" ? this.agent : this.service;
      process?.plan(this.link.delay, `${this.agent.name} cut`, () => this.#lost(direction, "cut"));
    }
    this.#pipes.up.silence();
    this.#pipes.down.silence();
  }

  silence(direction: Direction): void {
    this.#pipes[direction].silence();
  }

  #giveUp(direction: Direction): void {
    if (this.#givingUp.has(direction)) return;
    this.#givingUp.add(direction);
    const process = direction === "up" ? this.agent : this.service;
    process?.plan(giveUpMs, `${this.agent.name} gives up`, () => this.#lost(direction, "ETIMEDOUT"));
  }

  /** What was sent has met no process: its system answers that there is no such connection. */
  #gone(direction: Direction): void {
    const back = direction === "up" ? "down" : "up";
    this.#pipes[back].send("reset", () => this.#lost(direction, "ECONNRESET"));
  }

  /** The process at an end is dead: its system tells the other. */
  #dropped(end: Direction): void {
    if (!this.#open[end]) return;
    this.#open[end] = false;
    this.link.sockets.delete(this);
    this.#pipes[end].send("reset", () => this.#lost(end === "up" ? "down" : "up", "ECONNRESET"));
  }

  #lost(end: Direction, why: string): void {
    if (end === "up") this.#agentClosed(1006, why);
    else this.#serviceClosed(1006);
  }

  #close(end: Direction, code: number, reason: string): void {
    if (!this.#open[end]) return;
    this.#watcher.ended(this, end, code);
    const other = end === "up" ? "down" : "up";
    this.#pipes[end].send(`close ${code}`, () => {
      if (other === "up") this.#agentClosed(code, reason);
      else this.#serviceClosed(code);
      this.#pipes[other].send("closed", () => {
        if (end === "up") this.#agentClosed(code, reason);
        else this.#serviceClosed(code);
      });
    });
  }

  #terminate(end: Direction): void {
    if (!this.#open[end]) return;
    this.#watcher.ended(this, end, 1006);
    const process = end === "up" ? this.agent : this.service;
    process?.plan(0, "terminated", () => this.#lost(end, "terminated"));
    this.#pipes[end].send("reset", () => this.#lost(end === "up" ? "down" : "up", "ECONNRESET"));
  }

  #agentClosed(code: number, reason: string): void {
    if (!this.#open.up) return;
    this.#open.up = false;
    this.link.sockets.delete(this);
    this.#handlers.closed(code, reason);
  }

  #serviceClosed(code: number): void {
    if (!this.#open.down) return;
    this.#open.down = false;
    this.link.sockets.delete(this);
    this.#listener?.closed(code);
  }
}
