/** What the seeds of one run share: a control plane in which hosts are missed after seconds, not minutes. */
import { join } from "node:path";
import { type ControlPlane, startControlPlane } from "../../testbed/control-plane.ts";
import { type KubeJson, kubeJson } from "../../testbed/kube-json.ts";

const repository = join(import.meta.dirname, "../../..");

/** Milliseconds after which the control plane misses a host that has not renewed its Lease. */
export const missedMs = 10_000;
/** Milliseconds more after which pods are taken from a host that is missed. */
export const evictedMs = 5_000;

/** A control plane with the CRDs and the operator's rights. */
export interface Stand extends AsyncDisposable {
  readonly bed: ControlPlane;
  readonly kube: KubeJson;
  /** Kubeconfig of the operator's ServiceAccount. */
  readonly operator: string;
}

export async function startStand(log?: (line: string) => void): Promise<Stand> {
  const tolerated = evictedMs / 1000;
  const bed = await startControlPlane({
    components: ["scheduler", "controller-manager"],
    extraArgs: {
      apiserver: [
        `--default-not-ready-toleration-seconds=${tolerated}`,
        `--default-unreachable-toleration-seconds=${tolerated}`,
      ],
      "controller-manager": [
        `--node-monitor-grace-period=${missedMs / 1000}s`,
        "--node-monitor-period=1s",
        // However many hosts are lost at once, they are treated as one is.
        "--unhealthy-zone-threshold=1",
        "--node-eviction-rate=100",
      ],
      // A pod that could not be scheduled is tried again soon: a person's patience is not what is simulated.
      scheduler: ["--kube-api-qps=200", "--kube-api-burst=300"],
    },
    ...(log ? { log } : {}),
  });
  const kube = kubeJson(bed.adminKubeconfig);
  try {
    await bed.kubectlOk(["apply", "-f", join(repository, "crds")]);
    await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]);
    for (const file of ["10-namespace.yaml", "20-rbac.yaml"])
      await bed.kubectlOk(["apply", "-f", join(repository, "manifests/operator", file)]);
    await kube.create("/apis/scheduling.k8s.io/v1/priorityclasses", {
      apiVersion: "scheduling.k8s.io/v1",
      kind: "PriorityClass",
      metadata: { name: "tenant" },
      value: 1_000_000,
    });
    return {
      bed,
      kube,
      operator: await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator"),
      async [Symbol.asyncDispose]() {
        await kube.close();
        await bed.stop();
      },
    };
  } catch (thrown) {
    await kube.close();
    await bed.stop();
    throw thrown;
  }
}
