/** The agent of `src/agent` as a program in memory: wired as `src/cmd/agent.ts` does it, one of many in this process. */
import { Agent } from "../../../../src/agent/agent.ts";
import { systemRandom } from "../../../../src/agent/edge/host.ts";
import { nodeHttp } from "../../../../src/agent/edge/http.ts";
import { wsTransport } from "../../../../src/agent/edge/transport.ts";
import { agentMetrics } from "../../../../src/agent/endpoints/metrics.ts";
import { serveEndpoints } from "../../../../src/agent/endpoints/server.ts";
import { type NodeIdentity, readIdentity } from "../../../../src/agent/identity.ts";
import type { Http, Ports, Transport } from "../../../../src/agent/ports.ts";
import { readCommandLine } from "../../../../src/agent/standalone/command-line.ts";
import { resolveSettings } from "../../../../src/agent/standalone/settings.ts";
import { type Clock, systemClock } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import { type Logger, silentLogger } from "../../../../src/lib/logger.ts";
import { version } from "../../../../src/lib/version.ts";
import { type Life, mortalClock, mortalHttp, mortalTransport } from "./life.ts";
import type { MemoryPod } from "./pod.ts";
import type { MemoryContainer, ProgramInMemory } from "./program.ts";

/** What the agents of an image share. All have defaults: this machine's own. */
export interface AgentProgramOptions {
  readonly clock?: Clock;
  /** Sessions with the service. Default: WebSockets. */
  readonly transport?: Transport;
  /** Requests to the service. Default: HTTP. */
  readonly http?: Http;
  readonly log?: Logger;
  /** Default: that of the source. */
  readonly agentVersion?: string;
  /** Told of each agent that begins; `life` is that of its process. */
  readonly onAgent?: (begun: BegunAgent) => void;
}

/** An agent that has begun. */
export interface BegunAgent {
  readonly pod: MemoryPod;
  readonly agent: Agent;
  readonly identity: NodeIdentity;
  readonly life: Life;
}

/** Real agents on the pod's address; the engine is what the pod has on its loopback interface. Weights are not kept. */
export function agentProgram(options: AgentProgramOptions = {}): ProgramInMemory {
  const { clock = systemClock, log = silentLogger, agentVersion = version } = options;
  const outside: Outside = {
    clock,
    log,
    agentVersion,
    transport: options.transport ?? wsTransport({}),
    http: options.http ?? nodeHttp({}),
    onAgent: options.onAgent ?? (() => {}),
  };
  return (container) => {
    let agent: Agent | undefined;
    begin(container, outside).then(
      (begun) => (agent = begun),
      (thrown: unknown) => container.exit(1, `agent: ${messageOf(thrown)}`),
    );
    return {
      term() {
        if (!agent) return container.exit(143);
        agent.leave().then(
          () => container.exit(0),
          (thrown: unknown) => container.exit(1, messageOf(thrown)),
        );
      },
    };
  };
}

type Outside = Required<AgentProgramOptions>;

async function begin(container: MemoryContainer, outside: Outside): Promise<Agent> {
  const { pod, life, files, args, env } = container;
  const [first, ...rest] = args;
  const line = await readCommandLine(first === "run" ? rest : args, env);
  const settings = resolveSettings(line.sources);
  const log = outside.log.child({ node: settings.nodeName });
  const ports: Ports = {
    clock: mortalClock(outside.clock, life),
    random: systemRandom,
    transport: mortalTransport(outside.transport, life),
    http: mortalHttp(podHttp(pod, outside.http), life),
    files,
    host: { freePort: () => Promise.resolve(pod.freePort()), cpus: 8, memoryMib: 65_536 },
    log,
  };
  const identity = await readIdentity(files, settings.identityDir, settings.network);
  const agent = new Agent(ports, {
    ...settings,
    receipts: undefined,
    identity,
    agentVersion: outside.agentVersion,
  });
  const { listen } = settings;
  const server = await serveEndpoints(
    agent,
    listen,
    () => Promise.resolve(agentMetrics(agent)),
    () => identity.keys.known,
  );
  life.onEnd(() => {
    server.closeAllConnections();
    server.close();
    pod.probe = undefined;
  });
  if (life.over) throw new Error("ended while it began");
  pod.probe = (port, path) => {
    if (port !== listen.port) return undefined;
    if (path === "/startup") return agent.started ? 200 : 503;
    if (path === "/ready") return agent.ready ? 200 : 503;
    return undefined;
  };
  outside.onAgent({ pod, agent, identity, life });
  await agent.start();
  return agent;
}

/** What goes to 127.0.0.1 meets what listens there in the pod; the rest is the world's. */
function podHttp(pod: MemoryPod, outside: Http): Http {
  return {
    request(request, handlers) {
      const { hostname, port } = new URL(request.url);
      if (hostname !== "127.0.0.1") return outside.request(request, handlers);
      const local = pod.loopback.get(Number(port));
      if (local) return local.request(request, handlers);
      // The IO service of a test listens on loopback too: ports below those of engines are this machine's.
      if (!pod.isOwnPort(Number(port))) return outside.request(request, handlers);
      const refused = setImmediate(() =>
        handlers.failed(new Error(`connect ECONNREFUSED 127.0.0.1:${port}`)),
      );
      return { abort: () => clearImmediate(refused), pause: () => {}, resume: () => {} };
    },
  };
}
