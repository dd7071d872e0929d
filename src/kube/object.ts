/**
 * The part of a Kubernetes object that every kind has. Objects in caches are shared by everyone who reads them: they
 * are `readonly` here, and are never changed in place.
 */

/** Points from a child to the object that it belongs to (`metadata.ownerReferences`). */
export interface OwnerReference {
  readonly apiVersion: string;
  readonly kind: string;
  readonly name: string;
  readonly uid: string;
  readonly controller?: boolean;
  readonly blockOwnerDeletion?: boolean;
}

/** Metadata of an object that we write. */
export interface DraftMeta {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly resourceVersion?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly ownerReferences?: readonly OwnerReference[];
  readonly finalizers?: readonly string[];
}

/** Metadata of an object that the API server answered with. `namespace` is absent where the kind is cluster-scoped. */
export interface ObjectMeta extends DraftMeta {
  readonly uid: string;
  readonly resourceVersion: string;
  readonly creationTimestamp: string;
  readonly generation?: number;
  readonly deletionTimestamp?: string;
  readonly deletionGracePeriodSeconds?: number;
}

/** An object as the API server answers with it. */
export interface KubeObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: ObjectMeta;
}

/** A custom resource with the usual two halves. `status` is absent until someone writes it. */
export interface CustomObject<Spec, Status> extends KubeObject {
  readonly spec: Spec;
  readonly status?: Status;
}

/** An object to be created or applied: what the server fills in may be left out, and so may any other field but its name. */
export type Draft<T extends KubeObject> = Partial<Omit<T, "apiVersion" | "kind" | "metadata">> & {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: DraftMeta;
};

/** What server-side apply sends: of spec, status and the rest only the members that the applier owns. */
export type Applied<T extends KubeObject> = {
  readonly [K in keyof Omit<T, "apiVersion" | "kind" | "metadata">]?: Partial<T[K]>;
} & {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: DraftMeta;
};

/** Names one object of a known kind. `namespace` is left out where the kind is cluster-scoped. */
export interface ObjectRef {
  readonly namespace?: string | undefined;
  readonly name: string;
}

/** `namespace/name`, or `name` alone where there is no namespace. Caches and queues are keyed by it. */
export function keyOf(object: { readonly metadata: ObjectRef }): string {
  return refKey(object.metadata);
}

/** {@link keyOf} for a reference. */
export function refKey({ namespace, name }: ObjectRef): string {
  return namespace ? `${namespace}/${name}` : name;
}

/** The reference that a key was made of. */
export function refOf(key: string): ObjectRef {
  const slash = key.indexOf("/");
  return slash < 0 ? { name: key } : { namespace: key.slice(0, slash), name: key.slice(slash + 1) };
}

/** The owner that controls this object, if it has one. At most one reference has `controller: true`. */
export function controllerOf(object: KubeObject): OwnerReference | undefined {
  return object.metadata.ownerReferences?.find((owner) => owner.controller === true);
}

/** An owner reference to `owner`, as its controller. Deleting the owner deletes the child. */
export function ownedBy(owner: KubeObject): OwnerReference {
  return {
    apiVersion: owner.apiVersion,
    kind: owner.kind,
    name: owner.metadata.name,
    uid: owner.metadata.uid,
    controller: true,
    blockOwnerDeletion: true,
  };
}

/**
 * Order of two resource versions of one resource: negative when `a` is older, 0 when equal. They are decimal numbers of
 * any length, comparable as such (Kubernetes API concepts, "Resource versions"; KEP-5504). `undefined` when one is not.
 */
export function compareResourceVersions(a: string, b: string): number | undefined {
  if (a === b) return 0;
  if (!/^[1-9][0-9]*$/.test(a) || !/^[1-9][0-9]*$/.test(b)) return undefined;
  if (a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : 1;
}
