/** A version as far as the test bed compares it. */
export interface Version {
  readonly major: number;
  readonly minor: number;
  readonly patch: number;
}

/** First version in a text such as "Kubernetes v1.37.2" or "etcd Version: 3.7.3". */
export function parseVersion(text: string): Version | undefined {
  const match = /(?<![\d.])v?(\d+)\.(\d+)(?:\.(\d+))?/.exec(text);
  if (!match) return undefined;
  return { major: Number(match[1]), minor: Number(match[2]), patch: Number(match[3] ?? 0) };
}

export function formatVersion({ major, minor, patch }: Version): string {
  return `v${major}.${minor}.${patch}`;
}

/** Oldest Kubernetes that the project supports (DESIGN, section 1). */
export const oldestKubernetesMinor = 33;

/** Components that must all have one minor version. */
export const controlPlaneNames: readonly string[] = [
  "kube-apiserver",
  "kube-controller-manager",
  "kube-scheduler",
];

/**
 * Why a binary of this version will not do, or undefined when it will.
 *
 * @param controlPlaneMinor minor version of the API server that it will talk to, or undefined while that is not
 *   decided
 */
export function whyUnfit(
  name: string,
  version: Version,
  controlPlaneMinor: number | undefined,
): string | undefined {
  const { major, minor } = version;
  const isKubernetes = name.startsWith("kube");
  if (isKubernetes && name !== "kubectl" && (major !== 1 || minor < oldestKubernetesMinor)) {
    return `Kubernetes 1.${oldestKubernetesMinor} or newer is needed`;
  }
  if (isKubernetes && controlPlaneMinor !== undefined) {
    if (controlPlaneNames.includes(name) && minor !== controlPlaneMinor) {
      return `the control plane is 1.${controlPlaneMinor}`;
    }
    if (name === "kubectl" && (major !== 1 || Math.abs(minor - controlPlaneMinor) > 1)) {
      return `it must be within one minor version of the control plane, 1.${controlPlaneMinor}`;
    }
    if ((name === "kubelet" || name === "kube-proxy") && minor > controlPlaneMinor) {
      return `it must not be newer than the control plane, 1.${controlPlaneMinor}`;
    }
  }
  if (name === "etcd" && (major < 3 || (major === 3 && minor < 5))) return "etcd 3.5 or newer is needed";
  if ((name.startsWith("containerd") || name === "ctr") && major < 2)
    return "containerd 2 or newer is needed";
  return undefined;
}
