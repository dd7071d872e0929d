import { nodeConditionTypes, rfc3339, setCondition } from "../../api/v1alpha1/conditions.ts";
import type { NodeStatus, ResultityNode } from "../../api/v1alpha1/node.ts";
import { canonical } from "../hash.ts";
import { conditionsOf } from "./conditions.ts";
import type { NodeObservation } from "./observation.ts";
import type { Notes, Plan } from "./plan.ts";

/**
 * The whole status that the node controller owns. `config.target` is in it only for a node without a pool: else it is
 * the pool's to write.
 *
 * @param failed what an action that failed says about the conditions.
 */
export function nodeStatus(o: NodeObservation, plan: Plan, failed: Notes): NodeStatus {
  const { node, pod, agent } = o;
  const { generation } = node.metadata;
  const last = node.status ?? {};
  const notes = conditionsOf(o, plan, failed);
  let conditions = last.conditions ?? [];
  for (const type of nodeConditionTypes) {
    const { status, reason, message } = notes[type];
    conditions = [
      ...setCondition(conditions, { type, status, reason, message, observedGeneration: generation }, o.now),
    ];
  }
  const report = agent.status?.report;
  const config = {
    staged: stagedOf(o, plan),
    // Kept while a new pod has yet to apply it: a node without a target stays at what it had.
    applied: report?.config.applied ?? last.config?.applied,
    target: o.inPool ? undefined : (plan.target ?? last.config?.target),
  };
  return pruned({
    observedGeneration: generation,
    replicas: pod && !pod.finished ? 1 : 0,
    nodeId: o.nodeId,
    podName: pod?.name,
    hostName: pod?.host,
    config,
    runtime: pod?.host === undefined ? undefined : runtimeOf(o),
    models: pod?.host === undefined ? undefined : modelsOf(o),
    session: sessionOf(o, notes.Connected.status),
    recovery: plan.recovery,
    gpus: { requested: node.spec.gpu.count, product: node.spec.gpu.product },
    conditions,
  });
}

/** What the agent has staged, once the host has the image too. */
function stagedOf({ node, agent }: NodeObservation, { awaitsImage }: Plan): string | undefined {
  const last = node.status?.config?.staged;
  if (!agent.status) return last;
  const staged = agent.status.report.config.staged ?? undefined;
  return awaitsImage && staged !== last ? undefined : staged;
}

/** True if writing `status` would change nothing of what the node controller owns. */
export function isWritten({ node, inPool }: NodeObservation, status: NodeStatus): boolean {
  const { config, ...rest } = node.status ?? {};
  const { target, next: _next, ...others } = config ?? {};
  return (
    canonical(pruned({ ...rest, config: inPool ? others : { ...others, target } })) === canonical(status)
  );
}

function runtimeOf({ node, pod, agent }: NodeObservation): NodeStatus["runtime"] {
  const image = pod?.runtime.image;
  if (!image) return undefined;
  const report = agent.status?.report.engine;
  const last = node.status?.runtime;
  const version = report?.version ?? (last?.image === image ? last.version : undefined);
  return { engine: node.spec.runtime.engine, image, version };
}

function modelsOf({ node, agent }: NodeObservation): NodeStatus["models"] {
  const report = agent.status?.report;
  // An engine that starts has none to show; that it starts is a condition's to say, and each change here is a write.
  if (!report || report.engine.health !== "healthy") return node.status?.models;
  const { models } = report;
  const active = new Set(models.active);
  const installed = new Set([...models.installed, ...models.active]);
  const names = [...new Set([...(node.spec.models ?? []), ...installed])].toSorted().slice(0, 256);
  return names.map((name) => ({
    name,
    state: active.has(name) ? "Active" : installed.has(name) ? "Installed" : "Missing",
  }));
}

function sessionOf({ node, feed }: NodeObservation, connected: string): NodeStatus["session"] {
  if (connected === "Unknown") return node.status?.session;
  const now = connected === "True";
  const last = node.status?.session;
  // A session that dropped and came back within the debounce is the same to a reader.
  if (last?.connected === now) return last;
  return {
    connected: now,
    since: feed ? rfc3339(feed.since) : undefined,
  };
}

/** A copy without undefined members and without objects that are then empty, as the API server keeps it. */
function pruned(status: NodeStatus): NodeStatus {
  const copy: NodeStatus = JSON.parse(JSON.stringify(status));
  if (copy.config && Object.keys(copy.config).length === 0) delete copy.config;
  return copy;
}

/** The object to apply to the status subresource. */
export function statusDraft({ metadata }: ResultityNode, status: NodeStatus) {
  const { namespace, name, uid } = metadata;
  // With the UID it is refused where another object of this name has come since.
  return { metadata: { namespace, name, uid }, status };
}
