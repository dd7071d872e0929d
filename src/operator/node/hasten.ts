import { request } from "node:http";
import { keyOf } from "../../kube/object.ts";
import { messageOf } from "../../lib/errors.ts";
import type { Logger } from "../../lib/logger.ts";
import { agentPort } from "../../protocol/status.ts";
import type { NodeMemories } from "./memory.ts";
import type { NodeObservation } from "./observation.ts";

/** Longest wait for the agent's answer, ms; by then it is known whether to try again. */
const timeoutMs = 1_000;
const againMs = timeoutMs + 200;
/** When to try again once its time is over anyway: its host may be lost, and the pod ending for hours. */
const lateMs = 30_000;

/**
 * Tells the agent of a pod that ends to drain within `ms`, outside the worker. Where a planned drain runs already, no annotation
 * reaches it before that is over. Returns when to look again whether it has heard; undefined once it has.
 */
export function hasten(
  { logger, memories }: { readonly logger: Logger; readonly memories: NodeMemories },
  { node, pod }: NodeObservation,
  ms: number,
): number | undefined {
  const memory = memories.of(keyOf(node));
  if (!pod?.ip || !memory.identity || memory.hastened === pod.uid) return undefined;
  const { uid, ip } = pod;
  memory.hastened = uid;
  post(ip, memory.identity.drainToken, ms).catch((error: unknown) => {
    if (memory.hastened === uid) memory.hastened = "";
    logger.warn({ node: keyOf(node), error: messageOf(error) }, "the agent was not told to make haste");
  });
  return ms > 0 ? againMs : lateMs;
}

function post(host: string, token: string, ms: number): Promise<void> {
  const headers = { authorization: `Bearer ${token}` };
  const path = `/drain?within=${Math.round(ms)}`;
  const options = { host, port: agentPort, path, method: "POST", headers, agent: false as const };
  return new Promise((resolve, reject) => {
    const asked = request({ ...options, timeout: timeoutMs }, (answer) => {
      answer.resume();
      if (answer.statusCode === 202) resolve();
      else reject(new Error(`POST /drain answers ${answer.statusCode}`));
    });
    asked.once("timeout", () => asked.destroy(new Error(`no answer within ${timeoutMs} ms`)));
    asked.once("error", reject);
    asked.end();
  });
}
