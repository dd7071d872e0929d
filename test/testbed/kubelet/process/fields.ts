import type { Container, Pod, ResourceFieldRef } from "./types.ts";

/** What the downward API can tell beside the pod object. */
export interface HostFacts {
  readonly hostName: string;
  readonly hostIP: string;
  readonly podIP: string;
}

/** A reference that cannot be resolved; its message names the field. */
export class FieldError extends Error {
  constructor(message: string) {
    super(message);
    this.name = "FieldError";
  }
}

/**
 * Value of a downward API `fieldRef`. Maps come as `key="value"` lines, sorted, quoted (Kubernetes documentation,
 * "Downward API").
 *
 * @throws FieldError for a path that the kubelet does not serve
 */
export function fieldValue(path: string, pod: Pod, facts: HostFacts): string {
  const subscript = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(path);
  if (subscript) {
    const map = subscript[1] === "labels" ? pod.metadata.labels : pod.metadata.annotations;
    return map?.[subscript[2] ?? ""] ?? "";
  }
  switch (path) {
    case "metadata.name":
      return pod.metadata.name;
    case "metadata.namespace":
      return pod.metadata.namespace;
    case "metadata.uid":
      return pod.metadata.uid;
    case "metadata.labels":
      return quotedLines(pod.metadata.labels);
    case "metadata.annotations":
      return quotedLines(pod.metadata.annotations);
    case "spec.nodeName":
      return facts.hostName;
    case "spec.serviceAccountName":
      return pod.spec.serviceAccountName ?? "";
    case "status.podIP":
    case "status.podIPs":
      return facts.podIP;
    case "status.hostIP":
    case "status.hostIPs":
      return facts.hostIP;
    default:
      throw new FieldError(`fieldPath ${path}: the process kubelet does not serve it`);
  }
}

function quotedLines(map: Readonly<Record<string, string>> = {}): string {
  return Object.keys(map)
    .sort()
    .map((key) => `${key}=${JSON.stringify(map[key])}`)
    .join("\n");
}

const suffixes: Readonly<Record<string, number>> = {
  "": 1,
  m: 0.001,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
};

/** A Kubernetes quantity as a number, or undefined for text that is none. */
export function quantity(text: string): number | undefined {
  const match = /^([0-9.]+)([a-zA-Z]*)$/.exec(text);
  const factor = suffixes[match?.[2] ?? "?"];
  return match && factor !== undefined ? Number(match[1]) * factor : undefined;
}

/**
 * Value of a `resourceFieldRef`, rounded up to the divisor.
 *
 * @throws FieldError when the resource is not set on the container
 */
export function resourceValue(ref: ResourceFieldRef, pod: Pod, own: string): string {
  const name = ref.containerName ?? own;
  const container: Container | undefined = [...pod.spec.containers, ...(pod.spec.initContainers ?? [])].find(
    (entry) => entry.name === name,
  );
  const [kind, ...rest] = ref.resource.split(".");
  const resources = container?.resources;
  const map = kind === "limits" ? resources?.limits : resources?.requests;
  const value = quantity(map?.[rest.join(".")] ?? "");
  if (value === undefined) throw new FieldError(`resource ${ref.resource} is not set on container ${name}`);
  const divisor = quantity(ref.divisor ?? "1") ?? 0;
  return String(Math.ceil(value / (divisor === 0 ? 1 : divisor)));
}
