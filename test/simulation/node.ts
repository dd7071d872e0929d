import { Agent, type AgentOptions } from "../../src/agent/agent.ts";
import { readIdentity } from "../../src/agent/identity.ts";
import type { Http, Ports, Transport } from "../../src/agent/ports.ts";
import type { Logger } from "../../src/lib/logger.ts";
import { type AccountKey, mintBinding } from "../../src/protocol/binding.ts";
import type { NodeId, SigningKey } from "../../src/protocol/keys.ts";
import type { TestNetwork } from "../agent/fixture/network.ts";
import { SimDisk } from "./disk.ts";
import { SimEngine } from "./engine.ts";
import type { ServiceHttp } from "./http.ts";
import { keyNamed } from "./keys.ts";
import { Link } from "./network.ts";
import { SimProcess } from "./process.ts";
import type { Dice } from "./random.ts";
import { type Acceptor, SimSocket, type SocketWatcher } from "./socket.ts";
import type { World } from "./world.ts";

/** Base URL of the service in every world. */
export const serviceUrl = "http://io.sim";

/** What a host needs of the world around it. */
export interface NodeSurroundings {
  readonly world: World;
  readonly network: TestNetwork;
  readonly account: string;
  readonly accountKey: AccountKey;
  readonly acceptor: Acceptor;
  readonly http: ServiceHttp;
  readonly watcher: SocketWatcher;
  readonly log: (name: string) => Logger;
}

/** One host: a real agent on simulated ports, its engine, its disk, its way to the service. */
export class SimNode {
  readonly name: string;
  readonly nodeId: NodeId;
  readonly key: SigningKey;
  readonly account: string;
  readonly network: string;
  readonly link: Link;
  readonly disk: SimDisk;
  readonly engine: SimEngine;
  readonly clock: { skewMs: number };
  /** How far its clock is off when nobody meddles with it, ms: minutes, as on hosts without NTP. */
  readonly usualSkewMs: number;
  /** Countersigned receipts that the agent was given. */
  readonly earned: string[] = [];
  process: SimProcess | undefined;
  agent: Agent | undefined;
  /** Agents that were started so far. */
  lives = 0;
  /** Changes what the agent sends, as a node with other software may; undefined = honest. */
  tamper: ((text: string) => readonly string[]) | undefined;
  /** The newest connection. */
  socket: SimSocket | undefined;
  readonly #around: NodeSurroundings;
  readonly #dice: Dice;
  /** Its host is without power. */
  dark = false;

  constructor(name: string, around: NodeSurroundings) {
    const { world, network, account, accountKey } = around;
    this.name = name;
    this.#around = around;
    this.account = account;
    this.network = network.name;
    this.#dice = world.dice.fork(name);
    this.usualSkewMs = this.#dice.between(-100_000, 100_000);
    this.clock = { skewMs: this.usualSkewMs };
    this.link = new Link(world, name, this.#dice.fork("link"));
    this.disk = new SimDisk(this.#dice.fork("disk"));
    this.engine = new SimEngine(world, name, this.#dice.fork("engine"), this.disk);
    const { jwk, key } = keyNamed(name);
    this.key = key;
    this.nodeId = String(key.kid) as NodeId;
    const binding = mintBinding(accountKey, network.name, account, this.nodeId);
    this.disk.set("/identity/key.jwk", Buffer.from(JSON.stringify(jwk)));
    this.disk.set("/identity/binding.json", Buffer.from(JSON.stringify(binding)));
    this.disk.set("/identity/root.json", Buffer.from(JSON.stringify(network.rootStatement)));
    this.disk.onChange = (path, content) => {
      if (path === "/launch/generation" && content) this.engine.point(content.toString());
      this.onDisk(path, content);
    };
  }

  /** Told of each durable change of its disk. */
  onDisk: (path: string, content: Buffer | undefined) => void = () => {};

  /** Starts the agent. Nothing happens if one runs. */
  start(): void {
    if (this.dark || this.process?.alive === true) return;
    this.lives++;
    const { world, log, network } = this.#around;
    const process = new SimProcess(world, this.name, this.clock);
    this.process = process;
    const dice = this.#dice.fork(`life ${this.lives}`);
    let port = 20_000 + this.lives * 100;
    const ports: Ports = {
      clock: process.clock,
      random: { number: dice.number, bytes: dice.bytes },
      transport: this.#transport(process),
      http: this.#http(process),
      files: this.disk.open(process),
      host: { freePort: () => Promise.resolve(port++), cpus: 4, memoryMib: 1024 },
      log: log(this.name),
    };
    readIdentity(ports.files, "/identity", network.name)
      .then((identity) => {
        const options: AgentOptions = {
          identity,
          agentVersion: "1.0.0",
          endpoints: [serviceUrl],
          stateDir: "/state",
          launchDir: "/launch",
          networkDir: "/network",
          podDir: undefined,
          drainTimeoutMs: 5_000,
          receipts: { delegated: () => {}, keep: (countersign) => void this.earned.push(countersign) },
        };
        this.agent = new Agent(ports, options);
        return this.agent.start();
      })
      .catch((error: unknown) => {
        // Its process ends with this error, and is started again.
        if (!(error instanceof Error && error.message.includes("ENOSPC"))) return world.fail(error);
        this.kill();
        world.plan(2_000, `${this.name} starts again`, () => this.start());
      });
  }

  /** SIGKILL. Its engine runs on. */
  kill(): void {
    this.agent = undefined;
    this.process?.kill();
  }

  /** The host goes dark: nothing of it is heard, also by its peers' systems, until {@link powerOn}. */
  powerOff(): void {
    this.dark = true;
    this.link.block("up");
    this.link.block("down");
    this.kill();
    this.engine.off();
  }

  powerOn(): void {
    if (!this.dark) return;
    this.dark = false;
    this.link.heal();
    this.engine.boot();
    this.start();
  }

  /** SIGTERM: drains, says goodbye, ends; its supervisor starts it again after `ms`. */
  leave(ms: number): void {
    const { agent, process } = this;
    if (!agent || process?.alive !== true) return;
    const { world } = this.#around;
    const left = () => {
      if (this.process !== process) return;
      this.kill();
      world.plan(ms, `${this.name} starts again`, () => this.start());
    };
    agent.leave().then(left, (error: unknown) => world.fail(error));
  }

  #transport(process: SimProcess): Transport {
    const { acceptor, watcher } = this.#around;
    return {
      dial: (_url, handlers) => {
        const socket = new SimSocket(this.link, process, handlers, acceptor, watcher);
        this.socket = socket;
        const end = socket.socket;
        return {
          send: (text) => {
            for (const each of this.tamper?.(text) ?? [text]) end.send(each);
          },
          close: (code, reason) => end.close(code, reason),
          terminate: () => end.terminate(),
          get buffered() {
            return end.buffered;
          },
        };
      },
    };
  }

  #http(process: SimProcess): Http {
    return {
      request: (request, handlers) =>
        new URL(request.url).hostname === "127.0.0.1"
          ? this.engine.request(process, request, handlers)
          : this.#around.http.request({ link: this.link, process, name: this.name }, request, handlers),
    };
  }
}
