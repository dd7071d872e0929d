import { createHash } from "node:crypto";
import { type Logger, logLevels } from "../../src/lib/logger.ts";
import { type AccountKey, parseAccountKey } from "../../src/protocol/binding.ts";
import type { Statement } from "../../src/protocol/config/statement.ts";
import { pino } from "pino";
import { type Config, TestNetwork } from "../agent/fixture/network.ts";
import { SimClient } from "./client.ts";
import { type SeenFrame, Witness } from "./happenings.ts";
import { ServiceHttp } from "./http.ts";
import { allInvariants } from "./invariants.ts";
import { keyNamed } from "./keys.ts";
import { SimNode } from "./node.ts";
import { worldBegin } from "./process.ts";
import { SimService } from "./service.ts";
import type { SimSocket } from "./socket.ts";
import { StoreDisk } from "./store.ts";
import { World } from "./world.ts";

const accounts: readonly (readonly [string, AccountKey])[] = ["acme", "umbrella"].map((name) => {
  const key = parseAccountKey(createHash("sha256").update(name).digest("base64url"));
  if (!key) throw new Error("no account key");
  return [name, key];
});
const network = new TestNetwork("testnet", (use) => keyNamed(`testnet ${use}`).key);
/** Another network whose config keys are in the same hands. */
const otherNetwork = new TestNetwork("othernet", (use) => keyNamed(`testnet ${use}`).key);
const day = 86_400_000;

interface Published {
  readonly network: string;
  readonly statement: Statement;
  readonly allowed: readonly string[];
  readonly current: string;
}

/** How large a world is. */
export interface SceneSize {
  readonly nodes: number;
  readonly strays: number;
}

/** What a report of a failure shows. */
export interface Telling {
  /** Logs of agents and service from this level on. Default: none. */
  readonly logLevel?: (typeof logLevels)[number];
  /** Steps. Default 60. */
  readonly trace?: number | undefined;
}

/** Everything that there is in one world. */
export class Scene {
  readonly world: World;
  readonly network = network;
  readonly otherNetwork = otherNetwork;
  readonly service: SimService;
  readonly http: ServiceHttp;
  readonly witness: Witness;
  readonly nodes: readonly SimNode[];
  /** Nodes of another network that were given this service's address. */
  readonly strays: readonly SimNode[];
  readonly clients: readonly SimClient[];
  /** All releases signed so far, by sequence. */
  readonly releases = new Map<number, Published>();
  readonly accounts = accounts;
  /** Jobs with a receipt, at the end. */
  readonly committed = new Set<string>();
  /** The faults have stopped. */
  calm = false;
  /** Faults that wait for a frame. */
  readonly ambushes = new Set<(frame: SeenFrame) => void>();
  readonly #configs: Config[] = [];
  readonly #nodeOf = new Map<string, SimNode>();
  readonly #level: string;

  constructor(seed: number, size: SceneSize, telling: Telling = {}) {
    this.#level = telling.logLevel ?? "silent";
    this.world = new World(seed, telling.trace);
    const { world } = this;
    this.witness = new Witness(
      (socket) => this.nodeOf(socket),
      allInvariants({ network: network.name, releases: this.releases }),
    );
    this.witness.onSent = (frame) => {
      for (const ambush of this.ambushes) ambush(frame);
    };
    world.check = () => this.witness.check();
    const log = (name: string) => this.#log(name);
    this.service = new SimService(world, network, new StoreDisk(world.dice.fork("store"), this.witness), log);
    this.http = new ServiceHttp(world, this.service);
    this.service.http = this.http;
    this.http.onAnswer = (_asker, { url }, { status, headers }) => {
      if (status === 202) this.witness.saw({ is: "promised", job: String(headers["x-request-id"]) });
      const answered = status === 200 ? /\/v1\/jobs\/([^/]+)\/result$/.exec(url)?.[1] : undefined;
      if (answered !== undefined) this.witness.saw({ is: "answered", job: answered });
    };
    const make = (name: string, of: TestNetwork, at: number) => {
      const [account, accountKey] = accounts[at % accounts.length] ?? ["", Buffer.alloc(32) as AccountKey];
      const around = {
        world,
        network: of,
        account,
        accountKey,
        acceptor: this.service,
        http: this.http,
        watcher: this.witness,
        log,
      };
      const node = new SimNode(name, around);
      node.onDisk = (path, content) => this.witness.saw({ is: "disk", node, path, content });
      this.#nodeOf.set(name, node);
      return node;
    };
    this.nodes = Array.from({ length: size.nodes }, (_, at) => make(`n${at}`, network, at));
    this.strays = Array.from({ length: size.strays }, (_, at) => make(`stray${at}`, otherNetwork, at));
    this.clients = ["ann", "bob", "cy"].map(
      (name) => new SimClient(world, name, world.dice.fork(name), this.http, () => this.service.lives),
    );
  }

  nodeOf(socket: SimSocket): SimNode {
    const node = this.#nodeOf.get(socket.agent.name);
    if (!node) throw new Error(`no node ${socket.agent.name}`);
    return node;
  }

  #log(name: string): Logger {
    if (this.#level === "silent") return pino({ level: "silent" });
    const write = (line: string) => this.world.note(`log ${name} ${line.trim()}`);
    return pino({ level: this.#level, base: null, timestamp: false }, { write });
  }

  /** Fills the store as the network's keepers would have. */
  async found(): Promise<void> {
    const { kept } = this.service.disk;
    const config = this.#config();
    const release = this.#sign([config]);
    await kept.write([
      { put: "root", version: 1, statement: network.rootStatement },
      { put: "delegation", statement: network.delegation(worldBegin, network.service, 30 * day) },
      { put: "snapshot", digest: config.digest, text: config.bytes.toString() },
      { put: "release", sequence: 1, statement: release.statement },
      ...accounts.map(([id, key]) => ({ put: "account" as const, id, key: key.toString("base64url") })),
      ...this.clients.map(({ consumer, key }) => ({
        put: "apikey" as const,
        sha256: createHash("sha256").update(key).digest("hex"),
        consumer,
        createdAt: worldBegin,
      })),
    ]);
  }

  /** A release of the other network, newer than any of this one. */
  otherRelease(): Statement {
    return otherNetwork.release(1_000, otherNetwork.config(), worldBegin);
  }

  get newest(): number {
    return this.releases.size;
  }

  /** A new config: the engine needs a restart for every other one. */
  #config(): Config {
    const count = this.#configs.length + 1;
    const config = network.config({
      version: String(count),
      command: ["/engine", "--port", "{port}", "--generation", String(count >> 1)],
    });
    this.#configs.push(config);
    return config;
  }

  #sign(configs: readonly Config[]): Published {
    const sequence = this.releases.size + 1;
    const [current] = configs;
    if (!current) throw new Error("a release allows at least one config");
    const allowed = configs.map(({ digest }) => ({ digest, expires: worldBegin + 30 * day }));
    const published = {
      network: network.name,
      statement: network.release(sequence, current, worldBegin, { allowed }),
      allowed: allowed.map(({ digest }) => digest),
      current: current.digest,
    };
    this.releases.set(sequence, published);
    return published;
  }

  /** The network publishes: a new config, the one before withdrawn or still allowed. */
  publish(withdraw: boolean): void {
    const { io, process } = this.service;
    if (!io || !process) return;
    const before = this.#configs.at(-1);
    const config = this.#config();
    const { statement } = this.#sign(withdraw || !before ? [config] : [config, before]);
    // All of them: a crash of the service may have lost those of the publication before.
    const texts = this.#configs.map(({ bytes }) => bytes.toString());
    io.config.publish(statement, texts).catch((error: unknown) => {
      if (process.alive) this.world.fail(error);
    });
  }

  /** The network's keepers ban a node, or let it in again. */
  ban(node: SimNode, reason: string | null): void {
    const { io, process } = this.service;
    io?.ban(node.nodeId, reason).catch((error: unknown) => {
      if (process?.alive === true) this.world.fail(error);
    });
  }

  /** Lets in again whom nobody has let in: the service was away when it should have been done. */
  unbanAll(): void {
    for (const node of this.nodes)
      if (this.service.io?.nodes.get(node.nodeId)?.banned != null) this.ban(node, null);
  }

  /** Publishes the newest release again where a crash of the service has lost it. */
  republish(): void {
    const newest = this.releases.get(this.newest);
    const { io } = this.service;
    if (!newest || !io || io.config.release?.release.sequence === this.newest) return;
    const texts = this.#configs.map(({ bytes }) => bytes.toString());
    io.config.publish(newest.statement, texts).catch((error: unknown) => this.world.fail(error));
  }
}
