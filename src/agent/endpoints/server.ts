import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { isBytes32, type VerifyKey } from "../../protocol/keys.ts";
import { envelopeContentType } from "../../protocol/http.ts";
import { openDrainToken } from "../../protocol/status.ts";
import type { Agent } from "../agent.ts";

/** Prometheus' text, made when it is asked for. */
export interface MetricsText {
  readonly contentType: string;
  text(): Promise<string>;
}

/**
 * The agent's local endpoints, on the pod's IP: probes, `preStop`, signed status, metrics. They change nothing but for
 * `/drain`, which is reversible. With `?within=<ms>` it is answered at once, and gives the drain that long at most: for a
 * pod that is evicted while a planned stop drains it.
 *
 * @param drainKeys keys one of which must have signed the token of a drain: everyone on the pod's network reaches the
 *   endpoints, and nobody but the kubelet may keep a node from its jobs. Undefined = no operator, no token.
 */
export function serveEndpoints(
  agent: Agent,
  listen: { readonly host: string; readonly port: number },
  metrics: () => Promise<MetricsText>,
  drainKeys?: () => readonly VerifyKey[],
): Promise<Server> {
  const limits = {
    maxHeaderSize: 8 * 1024,
    // Whoever reaches the pod's network can open connections: idle ones must not take the places of probes for long.
    headersTimeout: 3_000,
    requestTimeout: 5_000,
    connectionsCheckingInterval: 1_000,
  };
  const server = createServer(limits, (request, response) => {
    answer(agent, metrics, drainKeys, request, response).catch(() => response.destroy());
  });
  server.maxConnections = 256;
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(listen.port, listen.host, () => {
      server.off("error", reject);
      resolve(server);
    });
  });
}

async function answer(
  agent: Agent,
  metrics: () => Promise<MetricsText>,
  drainKeys: (() => readonly VerifyKey[]) | undefined,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const url = new URL(request.url ?? "/", "http://agent");
  // Bodies are never read: nothing here takes one.
  request.resume();
  const within = url.searchParams.get("within");
  switch (url.pathname) {
    case "/startup":
      return say(response, agent.started ? 200 : 503, agent.started ? "started" : "no verified config yet");
    case "/ready":
      return agent.ready ? say(response, 200, "ready") : say(response, 503, notReady(agent));
    case "/drain":
      if (drainKeys && !authorised(request, drainKeys()))
        return say(response, 401, "authorization: the token of the pod's preStop hook is missing or wrong");
      if (within !== null) {
        if (!/^\d{1,7}$/.test(within)) return say(response, 400, "query within: milliseconds");
        void agent.drain("stop", Number(within));
        return say(response, 202, "draining");
      }
      await agent.drainForStop();
      return say(response, 200, "drained");
    case "/status": {
      const nonce = url.searchParams.get("nonce") ?? "";
      if (!isBytes32(nonce)) return say(response, 400, "query nonce: 32 random bytes in base64url");
      return say(response, 200, agent.status(nonce), envelopeContentType);
    }
    case "/metrics": {
      const registry = await metrics();
      return say(response, 200, await registry.text(), registry.contentType);
    }
    default:
      return say(response, 404, "not found");
  }
}

function authorised(request: IncomingMessage, drainKeys: readonly VerifyKey[]): boolean {
  try {
    openDrainToken(request.headers.authorization, drainKeys);
    return true;
  } catch {
    return false;
  }
}

function notReady(agent: Agent): string {
  const { engine, load } = agent.report();
  return `engine ${engine.health}; ${load.reason ?? "models are not loaded yet"}`;
}

function say(response: ServerResponse, status: number, text: string, contentType = "text/plain"): void {
  response.writeHead(status, { "content-type": contentType, "cache-control": "no-store" });
  response.end(text.endsWith("\n") || contentType !== "text/plain" ? text : `${text}\n`);
}
