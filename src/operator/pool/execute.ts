import { apiVersion } from "../../api/v1alpha1/meta.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import { poolNames } from "../../api/v1alpha1/names.ts";
import { isKubeError, KubeError } from "../../kube/errors.ts";
import type { Expectations } from "../../kube/expectations.ts";
import { keyOf, type OwnerReference } from "../../kube/object.ts";
import { podDisruptionBudgets, secrets } from "../../kube/resources.ts";
import { identitySecretOf, nodes, type OperatorContext } from "../context.ts";
import { poolLabel, poolManager } from "../names.ts";
import { childLabels, childSpec, removingAnnotation } from "./child.ts";
import { refusalOf } from "./refusal.ts";
import type { PoolAction } from "./plan.ts";

/** Writes at once within one reconcile. */
const parallelWrites = 8;

/** Carries out a pool's plan. What fails is thrown after the rest has been tried: the next reconcile sees what is left. */
export async function executePool(
  context: OperatorContext,
  expectations: Expectations,
  pool: ResultityNodePool,
  actions: readonly PoolAction[],
  signal: AbortSignal,
): Promise<void> {
  const errors: unknown[] = [];
  const queue = [...inOrder(actions)];
  const worker = async () => {
    for (let group = queue.shift(); group && !signal.aborted; group = queue.shift()) {
      try {
        for (const action of group) await execute(context, expectations, pool, action, signal);
      } catch (error) {
        errors.push(error);
      }
    }
  };
  await Promise.all(Array.from({ length: parallelWrites }, worker));
  // What may pass by itself is tried again sooner than what a person has to mend.
  if (errors.length > 0) throw errors.find((error) => !refusalOf(error)) ?? errors[0];
}

/** Actions on one child go one after the other, those on different children side by side. */
function inOrder(actions: readonly PoolAction[]): Iterable<PoolAction[]> {
  const groups = new Map<string, PoolAction[]>();
  for (const action of actions) {
    const name = "child" in action ? action.child.metadata.name : action.type === "create" ? action.name : "";
    const group = groups.get(name);
    if (group) group.push(action);
    else groups.set(name, [action]);
  }
  return groups.values();
}

async function execute(
  context: OperatorContext,
  expectations: Expectations,
  pool: ResultityNodePool,
  action: PoolAction,
  signal: AbortSignal,
): Promise<void> {
  const { client, caches, logger } = context;
  const key = keyOf(pool);
  const { namespace } = pool.metadata;
  const write = { signal, fieldManager: poolManager };
  logger.info(
    {
      pool: key,
      action: action.type,
      object:
        "child" in action ? action.child.metadata.name : "name" in action ? action.name : pool.metadata.name,
      reason: action.reason,
    },
    "pool action",
  );
  switch (action.type) {
    case "create": {
      const draft = childDraft(pool, action.name);
      try {
        expectations.wrote(
          key,
          caches.nodes,
          await client.create(nodes, { ...draft, spec: { ...draft.spec, replicas: 1 } }, write),
        );
      } catch (error) {
        // Ours, from a create whose answer was lost, or somebody else's: the cache will tell, and this ordinal is taken.
        if (!isKubeError(error, "AlreadyExists")) throw error;
        const existing = await client.get(nodes, { namespace, name: action.name }, { signal });
        expectations.wrote(key, caches.nodes, existing);
      }
      return;
    }
    case "update": {
      const { name, uid } = action.child.metadata;
      const draft = childDraft(pool, name);
      const applied = await client.apply(nodes, { ...draft, metadata: { ...draft.metadata, uid } }, write);
      expectations.wrote(key, caches.nodes, applied);
      return;
    }
    case "retire":
    case "revive": {
      const leaving = action.type === "retire";
      const { uid, resourceVersion, name } = action.child.metadata;
      const patch = {
        metadata: { uid, resourceVersion, annotations: { [removingAnnotation]: leaving ? "true" : null } },
        spec: { replicas: leaving ? 0 : 1 },
      };
      expectations.wrote(
        key,
        caches.nodes,
        await client.mergePatch(nodes, { namespace, name }, patch, write),
      );
      return;
    }
    case "delete": {
      const { uid, resourceVersion, name } = action.child.metadata;
      if (pool.spec.identityRetention === "Delete") {
        // The Secret has no precondition on the node: what a stale cache shows must not cost a successor its identity.
        const live = await client.find(nodes, { namespace, name }, { signal });
        if (live && live.metadata.resourceVersion !== resourceVersion)
          throw new KubeError("Conflict", `node ${name} changed since it was looked at`);
        if (live) await disownIdentity(context, action.child, signal);
      }
      try {
        await client.delete(nodes, { namespace, name }, { preconditions: { uid, resourceVersion }, signal });
      } catch (error) {
        if (!isKubeError(error, "NotFound")) throw error;
      }
      expectations.deleted(key, caches.nodes, action.child);
      return;
    }
    case "target": {
      const { name, uid } = action.child.metadata;
      const draft = { metadata: { namespace, name, uid }, status: { config: { target: action.digest } } };
      expectations.wrote(key, caches.nodes, await client.applyStatus(nodes, draft, write));
      return;
    }
    case "prepare": {
      const { name, uid } = action.child.metadata;
      const { target } = action.child.status?.config ?? {};
      const config = {
        ...(target === undefined ? {} : { target }),
        ...(action.digest === undefined ? {} : { next: action.digest }),
      };
      const draft = { metadata: { namespace, name, uid }, status: { config } };
      expectations.wrote(key, caches.nodes, await client.applyStatus(nodes, draft, write));
      return;
    }
    case "budget": {
      const draft = {
        metadata: {
          namespace,
          name: pool.metadata.name,
          labels: { [poolLabel]: pool.metadata.name },
          ownerReferences: [ownerOf(pool)],
        },
        spec: {
          minAvailable: action.minAvailable,
          selector: { matchLabels: { [poolLabel]: pool.metadata.name } },
          unhealthyPodEvictionPolicy: "AlwaysAllow",
        },
      };
      expectations.wrote(key, caches.budgets, await client.apply(podDisruptionBudgets, draft, write));
    }
  }
}

/** A child as the pool has it. */
function childDraft(pool: ResultityNodePool, name: string) {
  const { template } = pool.spec;
  return {
    metadata: {
      namespace: pool.metadata.namespace,
      name,
      labels: childLabels(pool),
      ...(template.metadata?.annotations ? { annotations: template.metadata.annotations } : {}),
      ownerReferences: [ownerOf(pool)],
    },
    spec: childSpec(pool.spec),
  };
}

function ownerOf(pool: ResultityNodePool): OwnerReference {
  const { name, uid } = pool.metadata;
  return { apiVersion, kind: poolNames.kind, name, uid, controller: true };
}

/** Lets the garbage collector take the identity with the node: the operator may not delete Secrets itself. */
async function disownIdentity(
  { client }: OperatorContext,
  child: ResultityNode,
  signal: AbortSignal,
): Promise<void> {
  const { namespace, name, uid } = child.metadata;
  const owner: OwnerReference = { apiVersion, kind: child.kind, name, uid };
  const patch = { metadata: { ownerReferences: [owner] } };
  try {
    await client.mergePatch(secrets, { namespace, name: identitySecretOf(child) }, patch, { signal });
  } catch (error) {
    if (!isKubeError(error, "NotFound")) throw error;
  }
}
