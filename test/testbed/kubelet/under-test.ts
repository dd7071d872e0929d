/**
 * What the kubelet suite asks of a kubelet. The kubelets of the test bed are all started to this one shape, so that a
 * row of the suite cannot tell which it runs on: what those of processes and memory claim is checked against the real one.
 *
 * The suite leans on nothing beyond a pod's spec and status. Two things are asked of every kubelet because the rows
 * are read from outside the pod: `hostPath` volumes (the fixture writes its timeline into one, which the test reads
 * as a file, also after the pod is gone), and a `podIP` that the test's own process can dial.
 */

/** The kubelets that the suite knows. */
export const kubeletNames = ["process", "memory", "real"] as const;
export type KubeletName = (typeof kubeletNames)[number];

/**
 * Images of the suite. `fixture-v1` and `fixture-v2` are the same program (`fixture.mjs`) under two references with
 * different digests: the entrypoint is `node fixture.mjs v1` and `node fixture.mjs v2`, to which the pod's `args`
 * are appended. `unpullable` names an image that no registry has, at an address where nothing listens, so that
 * the pull fails at once.
 */
export type SuiteImage = "fixture-v1" | "fixture-v2" | "unpullable";

/** A running kubelet with the API server that it belongs to. */
export interface KubeletUnderTest {
  readonly name: KubeletName;
  /** Name of its Node object. */
  readonly hostName: string;
  /** Whole GPUs (`nvidia.com/gpu`) that its Node advertises. */
  readonly gpus: number;
  /** Kubeconfig file with cluster-admin rights on its API server. */
  readonly kubeconfig: string;
  /** The reference to put into a pod's `image`, always with a digest. */
  image(kind: SuiteImage): string;
  /** Kills everything on the host at once and starts it again over the same disk. Absent where it cannot be done. */
  reboot?(): Promise<void>;
  /** Stops the kubelet, its pods and the API server, and removes what they left. Idempotent. */
  stop(): Promise<void>;
}

/** Why a kubelet cannot run on this machine, in one line that says what to install; undefined if it can. */
export type Missing = string | undefined;

/** How one kubelet is found and started. */
export interface KubeletKind {
  readonly name: KubeletName;
  missing(): Missing | Promise<Missing>;
  start(): Promise<KubeletUnderTest>;
}
