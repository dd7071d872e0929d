/** The network's view of the nodes, as the fleet feed of a scripted IO service tells it: connected while an agent lives. */
import type { BegunAgent } from "../../testbed/kubelet/memory/agent-program.ts";
import type { FeedNode } from "../../../src/protocol/feed.ts";
import type { ScriptedIo } from "../../operator/network/scripted-io.ts";

export class NetworkView {
  readonly #io: ScriptedIo;
  readonly #lines = new Map<string, FeedNode>();
  #served = 0;

  constructor(io: ScriptedIo) {
    this.#io = io;
  }

  /** An agent has begun: the network sees it until it ends. */
  agentBegan({ identity, life }: BegunAgent): void {
    const { nodeId, key } = identity;
    const before = this.#lines.get(nodeId);
    const epoch = (before?.epoch ?? 0) + 1;
    const line: FeedNode = {
      type: "node",
      node_id: nodeId,
      kid: key.kid,
      connected: true,
      since: Date.now(),
      epoch,
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
    this.#tell(line);
    life.onEnd(() => {
      if (this.#lines.get(nodeId)?.epoch === epoch)
        this.#tell({ ...line, connected: false, since: Date.now() });
    });
  }

  /** Greets feeds that were opened since the last call with all that is known. */
  serve(): void {
    for (; this.#served < this.#io.feeds.length; this.#served++) {
      const feed = this.#io.feeds[this.#served];
      for (const line of this.#lines.values()) feed?.line(line);
      feed?.line({ type: "synced" });
    }
  }

  /** A sign of life to all feeds. */
  ping(): void {
    for (const feed of this.#io.feeds.slice(0, this.#served)) feed.line({ type: "ping", time: Date.now() });
  }

  #tell(line: FeedNode): void {
    this.#lines.set(line.node_id, line);
    for (const feed of this.#io.feeds.slice(0, this.#served)) feed.line(line);
  }
}
