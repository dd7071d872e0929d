import type { Condition } from "../../src/api/v1alpha1/conditions.ts";
import { desiredAnnotation, parseDesired } from "../../src/protocol/desired.ts";
import type { KubeObject } from "../testbed/kube-json.ts";
import { type Loop, namespace, type PodObject } from "./loop.ts";

/**
 * Everything that the operator has made or said in the loop's namespace, without what differs from run to run: times,
 * uids, addresses, revisions. The digests of `names` are replaced by their names.
 */
export async function pictureOf(loop: Loop, names: ReadonlyMap<string, string>): Promise<unknown> {
  const list = async <T extends KubeObject>(path: string) =>
    (await loop.kube.get<KubeObject & { items: readonly T[] }>(path))?.items ?? [];
  const [pool, network, nodes, pods] = await Promise.all([
    loop.pool(),
    loop.network(),
    loop.nodes(),
    loop.pods() as Promise<readonly PodWithSpec[]>,
  ]);
  const secrets = await list<Owned>(`/api/v1/namespaces/${namespace}/secrets`);
  const maps = await list<Owned & { data?: object }>(`/api/v1/namespaces/${namespace}/configmaps`);
  const budgets = await list<Owned & { spec: object }>(
    `/apis/policy/v1/namespaces/${namespace}/poddisruptionbudgets`,
  );
  const owners = new Map<string | undefined, string>();
  for (const object of [pool, network, ...nodes])
    if (object) owners.set(object.metadata.uid, object.metadata.name);
  const ownersOf = ({ metadata }: Owned) =>
    metadata.ownerReferences?.map(({ kind, uid }) => `${kind} ${owners.get(uid) ?? "(gone)"}`) ?? [];
  const picture = {
    network: { config: network?.status?.config?.digest, conditions: conditionsOf(network) },
    pool: pool && {
      replicas: [pool.spec.replicas, pool.status?.replicas, pool.status?.readyReplicas],
      target: pool.status?.rollout?.target,
      conditions: conditionsOf(pool),
    },
    nodes: nodes.map((node) => ({
      name: node.metadata.name,
      owners: ownersOf(node),
      spec: node.spec,
      config: { target: node.status?.config?.target, applied: node.status?.config?.applied },
      named: node.status?.nodeId !== undefined,
      conditions: conditionsOf(node),
    })),
    pods: pods.map((pod) => {
      const { stage, target, plannedStop } = parseDesired(
        pod.metadata.annotations?.[desiredAnnotation] ?? "",
      );
      return {
        name: pod.metadata.name,
        owners: ownersOf(pod),
        images: [...(pod.spec.initContainers ?? []), ...pod.spec.containers].map(({ image }) => image),
        ready: pod.status?.conditions?.find(({ type }) => type === "Ready")?.status,
        orders: { stage, target, plannedStop },
      };
    }),
    secrets: secrets.map((secret) => ({ name: secret.metadata.name, owners: ownersOf(secret) })),
    maps: maps
      .filter(({ metadata }) => metadata.name !== "kube-root-ca.crt")
      .map((map) => ({ name: map.metadata.name, owners: ownersOf(map) })),
    budgets: budgets.map((budget) => ({
      name: budget.metadata.name,
      owners: ownersOf(budget),
      spec: budget.spec,
    })),
  };
  let text = JSON.stringify(picture);
  for (const [digest, name] of names) text = text.replaceAll(digest, name);
  return JSON.parse(text);
}

type Owned = KubeObject & {
  readonly metadata: { readonly ownerReferences?: readonly { kind: string; uid: string }[] };
};

interface PodWithSpec extends PodObject {
  readonly metadata: PodObject["metadata"] & Owned["metadata"];
  readonly spec: PodObject["spec"] & {
    readonly initContainers?: readonly { image: string }[];
    readonly containers: readonly { image: string }[];
  };
}

const conditionsOf = (
  object: { status?: { conditions?: readonly Condition[] | undefined } | undefined } | undefined,
): string[] =>
  (object?.status?.conditions ?? []).map(({ type, status, reason }) => `${type}=${status} ${reason}`).sort();
