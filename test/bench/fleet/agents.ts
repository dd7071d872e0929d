import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createServer, type Server } from "node:net";
import type { Client } from "../../../src/kube/client.ts";
import { Reflector } from "../../../src/kube/reflector.ts";
import { type Pod, type Secret, secrets } from "../../../src/kube/resources.ts";
import { nodeLabel } from "../../../src/operator/names.ts";
import { type Desired, desiredAnnotation, parseDesired } from "../../../src/protocol/desired.ts";
import type { FeedNode } from "../../../src/protocol/feed.ts";
import {
  importPrivateKey,
  type NodeId,
  type PrivateJwk,
  type SigningKey,
} from "../../../src/protocol/keys.ts";
import { agentPort, type AgentStatus, sealStatus } from "../../../src/protocol/status.ts";
import type { ScriptedIo } from "../../operator/network/scripted-io.ts";
import { until } from "../../testbed/until.ts";

/** Between two looks whether somebody reads the feed, ms. */
const feedMs = 50;

/**
 * The agents of a fleet, in this process: each answers on an address of its own with the key of its identity Secret, does at once what
 * its pod's annotation says, and is known to the network, whose feed this serves.
 */
export class PlayedAgents {
  readonly #client: Client;
  readonly #io: ScriptedIo;
  readonly #secrets: Reflector<Secret>;
  readonly #byUid = new Map<string, Promise<PlayedAgent>>();
  readonly #byAddress = new Map<string, PlayedAgent>();
  readonly #addresses = new Map<string, string>();
  readonly #lines = new Map<string, FeedNode>();
  readonly #http = createHttpServer((request, response) => this.#answer(request, response));
  readonly #servers: Server[] = [];
  readonly #unused: string[] = [];
  #next = 0;
  #feedsServed = 0;

  constructor(client: Client, io: ScriptedIo) {
    this.#client = client;
    this.#io = io;
    this.#secrets = new Reflector({ client, resource: secrets, labelSelector: nodeLabel });
  }

  /** Until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const feeding = setInterval(() => this.#serveFeeds(), feedMs);
    await this.#secrets.run(signal);
    clearInterval(feeding);
    this.#http.closeAllConnections();
    for (const server of this.#servers) server.close();
  }

  /** The agent in a node's pod, which begins with the first question; undefined where the pod is not a node's. */
  of(pod: Pod): Promise<PlayedAgent | undefined> {
    const { uid, labels, namespace = "" } = pod.metadata;
    const node = labels?.[nodeLabel];
    if (node === undefined) return Promise.resolve(undefined);
    let agent = this.#byUid.get(uid);
    if (!agent) {
      agent = this.#start(pod, namespace, node);
      this.#byUid.set(uid, agent);
    }
    return agent;
  }

  /** Tells the agent what its pod says now. */
  see(pod: Pod): void {
    void this.#byUid.get(pod.metadata.uid)?.then((agent) => agent.read(pod));
  }

  /** Address of a pod whose agent has begun. */
  addressOf({ metadata }: Pod): string | undefined {
    return this.#addresses.get(metadata.uid);
  }

  /** The pod is gone. */
  forget({ metadata }: Pod): void {
    this.#byUid.delete(metadata.uid);
    const address = this.#addresses.get(metadata.uid);
    if (address === undefined) return;
    this.#addresses.delete(metadata.uid);
    this.#byAddress.delete(address);
    this.#unused.push(address);
  }

  async #start(pod: Pod, namespace: string, node: string): Promise<PlayedAgent> {
    const [key, address] = await Promise.all([
      this.#keyOf(namespace, node),
      this.#address(pod.status?.podIP),
    ]);
    const agent = new PlayedAgent(key);
    agent.read(pod);
    this.#addresses.set(pod.metadata.uid, address);
    this.#byAddress.set(address, agent);
    this.#lines.set(agent.nodeId, agent.line);
    for (const feed of this.#io.feeds.slice(0, this.#feedsServed)) feed.line(agent.line);
    return agent;
  }

  async #keyOf(namespace: string, node: string): Promise<SigningKey> {
    const name = `${node}-identity`;
    const known = this.#secrets.store.get(`${namespace}/${name}`);
    const secret = known ?? (await this.#client.get(secrets, { namespace, name }));
    const jwk: PrivateJwk = JSON.parse(Buffer.from(secret.data?.["key.jwk"] ?? "", "base64").toString());
    return importPrivateKey(jwk);
  }

  /** An address of loopback on which something listens now: that of a pod that ran before, or one that nobody else has. */
  async #address(known: string | undefined): Promise<string> {
    if (known !== undefined) return this.#listen(known);
    const used = this.#unused.pop();
    if (used !== undefined) return used;
    return until("a free address", () => {
      const at = this.#next++;
      return this.#listen(`127.${100 + ((at / 62_500) | 0)}.${((at / 250) | 0) % 250}.${1 + (at % 250)}`);
    });
  }

  async #listen(address: string): Promise<string> {
    const server = createServer((socket) => this.#http.emit("connection", socket));
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen(agentPort, address, resolve);
    });
    this.#servers.push(server);
    return address;
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const agent = this.#byAddress.get(request.socket.localAddress ?? "");
    if (!agent) {
      response.writeHead(404).end();
      return;
    }
    response.end(agent.status(new URL(request.url ?? "/", "http://x").searchParams.get("nonce") ?? ""));
  }

  #serveFeeds(): void {
    for (; this.#feedsServed < this.#io.feeds.length; this.#feedsServed++) {
      const feed = this.#io.feeds[this.#feedsServed];
      for (const line of this.#lines.values()) feed?.line(line);
      feed?.line({ type: "synced" });
    }
    if (performance.now() - this.#pinged < 10_000) return;
    this.#pinged = performance.now();
    for (const feed of this.#io.feeds) feed.line({ type: "ping", time: Date.now() });
  }
  #pinged = 0;
}

/** One agent. */
export class PlayedAgent {
  readonly nodeId: NodeId;
  readonly line: FeedNode;
  readonly #key: SigningKey;
  #desired: Desired | undefined;
  #applied: Desired["target"] = null;
  #state: "starting" | "serving" | "draining" = "starting";

  constructor(key: SigningKey) {
    this.#key = key;
    // The first key names the node, and this one has had no other.
    this.nodeId = String(key.kid) as NodeId;
    this.line = {
      type: "node",
      node_id: this.nodeId,
      kid: key.kid,
      connected: true,
      since: Date.now(),
      epoch: 1,
      deprioritised_until: null,
      banned: null,
      generation: 0,
      revoked: false,
      conflict: null,
      config_applied: null,
      models_active: ["tiny"],
      jobs_committed: 0,
      work: { config: null, completed: 0, failed: 0, duration_ms: 0 },
    };
  }

  /** Reads the orders that the pod has. While it drains nothing new reaches it, as with a kubelet. */
  read({ metadata }: Pod): void {
    if (this.#state === "draining") return;
    const orders = metadata.annotations?.[desiredAnnotation];
    if (orders === undefined) return;
    this.#desired = parseDesired(orders);
    // What needs another engine is applied when that serves.
    if (this.#state === "serving" && this.#desired.plannedStop === null) this.#applied = this.#desired.target;
  }

  /** Its engine takes no more jobs. */
  drain(): void {
    this.#state = "draining";
  }

  /** Its engine is up, with the config that the agent was told last. */
  serve(): void {
    this.#state = "serving";
    this.#applied = this.#desired?.target ?? null;
  }

  /** The signed answer to `GET /status?nonce=`. */
  status(nonce: string): string {
    const serving = this.#state === "serving";
    const status: AgentStatus = {
      nonce,
      time: Date.now(),
      node_id: this.nodeId,
      instance: "A".repeat(22),
      desired_revision: this.#desired?.revision ?? 0,
      report: {
        agent_version: "0.1.0",
        engine: {
          type: "openai",
          version: "1.0",
          image: null,
          health: serving ? "healthy" : "starting",
        },
        hardware: { cpus: 1, memory_mib: 1, gpus: [] },
        config: {
          applied: this.#applied,
          target: this.#desired?.target ?? null,
          staged: this.#desired?.stage ?? null,
          release_sequence: 1,
        },
        models: { installed: ["tiny"], active: serving ? ["tiny"] : [] },
        load: { slots: 1, active: 0, accepting: serving },
        subclouds: [],
      },
      config_error: null,
      drain: { state: this.#state === "draining" ? "draining" : "serving", jobs: 0, since: null },
      session: { connected: true, since: null, epoch: 1, last_error: null },
    };
    return sealStatus(status, this.#key);
  }
}
