import { KubeError, type RequestContext } from "./errors.ts";
import { type KubeObject, type ObjectRef, refKey } from "./object.ts";
import type { Resource } from "./resources.ts";

/** Which objects of a kind are meant. */
export interface Selection {
  /** All namespaces when left out. */
  readonly namespace?: string | undefined;
  readonly labelSelector?: string | undefined;
  readonly fieldSelector?: string | undefined;
}

/** What a request about one object is called in messages. */
export function contextOf(
  verb: string,
  { plural }: Resource<KubeObject>,
  ref: ObjectRef,
  subresource?: string,
): RequestContext {
  return { verb, resource: subresource ? `${plural}/${subresource}` : plural, object: refKey(ref) };
}

/** What a request about many objects is called in messages. */
export function collectionContext(
  verb: string,
  { plural }: Resource<KubeObject>,
  { namespace }: Selection,
): RequestContext {
  return { verb, resource: plural, object: namespace ? `${namespace}/` : "" };
}

/** For a name without a namespace: nothing where the kind has none. @throws KubeError BadRequest where it has */
export function needNamespace(resource: Resource<KubeObject>, name: string): undefined {
  if (!resource.namespaced) return undefined;
  throw new KubeError("BadRequest", `${resource.plural} ${name}: metadata.namespace is missing; set it`);
}

/** Path of one object, or of a subresource of it. */
export function pathOf(resource: Resource<KubeObject>, ref: ObjectRef, subresource?: string): string {
  const namespace = ref.namespace ?? needNamespace(resource, ref.name);
  const path = `${collection(resource, namespace)}/${encodeURIComponent(ref.name)}`;
  return subresource ? `${path}/${subresource}` : path;
}

function collection(
  { group, version, plural, namespaced }: Resource<KubeObject>,
  namespace?: string,
): string {
  const root = group ? `/apis/${group}/${version}` : `/api/${version}`;
  return namespaced && namespace
    ? `${root}/namespaces/${encodeURIComponent(namespace)}/${plural}`
    : `${root}/${plural}`;
}

/** Path and query of a kind's objects, in one namespace or in all. */
export function collectionPath(
  resource: Resource<KubeObject>,
  { namespace, labelSelector, fieldSelector }: Selection,
  query: Readonly<Record<string, string | undefined>>,
): string {
  return withQuery(collection(resource, namespace), { labelSelector, fieldSelector, ...query });
}

/** Adds the parameters that have a value. */
export function withQuery(path: string, query: Readonly<Record<string, string | undefined>>): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== "") parameters.set(name, value);
  }
  const text = parameters.toString();
  return text ? `${path}?${text}` : path;
}
