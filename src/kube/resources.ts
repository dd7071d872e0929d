import type {
  V1ConfigMap,
  V1Lease,
  V1Node,
  V1Pod,
  V1PodDisruptionBudget,
  V1Secret,
} from "@kubernetes/client-node";
import type { CustomObject, KubeObject } from "./object.ts";

declare const objectType: unique symbol;

/** A kind of object as the API server serves it. `T` is the object's type. */
export interface Resource<T extends KubeObject> {
  /** API group; empty for the core group. */
  readonly group: string;
  readonly version: string;
  /** Plural, as in paths and RBAC. */
  readonly plural: string;
  readonly kind: string;
  readonly namespaced: boolean;
  readonly [objectType]?: T;
}

/** `group/version`, or `v1` for the core group. */
export function apiVersionOf(resource: Resource<KubeObject>): string {
  return resource.group ? `${resource.group}/${resource.version}` : resource.version;
}

/** client-node's generated types as they are on the wire: dates are strings (RFC 3339). */
type Wire<T> = T extends Date
  ? string
  : T extends (infer E)[]
    ? readonly Wire<E>[]
    : T extends object
      ? { readonly [K in keyof T]: Wire<T[K]> }
      : T;

type Builtin<T> = KubeObject & Wire<Omit<T, "apiVersion" | "kind" | "metadata">>;

export type Pod = Builtin<V1Pod>;
export type Secret = Builtin<V1Secret>;
export type ConfigMap = Builtin<V1ConfigMap>;
export type Lease = Builtin<V1Lease>;
export type PodDisruptionBudget = Builtin<V1PodDisruptionBudget>;
export type HostNode = Builtin<V1Node>;

/** `events.k8s.io/v1`: one thing that happened to an object, or a series of the same. */
export interface Event extends KubeObject {
  /** RFC 3339 with microseconds, of the first. */
  readonly eventTime: string;
  readonly reportingController: string;
  readonly reportingInstance: string;
  readonly action: string;
  readonly reason: string;
  readonly type: "Normal" | "Warning";
  readonly note: string;
  readonly regarding: {
    readonly apiVersion: string;
    readonly kind: string;
    readonly name: string;
    readonly namespace?: string;
    readonly uid: string;
    readonly resourceVersion?: string;
  };
  readonly series?: { readonly count: number; readonly lastObservedTime: string };
}

function resource<T extends KubeObject>(
  group: string,
  version: string,
  plural: string,
  kind: string,
  namespaced = true,
): Resource<T> {
  return { group, version, plural, kind, namespaced };
}

export const pods = resource<Pod>("", "v1", "pods", "Pod");
export const secrets = resource<Secret>("", "v1", "secrets", "Secret");
export const configMaps = resource<ConfigMap>("", "v1", "configmaps", "ConfigMap");
export const hostNodes = resource<HostNode>("", "v1", "nodes", "Node", false);
export const namespaces = resource<KubeObject>("", "v1", "namespaces", "Namespace", false);
export const leases = resource<Lease>("coordination.k8s.io", "v1", "leases", "Lease");
export const events = resource<Event>("events.k8s.io", "v1", "events", "Event");
export const podDisruptionBudgets = resource<PodDisruptionBudget>(
  "policy",
  "v1",
  "poddisruptionbudgets",
  "PodDisruptionBudget",
);

/** Describes a custom resource: `customResource<NodeSpec, NodeStatus>("resultity.com", "v1alpha1", "resultitynodes", "ResultityNode")`. */
export function customResource<Spec, Status>(
  group: string,
  version: string,
  plural: string,
  kind: string,
  options: { readonly namespaced?: boolean } = {},
): Resource<CustomObject<Spec, Status>> {
  return resource(group, version, plural, kind, options.namespaced ?? true);
}
