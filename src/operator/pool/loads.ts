import { randomBytes } from "node:crypto";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { keyOf } from "../../kube/object.ts";
import { openStatus } from "../../protocol/status.ts";
import type { OperatorContext } from "../context.ts";
import { type FetchStatus, fetchStatus } from "../node/agent-status.ts";
import { readIdentity } from "../node/identity.ts";

/**
 * How many jobs nodes have now, by name, as their agents say it, signed. Who does not answer within two seconds is left out.
 *
 * @param fetch a test puts its own in place.
 */
export async function readLoads(
  { client, caches }: Pick<OperatorContext, "client" | "caches">,
  nodes: readonly ResultityNode[],
  signal: AbortSignal,
  fetch: FetchStatus = fetchStatus,
): Promise<ReadonlyMap<string, number>> {
  const loads = new Map<string, number>();
  await Promise.all(
    nodes.map(async (node) => {
      const ip = caches.pods.store.get(keyOf(node))?.status?.podIP;
      if (!ip) return;
      try {
        const identity = await readIdentity(client, node, signal);
        if (!identity) return;
        const nonce = randomBytes(32).toString("base64url");
        const { report } = openStatus(await fetch(ip, nonce), identity.keys, nonce);
        loads.set(node.metadata.name, report.load.active);
      } catch {
        // What is not known is taken for busy: the choice is made without it.
      }
    }),
  );
  return loads;
}
