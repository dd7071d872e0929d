import type { KubeObject, ObjectMeta } from "../../src/kube/object.ts";
import type { ConfigMap } from "../../src/kube/resources.ts";

/** A ConfigMap as the API server would answer with it. */
export function configMap(
  name: string,
  version: number | string,
  more: Partial<ObjectMeta> & { readonly data?: Record<string, string> } = {},
): ConfigMap {
  const { data, ...metadata } = more;
  return {
    apiVersion: "v1",
    kind: "ConfigMap",
    metadata: {
      name,
      namespace: "ns",
      uid: `uid-${name}`,
      resourceVersion: String(version),
      creationTimestamp: "2026-01-01T00:00:00Z",
      ...metadata,
    },
    ...(data ? { data } : {}),
  };
}

/** `add a`, `delete b`: changes as a test reads them. */
export function told(log: string[]) {
  return {
    added: (object: KubeObject) => void log.push(`add ${name(object)}`),
    updated: (object: KubeObject) => void log.push(`update ${name(object)}`),
    deleted: (object: KubeObject) => void log.push(`delete ${name(object)}`),
  };
}

function name({ metadata }: KubeObject): string {
  return `${metadata.name}/${metadata.uid}@${metadata.resourceVersion}`;
}
