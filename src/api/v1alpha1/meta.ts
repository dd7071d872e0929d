/**
 * What every object of the group has beside its spec and status. These are the parts of Kubernetes' ObjectMeta that
 * the project reads; objects are trimmed to them on the way in.
 */

export const group = "resultity.com";
export const version = "v1alpha1";
export const apiVersion = `${group}/${version}`;

/** Prefix of every label and annotation key that the project writes: `resultity.com/<name>`. */
export const keyPrefix = `${group}/`;

/** A reference from an object to the one that owns it, in the same namespace. */
export interface OwnerReference {
  apiVersion: string;
  kind: string;
  name: string;
  uid: string;
  controller?: boolean;
  blockOwnerDeletion?: boolean;
}

/** Metadata of a namespaced object as the API server answers it. Times are RFC 3339. */
export interface ObjectMeta {
  name: string;
  namespace: string;
  uid: string;
  resourceVersion: string;
  /** Counts changes of the spec; conditions and status repeat it as `observedGeneration`. */
  generation: number;
  creationTimestamp: string;
  deletionTimestamp?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: OwnerReference[];
  finalizers?: string[];
}

/** Metadata of an object that is about to be created or applied. */
export interface NewObjectMeta {
  name: string;
  namespace?: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  ownerReferences?: OwnerReference[];
}

/** An object of the group as the API server answers it: defaults are filled in, status may not be there yet. */
export interface Resource<Kind extends string, Spec, Status> {
  apiVersion: typeof apiVersion;
  kind: Kind;
  metadata: ObjectMeta;
  spec: Spec;
  status?: Status;
}

/** An object of the group as one creates it: what has a default may be missing. */
export interface NewResource<Kind extends string, SpecInput> {
  apiVersion: typeof apiVersion;
  kind: Kind;
  metadata: NewObjectMeta;
  spec: SpecInput;
}
