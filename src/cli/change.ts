import type { ResultityNetwork } from "../api/v1alpha1/network.ts";
import type { ResultityNode } from "../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../api/v1alpha1/pool.ts";
import { type JsonPatchOperation, jsonPointer } from "../kube/client.ts";
import type { KubeObject } from "../kube/object.ts";
import { promoteAnnotation } from "../operator/pool/plan.ts";
import { CliError } from "./errors.ts";
import { shortRef } from "./subject.ts";

/**
 * What the commands that write do: each changes one field of one spec, and nothing if the spec has changed since it was
 * looked at. The operator does the rest.
 */

/** One field to be written, and what to say when it is. Without a patch all is as asked already. */
export interface Change {
  readonly patch: readonly JsonPatchOperation[];
  readonly says: string;
}

const nothing = (says: string): Change => ({ patch: [], says });

/** The status may change meanwhile, and with it the resource version: the spec may not. */
const unchangedSpec = ({ metadata }: KubeObject): readonly JsonPatchOperation[] => [
  { op: "test", path: "/metadata/uid", value: metadata.uid },
  { op: "test", path: "/metadata/generation", value: metadata.generation },
];

function set(object: KubeObject, path: string, value: unknown, says: string): Change {
  return { patch: [...unchangedSpec(object), { op: "add", path, value }], says };
}

/** What `digest` is called in the network's history. */
function named(network: ResultityNetwork | undefined, digest: string): string {
  const entry = network?.status?.history?.find((known) => known.digest === digest);
  return entry ? `${digest} (${entry.version})` : digest;
}

/**
 * Lets the config that waits in `status.pending` through.
 * @param digest what the user has looked at, where they said so: another one that waits is not approved.
 * @throws CliError NotFound when none waits, or another one
 */
export function approve(network: ResultityNetwork, digest: string | undefined): Change {
  const { name, namespace } = network.metadata;
  const { config } = network.spec;
  const pending = network.status?.pending;
  if (config.apply !== "Approve") {
    throw new CliError(
      "NotFound",
      `network ${name} asks for no approval: spec.config.apply is ${config.apply}; to be asked: kubectl -n ${namespace} patch rnet ${name} --type=merge -p '{"spec":{"config":{"apply":"Approve"}}}'`,
    );
  }
  if (!pending) {
    if (digest !== undefined && config.approved === digest) return nothing(`${digest} is approved already`);
    throw new CliError("NotFound", `no config of network ${name} waits for approval`);
  }
  if (digest !== undefined && digest !== pending.digest) {
    throw new CliError(
      "NotFound",
      `config ${digest} does not wait for approval, ${pending.digest} does: look at what it changes with kubectl resultity why rnet/${name} -n ${namespace}`,
    );
  }
  const changes = pending.changes.map((line) => `\n  ${line}`).join("");
  if (config.approved === pending.digest) return nothing(`${pending.digest} is approved already`);
  return set(
    network,
    "/spec/config/approved",
    pending.digest,
    `config ${pending.digest} (${pending.version}) of network ${name} is approved:${changes === "" ? " it changes nothing that nodes run" : changes}`,
  );
}

/** Holds a pool's updates, or lets them go on. Nodes that were told to move still do. */
export function pause(pool: ResultityNodePool, paused: boolean): Change {
  const { name } = pool.metadata;
  if (pool.spec.strategy.paused === paused)
    return nothing(`updates of pool ${name} ${paused ? "are paused" : "go on"} already`);
  const says = paused
    ? `updates of pool ${name} are paused; nodes that were told to move still do`
    : `updates of pool ${name} go on`;
  return set(pool, "/spec/strategy/paused", paused, says);
}

/**
 * Takes a pool back to the config before the one that it moves to, by a pin in its template.
 * @param digest the one to go to, where the user said which.
 * @throws CliError NotFound when the network's history has no other config
 */
export function undo(
  pool: ResultityNodePool,
  network: ResultityNetwork | undefined,
  digest: string | undefined,
): Change {
  const { name, namespace } = pool.metadata;
  const networkName = pool.spec.template.spec.networkRef.name;
  const pinned = pool.spec.template.spec.config?.pin;
  const now = pinned ?? network?.status?.config?.digest;
  const history = network?.status?.history ?? [];
  const at = history.findIndex((entry) => entry.digest === now);
  const wanted = digest ?? history[at + 1]?.digest;
  if (wanted === undefined) {
    throw new CliError(
      "NotFound",
      `network ${networkName} has no config before ${now ?? "the first"}: kubectl resultity rollout history ${name} -n ${namespace} shows those that there were`,
    );
  }
  if (wanted === now) return nothing(`pool ${name} is to run ${named(network, wanted)} already`);
  const pin = { ...pool.spec.template.spec.config, pin: wanted };
  return set(
    pool,
    "/spec/template/spec/config",
    pin,
    `pool ${name} goes to config ${named(network, wanted)} and stays there; to follow the network again: kubectl resultity rollout follow ${name} -n ${namespace}`,
  );
}

/** Takes the pin of a pool away, so that it follows its network again. */
export function follow(pool: ResultityNodePool, network: ResultityNetwork | undefined): Change {
  const { name } = pool.metadata;
  const { config } = pool.spec.template.spec;
  if (config?.pin === undefined) return nothing(`pool ${name} follows its network already`);
  const current = network?.status?.config?.digest;
  const where = current === undefined ? "" : `, which is at ${named(network, current)}`;
  return {
    patch: [...unchangedSpec(pool), { op: "remove", path: "/spec/template/spec/config/pin" }],
    says: `pool ${name} follows its network again${where}`,
  };
}

/**
 * Has a pool take the config that it is asked for without a trial, or though the trial failed.
 * @throws CliError NotFound while there is no config
 */
export function promote(pool: ResultityNodePool, network: ResultityNetwork | undefined): Change {
  const { name, annotations } = pool.metadata;
  const digest = pool.spec.template.spec.config?.pin ?? network?.status?.config?.digest;
  if (digest === undefined)
    throw new CliError("NotFound", `there is no config yet that pool ${name} could take`);
  if (annotations?.[promoteAnnotation] === digest)
    return nothing(`pool ${name} takes ${named(network, digest)} already`);
  const says = `pool ${name} takes config ${named(network, digest)} without a trial`;
  return annotations
    ? set(pool, jsonPointer("metadata", "annotations", promoteAnnotation), digest, says)
    : set(pool, "/metadata/annotations", { [promoteAnnotation]: digest }, says);
}

/** Drains a node and keeps its identity, or lets it run again. Its pool leaves it so. */
export function park(node: ResultityNode, parked: boolean): Change {
  const { name, namespace } = node.metadata;
  const replicas = parked ? 0 : 1;
  if (node.spec.replicas === replicas)
    return nothing(`node ${name} is ${parked ? "parked" : "to run"} already`);
  const says = parked
    ? `node ${name} is drained and parked; its identity stays: kubectl resultity unpark ${shortRef(node.kind, name)} -n ${namespace} lets it run again`
    : `node ${name} is to run again`;
  return set(node, "/spec/replicas", replicas, says);
}
