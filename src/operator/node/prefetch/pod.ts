import type { ResultityNetwork } from "../../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../../api/v1alpha1/node.ts";
import { type Draft, ownedBy } from "../../../kube/object.ts";
import type { Pod } from "../../../kube/resources.ts";
import { priorityClassOf } from "../../capacity.ts";
import { hashOf } from "../../hash.ts";
import { networkLabel, prefetchImageAnnotation, prefetchLabel } from "../../names.ts";
import { compact } from "../pod.ts";
import { heldVolume, holdContainer } from "./facts.ts";

/** An image for a host, and on whose behalf. */
export interface PrefetchWish {
  readonly node: ResultityNode;
  readonly host: string;
  readonly role: "agent" | "runtime";
  readonly image: string;
}

/** All that the pod is made from. */
export interface PrefetchInputs extends PrefetchWish {
  readonly network: ResultityNetwork;
  /** Image with a shell that the host has: it runs while it holds `image` by a volume. Undefined: `image` itself is run. */
  readonly base: string | undefined;
}

/**
 * Name of the pod: the same for all nodes of a network that need the image on the host and pull it alike, so that they share
 * it, and the same after a crash, so that there is never a second one.
 */
export function prefetchName({ node, host, role, image }: PrefetchWish): string {
  const { networkRef, podOverrides = {} } = node.spec;
  const { imagePullSecrets, tolerations, runtimeClassName } = podOverrides;
  const pulls = { network: networkRef.name, imagePullSecrets, tolerations, runtimeClassName };
  return `prefetch-${role}-${hashOf({ host, image, ...pulls })}`;
}

const user = 65_532;

/** Waits until it is ended; an image that has a shell and no `sleep` has done its work at once. */
const holdOn = "trap 'exit 0' TERM; sleep 2147483647 & wait";

/**
 * A pod without a GPU that brings an image to a host and keeps the kubelet from removing it again. It goes past the scheduler,
 * whose answer could only be another host.
 */
export function prefetchPod(inputs: PrefetchInputs): Draft<Pod> {
  const { node, network, host, role, image, base } = inputs;
  const { tolerations, runtimeClassName, imagePullSecrets } = node.spec.podOverrides ?? {};
  const priorityClassName = priorityClassOf(node);
  const copied = { tolerations, runtimeClassName, imagePullSecrets, priorityClassName };
  return {
    metadata: {
      name: prefetchName(inputs),
      namespace: node.metadata.namespace,
      labels: {
        "app.kubernetes.io/name": "resultity",
        "app.kubernetes.io/component": "prefetch",
        "sidecar.istio.io/inject": "false",
        [networkLabel]: node.spec.networkRef.name,
        [prefetchLabel]: role,
      },
      annotations: {
        "sidecar.istio.io/inject": "false",
        "linkerd.io/inject": "disabled",
        [prefetchImageAnnotation]: image,
      },
      ownerReferences: [ownedBy(network)],
    },
    spec: {
      nodeName: host,
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      restartPolicy: "Never",
      terminationGracePeriodSeconds: 2,
      securityContext: {
        runAsNonRoot: true,
        runAsUser: user,
        runAsGroup: user,
        seccompProfile: { type: "RuntimeDefault" },
      },
      containers: [
        {
          name: holdContainer,
          image: base ?? image,
          imagePullPolicy: "IfNotPresent",
          command: ["/bin/sh", "-c", holdOn],
          // Images of engines ask for all GPUs, and some container runtimes would give them.
          env: [{ name: "NVIDIA_VISIBLE_DEVICES", value: "void" }],
          resources: {
            requests: { cpu: "1m", memory: "16Mi" },
            limits: { cpu: "100m", memory: "64Mi" },
          },
          securityContext: {
            allowPrivilegeEscalation: false,
            readOnlyRootFilesystem: true,
            capabilities: { drop: ["ALL"] },
          },
          ...(base === undefined
            ? {}
            : { volumeMounts: [{ name: heldVolume, mountPath: "/held", readOnly: true }] }),
        },
      ],
      ...(base === undefined
        ? {}
        : { volumes: [{ name: heldVolume, image: { reference: image, pullPolicy: "IfNotPresent" } }] }),
      ...compact(copied),
    },
  };
}
