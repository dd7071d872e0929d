// oxlint-disable oxc/no-async-endpoint-handlers -- fastify awaits its handlers
import type { FastifyInstance } from "fastify";
import { nodeIdField } from "../../protocol/fields.ts";
import { paths } from "../../protocol/http.ts";
import type { NodeId } from "../../protocol/keys.ts";
import type { AccountRequests } from "../account-requests.ts";
import type { Nodes } from "../nodes.ts";
import type { Store } from "../store/port.ts";

/** What the revocation of keys needs of the service. */
export interface RevokeParts {
  readonly nodes: Nodes;
  readonly store: Store;
  readonly accountRequests: AccountRequests;
  /** Makes the node's key void; resolves when that is on the disk. */
  readonly revoke: (node: NodeId) => Promise<unknown>;
}

/** `POST /v1/fleet/nodes/<node_id>/revoke`: an account makes the key of one of its nodes void. */
export function revokeRoute(app: FastifyInstance, parts: RevokeParts): void {
  const { nodes, store, accountRequests } = parts;
  app.post<{ Params: { node: string } }>(paths.revoke(":node"), async (request, reply) => {
    const { url: path, headers } = request;
    const asked = accountRequests.check({ method: "POST", path, authorization: headers.authorization });
    if ("refused" in asked) return reply.code(401).send({ error: asked.refused });
    if (!store.healthy)
      return reply.code(503).header("retry-after", "5").send({ error: "the store is away" });
    const id = nodeIdField.safeParse(request.params.node);
    const node = id.success ? nodes.get(id.data) : undefined;
    if (node?.account !== asked.account)
      return reply.code(404).send({ error: "the account has no such node" });
    await parts.revoke(node.nodeId);
    return { node_id: node.nodeId, generation: node.generation };
  });
}
