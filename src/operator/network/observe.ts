import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { isTrue } from "../../api/v1alpha1/conditions.ts";
import type { Client } from "../../kube/client.ts";
import { controllerOf } from "../../kube/object.ts";
import { type ConfigMap, configMaps, secrets } from "../../kube/resources.ts";
import { hasNoCapacity } from "../capacity.ts";
import { networkConfigMapName } from "../names.ts";
import type { StoredConfigMap } from "./knowledge.ts";
import { Refusal } from "./refusal.ts";

/** Entry of the account's Secret that holds the key. */
export const accountKeyEntry = "account-key";

/** What the spec of a network points at, as text that nothing has checked. A Refusal where it is not there. */
export interface Inputs {
  readonly root: string | Refusal;
  /** Where the root is, for messages. */
  readonly rootFrom: string;
  readonly accountKey: string | Refusal;
  readonly configMap: StoredConfigMap | undefined;
}

/** Reads what a network's spec points at: three GETs by name at most. Rejects with {@link KubeError}. */
export async function observeInputs(
  client: Pick<Client, "find">,
  network: ResultityNetwork,
  signal: AbortSignal,
): Promise<Inputs> {
  const [root, accountKey, configMap] = await Promise.all([
    readRoot(client, network, signal),
    readAccountKey(client, network, signal),
    readConfigMap(client, network, signal),
  ]);
  return { root, rootFrom: rootFrom(network), accountKey, configMap };
}

/** The same without the account's key, which only the operator may read. */
export async function observePublic(
  client: Pick<Client, "find">,
  network: ResultityNetwork,
  signal: AbortSignal,
): Promise<Omit<Inputs, "accountKey">> {
  const [root, configMap] = await Promise.all([
    readRoot(client, network, signal),
    readConfigMap(client, network, signal),
  ]);
  return { root, rootFrom: rootFrom(network), configMap };
}

function rootFrom({ metadata, spec }: ResultityNetwork): string {
  const { rootConfigMap } = spec.trust;
  if (!rootConfigMap) return "spec.trust.root";
  return `entry ${rootConfigMap.key} of ConfigMap ${metadata.namespace}/${rootConfigMap.name} (spec.trust.rootConfigMap)`;
}

async function readRoot(
  client: Pick<Client, "find">,
  { metadata: { namespace }, spec }: ResultityNetwork,
  signal: AbortSignal,
): Promise<string | Refusal> {
  if (spec.trust.root !== undefined) return spec.trust.root;
  const { rootConfigMap } = spec.trust;
  if (!rootConfigMap)
    return new Refusal("RootNotFound", "spec.trust names no root: set root or rootConfigMap");
  const { name, key } = rootConfigMap;
  const found = await client.find(configMaps, { namespace, name }, { signal });
  const text = found?.data?.[key];
  if (text !== undefined) return text;
  const make = `kubectl -n ${namespace} create configmap ${name} --from-file=${key}=root.json`;
  const what = found ? `has no entry ${key}` : "does not exist";
  return new Refusal(
    "RootNotFound",
    `ConfigMap ${namespace}/${name}, which spec.trust.rootConfigMap names, ${what}: put the network's root there (${make})`,
  );
}

async function readAccountKey(
  client: Pick<Client, "find">,
  { metadata: { namespace }, spec }: ResultityNetwork,
  signal: AbortSignal,
): Promise<string | Refusal> {
  const name = spec.account.secretName;
  const found = await client.find(secrets, { namespace, name }, { signal });
  const encoded = found?.data?.[accountKeyEntry];
  if (encoded !== undefined) return Buffer.from(encoded, "base64").toString("utf8");
  const make = `kubectl -n ${namespace} create secret generic ${name} --from-file=${accountKeyEntry}`;
  const what = found ? `has no entry ${accountKeyEntry}` : "does not exist";
  return new Refusal(
    "AccountSecretNotFound",
    `Secret ${namespace}/${name}, which spec.account.secretName names, ${what}: put the key of account ${spec.account.id} there (${make})`,
  );
}

async function readConfigMap(
  client: Pick<Client, "find">,
  network: ResultityNetwork,
  signal: AbortSignal,
): Promise<StoredConfigMap | undefined> {
  const { namespace, name } = network.metadata;
  const found = await client.find(configMaps, { namespace, name: networkConfigMapName(name) }, { signal });
  return found && storedConfigMap(found, network);
}

/** A ConfigMap as it is remembered. */
export function storedConfigMap(found: ConfigMap, network: ResultityNetwork): StoredConfigMap {
  return {
    resourceVersion: found.metadata.resourceVersion,
    data: found.data ?? {},
    ours: controllerOf(found)?.uid === network.metadata.uid,
  };
}

/** What the network controller needs to know of a node, or of several that are alike. */
export interface NodeUse {
  readonly count: number;
  readonly target: string | undefined;
  readonly applied: string | undefined;
  /** What it gets ready for ahead of a maintenance window. */
  readonly next?: string | undefined;
  readonly ready: boolean;
  readonly connected: boolean;
}

/** One node of the network, from the cache. */
export function observeNode(node: ResultityNode): NodeUse {
  const { status } = node;
  const { target, applied, next } = status?.config ?? {};
  return {
    count: 1,
    target,
    next,
    // Without capacity it runs nothing, and begins with its target: what it ran last need not be kept for it.
    applied: target !== undefined && hasNoCapacity(node) ? undefined : applied,
    ready: isTrue(status?.conditions, "Ready"),
    connected: status?.session?.connected === true,
  };
}
