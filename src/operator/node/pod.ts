import { maxDrainTimeoutSeconds } from "../../api/v1alpha1/names.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { type Draft, ownedBy } from "../../kube/object.ts";
import type { Pod } from "../../kube/resources.ts";
import { type Desired, desiredAnnotation } from "../../protocol/desired.ts";
import { agentPort } from "../../protocol/status.ts";
import { priorityClassOf } from "../capacity.ts";
import { identitySecretOf } from "../context.ts";
import { canonical } from "../hash.ts";
import { inputsHashAnnotation, networkConfigMapName, networkLabel, nodeLabel, poolLabel } from "../names.ts";
import { bytesOf } from "../quantity.ts";
import type { NetworkConfig } from "../views.ts";
import { awayFrom } from "./recovery/away.ts";
import { claimsOf } from "./claims.ts";
import { identityInputsHash, podInputsHash } from "./inputs.ts";
import {
  agentContainer,
  folders,
  identityHashAnnotation,
  identityVolume,
  resourcesAnnotation,
  runtimeContainer,
} from "./pod-parts.ts";

type PodSpec = NonNullable<Pod["spec"]>;
type Container = PodSpec["containers"][number];
type Volume = NonNullable<PodSpec["volumes"]>[number];

/** All that a pod is made from. */
export interface PodInputs {
  readonly node: ResultityNode;
  readonly config: NetworkConfig;
  readonly agentImage: string;
  readonly runtimeImage: string;
  readonly desired: Desired;
  /** Hosts to which the pod is not to come; none where absent. */
  readonly avoid?: readonly string[];
  /** Token that the agent wants of whoever drains it. */
  readonly drainToken: string;
}

/** Cannot change while the pod lives, so it covers the longest drain that the spec allows, with time for the handover. */
export const terminationGraceSeconds = maxDrainTimeoutSeconds + 300;

/** User and group of the agent. */
const agentUser = 65_532;

const volumes = {
  identity: identityVolume,
  network: "resultity-network",
  pod: "resultity-pod",
  state: "resultity-state",
  launch: "resultity-launch",
  launcher: "resultity-launcher",
  models: "resultity-models",
  home: "resultity-home",
  shm: "resultity-shm",
} as const;

/** The pod of a node: the agent as a native sidecar, the runtime behind our launcher (DESIGN §5). */
export function podOf(inputs: PodInputs): Draft<Pod> {
  const { node, config, desired } = inputs;
  const { metadata, spec } = node;
  const overrides = spec.podOverrides ?? {};
  const pool = metadata.labels?.[poolLabel];
  const claims = claimsOf(spec.gpu).pod;
  return {
    metadata: {
      name: metadata.name,
      namespace: metadata.namespace,
      labels: {
        ...overrides.labels,
        "app.kubernetes.io/name": "resultity",
        "app.kubernetes.io/component": "node",
        // A mesh's proxy in the pod would stand between the agent and its probes, and outlive neither in order.
        "sidecar.istio.io/inject": "false",
        ...podLabels(node),
        ...(pool === undefined ? {} : { [poolLabel]: pool }),
      },
      annotations: {
        ...overrides.annotations,
        "sidecar.istio.io/inject": "false",
        "linkerd.io/inject": "disabled",
        [desiredAnnotation]: JSON.stringify(desired),
        [inputsHashAnnotation]: podInputsHash(node, config),
        [resourcesAnnotation]: canonical(spec.runtime.resources ?? {}),
        // Whether the key is what the node's annotation wants is looked at next.
        [identityHashAnnotation]: identityInputsHash(config, undefined),
      },
      ownerReferences: [ownedBy(node)],
    },
    spec: {
      automountServiceAccountToken: false,
      enableServiceLinks: false,
      restartPolicy: "Always",
      terminationGracePeriodSeconds: terminationGraceSeconds,
      securityContext: {
        seccompProfile: { type: "RuntimeDefault" },
        // A claim's folder belongs to root; the agent, which is not, has to write weights into it.
        ...(spec.modelCache?.persistentVolumeClaim
          ? { fsGroup: agentUser, fsGroupChangePolicy: "OnRootMismatch" }
          : {}),
      },
      initContainers: [agentOf(inputs)],
      containers: [runtimeOf(inputs)],
      volumes: [...ownVolumes(node), ...userVolumes(node)],
      ...(claims.length > 0 ? { resourceClaims: claims } : {}),
      ...scheduling(node),
      ...awayFrom(inputs.avoid ?? [], node.spec.podOverrides?.affinity),
    },
  };
}

/** Labels by which the caches and others find the pod. Restored when someone removes them. */
export function podLabels(node: ResultityNode): Record<string, string> {
  return { [nodeLabel]: node.metadata.name, [networkLabel]: node.spec.networkRef.name };
}

function scheduling(node: ResultityNode): Partial<PodSpec> {
  const { spec } = node;
  const {
    nodeSelector,
    affinity,
    tolerations,
    topologySpreadConstraints,
    runtimeClassName,
    schedulerName,
    imagePullSecrets,
  } = spec.podOverrides ?? {};
  const product = spec.gpu.product === undefined ? {} : { "nvidia.com/gpu.product": spec.gpu.product };
  return compact({
    nodeSelector: { ...nodeSelector, ...product },
    affinity,
    tolerations,
    topologySpreadConstraints,
    priorityClassName: priorityClassOf(node),
    runtimeClassName,
    schedulerName,
    imagePullSecrets,
  });
}

/**
 * Memory of the agent's container, MiB. It holds up to 64 MiB of answers until they are acknowledged; an engine that sends as
 * fast as it can on several jobs takes it to some 450 MiB (measured) before what was read is collected.
 */
export const agentMemoryMib = 512;

function agentOf({ node, config, agentImage }: PodInputs): Container {
  const size = { cpu: "500m", memory: `${agentMemoryMib}Mi` };
  return {
    name: agentContainer,
    image: agentImage,
    restartPolicy: "Always",
    args: [
      "run",
      ...flags({
        "node-name": node.metadata.name,
        network: config.root.network,
        listen: `$(POD_IP):${agentPort}`,
        "identity-dir": folders.identity,
        "network-dir": folders.network,
        "pod-dir": folders.pod,
        "state-dir": folders.state,
        "launch-dir": folders.launch,
      }),
      ...config.endpoints.flatMap((endpoint) => ["--endpoint", endpoint]),
    ],
    env: [{ name: "POD_IP", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } }, ...modelsBound(node)],
    ports: [{ name: "agent", containerPort: agentPort }],
    resources: { requests: size, limits: size },
    // Startup is a verified config with its weights, not a session: an outage of the network must not restart the agent
    // or keep the engine cold, and weights take as long as they take, so it may last a day.
    startupProbe: {
      httpGet: { path: "/startup", port: agentPort },
      periodSeconds: 1,
      failureThreshold: 86_400,
    },
    // Process 1 ignores a SIGTERM that it has no handler for: an agent that began a moment ago would miss it, and the pod use up its
    // grace period. In a pod that ends the sleep runs beside the runtime's drain.
    lifecycle: { preStop: { sleep: { seconds: 2 } } },
    volumeMounts: [
      { name: volumes.identity, mountPath: folders.identity, readOnly: true },
      { name: volumes.network, mountPath: folders.network, readOnly: true },
      { name: volumes.pod, mountPath: folders.pod, readOnly: true },
      { name: volumes.state, mountPath: folders.state },
      { name: volumes.launch, mountPath: folders.launch },
      // Mounted here too, and first: below a read-only mount, as the runtime has it, no mount point can be made.
      { name: volumes.launcher, mountPath: folders.launcher },
      { name: volumes.models, mountPath: folders.models },
    ],
    securityContext: {
      ...(node.spec.modelCache?.hostPath
        ? // A folder that the kubelet makes on the host is root's, and no group can be set on it.
          { runAsUser: 0, runAsGroup: 0 }
        : { runAsNonRoot: true, runAsUser: agentUser, runAsGroup: agentUser }),
      allowPrivilegeEscalation: false,
      readOnlyRootFilesystem: true,
      capabilities: { drop: ["ALL"] },
    },
  };
}

const flags = (values: Record<string, string>): string[] =>
  Object.entries(values).flatMap(([name, value]) => [`--${name}`, value]);

function runtimeOf({ node, runtimeImage, drainToken }: PodInputs): Container {
  const { gpu, runtime, podOverrides } = node.spec;
  const claims = claimsOf(gpu).runtime;
  const gpus = gpu.count === 0 || claims.length > 0 ? {} : { [gpu.resourceName]: String(gpu.count) };
  const home = {
    HOME: folders.home,
    USER: "engine",
    LOGNAME: "engine",
    XDG_CACHE_HOME: `${folders.home}/.cache`,
    HF_HOME: `${folders.home}/.cache/huggingface`,
    TRITON_CACHE_DIR: `${folders.home}/.cache/triton`,
  };
  const env = new Map(Object.entries(home));
  for (const { name, value } of runtime.env ?? []) env.set(name, value);
  return {
    name: runtimeContainer,
    image: runtimeImage,
    command: ["/bin/sh", `${folders.launch}/launch.sh`],
    env: [...env].map(([name, value]) => ({ name, value: unexpanded(value) })),
    resources: {
      requests: { ...quantities(runtime.resources?.requests), ...gpus },
      limits: { ...quantities(runtime.resources?.limits), ...gpus },
      ...(claims.length > 0 ? { claims } : {}),
    },
    // A new size is for the engine to use, not to be restarted for: it learns of none that it could take only at its start.
    resizePolicy: [
      { resourceName: "cpu", restartPolicy: "NotRequired" },
      { resourceName: "memory", restartPolicy: "NotRequired" },
    ],
    // Both reach the agent: readiness is config, engine and models; preStop drains. No liveness: the agent replaces a
    // hung engine, and a broken agent must not kill a healthy one.
    readinessProbe: {
      httpGet: { path: "/ready", port: agentPort },
      periodSeconds: 2,
      timeoutSeconds: 2,
      failureThreshold: 3,
    },
    lifecycle: {
      preStop: {
        httpGet: {
          path: "/drain",
          port: agentPort,
          httpHeaders: [{ name: "Authorization", value: `Bearer ${drainToken}` }],
        },
      },
    },
    volumeMounts: [
      { name: volumes.launch, mountPath: folders.launch, readOnly: true },
      { name: volumes.launcher, mountPath: folders.launcher },
      { name: volumes.models, mountPath: folders.models, readOnly: true },
      { name: volumes.home, mountPath: folders.home },
      { name: volumes.shm, mountPath: "/dev/shm" },
      ...(podOverrides?.volumeMounts ?? []).map((mount) => compact(mount)),
    ],
    securityContext: { allowPrivilegeEscalation: false, capabilities: { drop: ["ALL"] } },
  };
}

function ownVolumes(node: ResultityNode): Volume[] {
  const { networkRef } = node.spec;
  return [
    // Readable by the agent's user, who is not root; no other container mounts it.
    { name: volumes.identity, secret: { secretName: identitySecretOf(node), defaultMode: 0o444 } },
    { name: volumes.network, configMap: { name: networkConfigMapName(networkRef.name), optional: true } },
    {
      name: volumes.pod,
      downwardAPI: {
        items: [{ path: "desired", fieldRef: { fieldPath: `metadata.annotations['${desiredAnnotation}']` } }],
      },
    },
    { name: volumes.state, emptyDir: {} },
    { name: volumes.launch, emptyDir: {} },
    { name: volumes.launcher, emptyDir: {} },
    modelVolume(node),
    { name: volumes.home, emptyDir: {} },
    { name: volumes.shm, emptyDir: { medium: "Memory" } },
  ];
}

function userVolumes({ spec }: ResultityNode): Volume[] {
  return (spec.podOverrides?.volumes ?? []).map(({ emptyDir, ...volume }) => ({
    ...compact(volume),
    ...(emptyDir ? { emptyDir: sized(emptyDir.sizeLimit) } : {}),
  }));
}

function sized(sizeLimit: string | number | undefined): { sizeLimit?: string } {
  return sizeLimit === undefined ? {} : { sizeLimit: String(sizeLimit) };
}

function modelVolume({ spec }: ResultityNode): Volume {
  const { persistentVolumeClaim, hostPath, emptyDir, imageVolume } = spec.modelCache ?? {};
  const name = volumes.models;
  if (imageVolume) return { name, image: { reference: imageVolume.reference, pullPolicy: "IfNotPresent" } };
  if (persistentVolumeClaim) return { name, persistentVolumeClaim };
  if (hostPath) return { name, hostPath: { path: hostPath.path, type: "DirectoryOrCreate" } };
  return { name, emptyDir: sized(emptyDir?.sizeLimit) };
}

/**
 * The kubelet evicts a pod whose emptyDir outgrows its limit: the agent removes unused weights before that, or says that
 * they do not fit. A variable, which an agent that is older than it ignores, and not a flag, which it would refuse.
 */
function modelsBound({ spec }: ResultityNode): { name: string; value: string }[] {
  const limit = spec.modelCache?.emptyDir?.sizeLimit;
  return limit === undefined ? [] : [{ name: "RESULTITY_MODELS_MAX_BYTES", value: String(bytesOf(limit)) }];
}

/** The kubelet replaces `$(NAME)` in values and reads `$$` as `$`; a value of the user's is to arrive as it is. */
const unexpanded = (value: string): string => value.replaceAll("$", "$$$$");

/** Quantities are strings on the wire; a CRD lets a user write a bare number. */
function quantities(list: Record<string, string | number> | undefined): Record<string, string> {
  return Object.fromEntries(Object.entries(list ?? {}).map(([name, amount]) => [name, String(amount)]));
}

/** A type without `undefined` as a value, at any depth. */
type Compact<T> = T extends readonly (infer E)[]
  ? Compact<E>[]
  : T extends object
    ? { [K in keyof T]: Compact<Exclude<T[K], undefined>> }
    : T;

/** A copy without the members that are undefined, at any depth. */
export function compact<T extends object>(value: T): Compact<T> {
  return JSON.parse(JSON.stringify(value));
}
