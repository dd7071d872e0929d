/**
 * Objects that are right or wrong in one way each, for both checkers: zod in the unit test, a real API server in the
 * integration test. A wrong one says which field the refusal must name and which words must tell the fix.
 */
import { apiVersion } from "../../src/api/v1alpha1/meta.ts";

/** An object as a user writes it. */
export interface Manifest {
  apiVersion: string;
  kind: string;
  metadata: { name: string; namespace: string };
  spec: Record<string, unknown>;
}

/** One object that must be refused. */
export interface WrongCase {
  readonly name: string;
  readonly object: Manifest;
  /** Path of the field, as the API server writes it. */
  readonly field: string;
  /** What the API server's text must say beside the field. */
  readonly says: string;
  /** The object has a field that is unknown; strict decoding would name that before any rule is asked. */
  readonly unknownField?: true;
  /** What only the API server checks: zod has no list types and does not compare quantities. */
  readonly apiServerAlone?: true;
}

export const someDigest = `sha256:${"0123456789abcdef".repeat(4)}`;
export const otherDigest = `sha256:${"fedcba9876543210".repeat(4)}`;
export const someImage = `registry.example:5000/team/agent:1.2@${someDigest}`;

/** A network with what is required and `spec` over it. */
export function network(spec: Record<string, unknown> = {}, name = "testnet"): Manifest {
  return {
    apiVersion,
    kind: "ResultityNetwork",
    metadata: { name, namespace: "default" },
    spec: {
      environment: "Testnet",
      endpoints: ["https://io.example.com"],
      trust: { rootConfigMap: { name: "root" } },
      account: { id: "acme", secretName: "account" },
      agent: { image: someImage },
      ...spec,
    },
  };
}

/** A node with what is required and `spec` over it. */
export function node(spec: Record<string, unknown> = {}, name = "node"): Manifest {
  return {
    apiVersion,
    kind: "ResultityNode",
    metadata: { name, namespace: "default" },
    spec: { networkRef: { name: "testnet" }, runtime: { engine: "vllm" }, ...spec },
  };
}

/** A pool with what is required, `spec` over it and `template` over its template's spec. */
export function pool(
  spec: Record<string, unknown> = {},
  template: Record<string, unknown> = {},
  name = "pool",
): Manifest {
  return {
    apiVersion,
    kind: "ResultityNodePool",
    metadata: { name, namespace: "default" },
    spec: {
      template: { spec: { networkRef: { name: "testnet" }, runtime: { engine: "vllm" }, ...template } },
      ...spec,
    },
  };
}

const overrides = (podOverrides: Record<string, unknown>) => node({ podOverrides });
const volume = (volume: Record<string, unknown>) => overrides({ volumes: [{ name: "extra", ...volume }] });
const mount = (mountPath: string, more: Record<string, unknown> = {}) =>
  overrides({
    volumes: [{ name: "extra", emptyDir: {} }],
    volumeMounts: [{ name: "extra", mountPath, ...more }],
  });

export const rightCases: readonly { readonly name: string; readonly object: Manifest }[] = [
  { name: "a network with a root statement inline", object: network({ trust: { root: "{}" } }, "inline") },
  {
    name: "a network at an address in brackets with a port and a path",
    object: network({ endpoints: ["http://[::1]:8443/io"] }, "v6"),
  },
  { name: "B27 a node whose name has 63 characters", object: node({}, "n".repeat(63)) },
  { name: "B27 a pool whose name has 58 characters", object: pool({}, {}, "p".repeat(58)) },
  { name: "B26 a pool of no nodes", object: pool({ replicas: 0 }, {}, "none") },
  {
    name: "a pool on lent GPUs",
    object: pool({ capacity: "Opportunistic" }, { podOverrides: { runtimeClassName: "nvidia" } }, "lent"),
  },
  {
    name: "a pool with a PriorityClass of its own",
    object: pool({}, { podOverrides: { priorityClassName: "batch" } }, "prior"),
  },
  { name: "a node on lent GPUs", object: node({ capacity: "Opportunistic" }, "lent") },
  { name: "B26 a pool of 10000 nodes", object: pool({ replicas: 10_000 }, {}, "many") },
  {
    name: "a pool updated by percentage",
    object: pool({ strategy: { rollingUpdate: { maxUnavailable: "25%" } } }, {}, "percent"),
  },
  {
    name: "a network with mirrors of models",
    object: network(
      {
        models: {
          mirrors: [
            { source: "https://hub.example.com", mirrors: ["http://10.0.0.7:8080/hub", "file:///mnt/hub"] },
            { source: "https://hub.example.com/org/big/", mirrors: ["https://near.example.com"] },
          ],
        },
      },
      "mirrors",
    ),
  },
  {
    name: "a network that allows and denies models",
    object: network({ models: { allowed: ["meta-llama/*", "llama3:8b"], denied: ["*"] } }, "models"),
  },
  {
    name: "a node with weights in an image",
    object: node({ modelCache: { imageVolume: { reference: someImage } } }, "weights-in-image"),
  },
  {
    name: "a node with GPUs by resource claims",
    object: node(
      {
        gpu: {
          count: 2,
          claims: [
            { name: "gpus", resourceClaimTemplateName: "two-gpus", request: "gpus" },
            { name: "shared", resourceClaimName: "nic" },
          ],
        },
      },
      "claims",
    ),
  },
  {
    name: "a pool with GPUs by resource claims",
    object: pool({}, { gpu: { claims: [{ name: "gpu", resourceClaimTemplateName: "gpu" }] } }, "claims"),
  },
  {
    name: "a node with every field",
    object: node(
      {
        replicas: 0,
        gpu: { count: 8, resourceName: "nvidia.com/gpu", product: "NVIDIA-H100-80GB-HBM3" },
        runtime: {
          engine: "sglang",
          image: someImage,
          args: ["--tp", "8"],
          env: [{ name: "NCCL_DEBUG", value: "WARN" }],
          resources: {
            limits: { cpu: 8, memory: "64Gi" },
            requests: { cpu: "7500m", memory: "64Gi", "rdma/hca": 1 },
          },
        },
        models: ["meta-llama/Llama-3.1-8B-Instruct", "llama3:8b"],
        modelCache: { hostPath: { path: "/data/models" } },
        identity: { secretName: "my-identity" },
        participation: { subclouds: ["eu"], accept: false },
        config: { pin: someDigest },
        drain: { timeoutSeconds: 3600, evictionTimeoutSeconds: 10 },
        podOverrides: {
          labels: { team: "a", "example.com/x": "y" },
          annotations: { "sidecar.istio.io/inject": "true" },
          nodeSelector: { zone: "a" },
          affinity: {
            nodeAffinity: {
              requiredDuringSchedulingIgnoredDuringExecution: {
                nodeSelectorTerms: [{ matchExpressions: [{ key: "rack", operator: "In", values: ["1"] }] }],
              },
              preferredDuringSchedulingIgnoredDuringExecution: [
                { weight: 1, preference: { matchExpressions: [{ key: "rack", operator: "Exists" }] } },
              ],
            },
            podAntiAffinity: {
              requiredDuringSchedulingIgnoredDuringExecution: [
                { topologyKey: "kubernetes.io/hostname", labelSelector: { matchLabels: { team: "a" } } },
              ],
            },
          },
          tolerations: [
            { key: "nvidia.com/gpu", operator: "Exists", effect: "NoExecute", tolerationSeconds: 60 },
          ],
          topologySpreadConstraints: [
            { maxSkew: 1, topologyKey: "kubernetes.io/hostname", whenUnsatisfiable: "ScheduleAnyway" },
          ],
          priorityClassName: "high",
          runtimeClassName: "nvidia",
          schedulerName: "kueue",
          imagePullSecrets: [{ name: "pull" }],
          volumes: [
            { name: "scratch", emptyDir: { sizeLimit: "10Gi" } },
            { name: "data", hostPath: { path: "/data/sets" } },
            { name: "tuning", configMap: { name: "tuning" } },
            { name: "claim", persistentVolumeClaim: { claimName: "claim" } },
          ],
          volumeMounts: [
            { name: "scratch", mountPath: "/scratch" },
            { name: "data", mountPath: "/data", readOnly: true, subPath: "a/b" },
          ],
        },
      },
      "full",
    ),
  },
];

const digestFix = 'write "registry/name@sha256:<64 hex digits>"';

export const wrongCases: readonly WrongCase[] = [
  {
    name: "B26 negative replicas",
    object: pool({ replicas: -1 }),
    field: "spec.replicas",
    says: "greater than or equal to 0",
  },
  {
    name: "B26 huge replicas",
    object: pool({ replicas: 1e12 }),
    field: "spec.replicas",
    says: "less than or equal to 10000",
  },
  {
    name: "B26 fractional replicas",
    object: pool({ replicas: 1.5 }),
    field: "spec.replicas",
    says: "integer",
  },
  {
    name: "B26 a node of two",
    object: node({ replicas: 2 }),
    field: "spec.replicas",
    says: "less than or equal to 1",
  },
  {
    name: "B27 a node's name of 64 characters",
    object: node({}, "n".repeat(64)),
    field: "metadata.name",
    says: "at most 63 characters",
  },
  {
    name: "B27 a node's name with a dot",
    object: node({}, "a.b"),
    field: "metadata.name",
    says: "only lower-case letters, digits and dashes",
  },
  {
    name: "B27 a pool whose children would pass 63",
    object: pool({}, {}, "p".repeat(59)),
    field: "metadata.name",
    says: "at most 58 characters",
  },
  {
    name: "B28 an agent image by tag",
    object: network({ agent: { image: "agent:latest" } }),
    field: "spec.agent.image",
    says: digestFix,
  },
  {
    name: "B28 a runtime image by tag",
    object: node({ runtime: { engine: "vllm", image: "vllm/vllm-openai:v1" } }),
    field: "spec.runtime.image",
    says: digestFix,
  },
  {
    name: "B28 a template's runtime image by tag",
    object: pool({}, { runtime: { engine: "vllm", image: "a/b:c" } }),
    field: "spec.template.spec.runtime.image",
    says: digestFix,
  },
  {
    name: "B28 a short digest",
    object: node({ runtime: { engine: "vllm", image: "a@sha256:ab" } }),
    field: "spec.runtime.image",
    says: digestFix,
  },
  {
    name: "B29 host network",
    object: overrides({ hostNetwork: true }),
    field: "spec.podOverrides.hostNetwork",
    says: "unknown field",
  },
  {
    name: "B29 a container",
    object: overrides({ containers: [{ name: "x" }] }),
    field: "spec.podOverrides.containers",
    says: "unknown field",
  },
  {
    name: "B29 a security context",
    object: overrides({ securityContext: {} }),
    field: "spec.podOverrides.securityContext",
    says: "unknown field",
  },
  {
    name: "B29 a service account",
    object: overrides({ serviceAccountName: "x" }),
    field: "spec.podOverrides.serviceAccountName",
    says: "unknown field",
  },
  {
    name: "B29 a Secret as a volume",
    object: volume({ secret: { secretName: "node-identity" } }),
    field: "spec.podOverrides.volumes[0]",
    says: "Secrets, tokens and other sources cannot be mounted",
    unknownField: true,
  },
  {
    name: "B29 a token as a volume",
    object: volume({ projected: { sources: [{ serviceAccountToken: { path: "t" } }] } }),
    field: "spec.podOverrides.volumes[0]",
    says: "Secrets, tokens and other sources cannot be mounted",
    unknownField: true,
  },
  {
    name: "B29 an environment variable from a Secret",
    object: node({
      runtime: { engine: "vllm", env: [{ name: "A", valueFrom: { secretKeyRef: { name: "x", key: "y" } } }] },
    }),
    field: "spec.runtime.env[0].value",
    says: "Required value",
    unknownField: true,
  },
  {
    name: "B29 the kubelet's folder as a volume",
    object: volume({ hostPath: { path: "/var/lib/kubelet/pods" } }),
    field: "spec.podOverrides.volumes[0].hostPath.path",
    says: "must be a folder of its own on the host",
  },
  {
    name: "B29 a parent of the kubelet's folder",
    object: volume({ hostPath: { path: "/var" } }),
    field: "spec.podOverrides.volumes[0].hostPath.path",
    says: "must be a folder of its own on the host",
  },
  {
    name: "B29 the whole host as a volume",
    object: volume({ hostPath: { path: "/" } }),
    field: "spec.podOverrides.volumes[0].hostPath.path",
    says: "must be a folder of its own on the host",
  },
  {
    name: "B29 a host path with dots",
    object: volume({ hostPath: { path: "/data/../var/lib/kubelet" } }),
    field: "spec.podOverrides.volumes[0].hostPath.path",
    says: "must be an absolute path without",
  },
  {
    name: "B29 the kubelet's folder as model cache",
    object: node({ modelCache: { hostPath: { path: "/var/lib/kubelet" } } }),
    field: "spec.modelCache.hostPath.path",
    says: "must be a folder of its own on the host",
  },
  {
    name: "B29 a mount over the agent's folder",
    object: mount("/run/resultity/key"),
    field: "spec.podOverrides.volumeMounts[0].mountPath",
    says: "must not be at, under or over",
  },
  {
    name: "B29 a mount above the agent's folder",
    object: mount("/run"),
    field: "spec.podOverrides.volumeMounts[0].mountPath",
    says: "must not be at, under or over",
  },
  {
    name: "B29 a mount with dots",
    object: mount("/x/../run/resultity"),
    field: "spec.podOverrides.volumeMounts[0].mountPath",
    says: "must be an absolute path without",
  },
  {
    name: "B29 a mount of a part that leaves its volume",
    object: mount("/x", { subPath: "a/../.." }),
    field: "spec.podOverrides.volumeMounts[0].subPath",
    says: "must be a relative path without",
  },
  {
    name: "B29 a volume under an operator's name",
    object: overrides({ volumes: [{ name: "resultity-identity", emptyDir: {} }] }),
    field: "spec.podOverrides.volumes[0].name",
    says: "use another name",
  },
  {
    name: "B29 a mount without its volume",
    object: overrides({ volumeMounts: [{ name: "resultity-identity", mountPath: "/x" }] }),
    field: "spec.podOverrides",
    says: "every volumeMount needs a volume of its name",
  },
  {
    name: "B29 a label of the operator's",
    object: overrides({ labels: { "resultity.com/pool": "x" } }),
    field: "spec.podOverrides.labels",
    says: "use a key of your own",
  },
  {
    name: "B29 an annotation of the operator's",
    object: overrides({ annotations: { "resultity.com/desired": "{}" } }),
    field: "spec.podOverrides.annotations",
    says: "use a key of your own",
  },
  {
    name: "B29 an annotation under a name below the operator's",
    object: overrides({ annotations: { "a.resultity.com/x": "" } }),
    field: "spec.podOverrides.annotations",
    says: "use a key of your own",
  },
  {
    name: "B29 an environment variable of the operator's",
    object: node({ runtime: { engine: "vllm", env: [{ name: "RESULTITY_X", value: "" }] } }),
    field: "spec.runtime.env[0].name",
    says: "use another name",
  },
  {
    name: "a claim by name and by template",
    object: node({
      gpu: { claims: [{ name: "gpu", resourceClaimName: "a", resourceClaimTemplateName: "b" }] },
    }),
    field: "spec.gpu.claims[0]",
    says: "set exactly one of resourceClaimTemplateName and resourceClaimName",
  },
  {
    name: "a claim of nothing",
    object: node({ gpu: { claims: [{ name: "gpu" }] } }),
    field: "spec.gpu.claims[0]",
    says: "set exactly one of resourceClaimTemplateName and resourceClaimName",
  },
  {
    name: "claims beside an extended resource",
    object: node({
      gpu: { resourceName: "amd.com/gpu", claims: [{ name: "gpu", resourceClaimName: "a" }] },
    }),
    field: "spec.gpu",
    says: "remove it where claims give them",
  },
  {
    name: "claims that give no GPU",
    object: node({ gpu: { count: 0, claims: [{ name: "gpu", resourceClaimName: "a" }] } }),
    field: "spec.gpu",
    says: "set it to 1 or more",
  },
  {
    name: "a claim that a pool's nodes would share",
    object: pool({}, { gpu: { claims: [{ name: "gpu", resourceClaimName: "a" }] } }),
    field: "spec.template.spec",
    says: "set resourceClaimTemplateName instead",
  },
  {
    name: "GPUs beside spec.gpu",
    object: node({ runtime: { engine: "vllm", resources: { limits: { "nvidia.com/gpu": 1 } } } }),
    field: "spec",
    says: "set gpu.count instead",
  },
  {
    name: "a request over its limit",
    object: node({
      runtime: { engine: "vllm", resources: { limits: { memory: "1Gi" }, requests: { memory: "1025Mi" } } },
    }),
    field: "spec.runtime.resources",
    says: "lower the request or raise the limit",
    apiServerAlone: true,
  },
  {
    name: "a quantity that is none",
    object: node({ runtime: { engine: "vllm", resources: { limits: { memory: "lots" } } } }),
    field: "spec.runtime.resources.limits.memory",
    says: "should match",
  },
  {
    name: "a negative quantity",
    object: node({ runtime: { engine: "vllm", resources: { limits: { cpu: -1 } } } }),
    field: "spec.runtime.resources.limits.cpu",
    says: "greater than or equal to 0",
  },
  {
    name: "an engine that is none",
    object: node({ runtime: { engine: "tgi" } }),
    field: "spec.runtime.engine",
    says: "supported values",
  },
  {
    name: "B25 a model with a way out of its folder",
    object: node({ models: ["a/../../etc"] }),
    field: "spec.models[0]",
    says: "no part that is `..`",
  },
  {
    name: "the same model twice",
    object: node({ models: ["a", "a"] }),
    field: "spec.models[1]",
    says: "Duplicate value",
    apiServerAlone: true,
  },
  {
    name: "two kinds of model cache",
    object: node({ modelCache: { emptyDir: {}, hostPath: { path: "/data/m" } } }),
    field: "spec.modelCache",
    says: "set exactly one of",
  },
  {
    name: "B28 weights in an image by tag",
    object: node({ modelCache: { imageVolume: { reference: "registry.example.com/weights:1" } } }),
    field: "spec.modelCache.imageVolume.reference",
    says: "by digest",
  },
  {
    name: "a pattern of models with a star within",
    object: network({ models: { allowed: ["meta-*/x"] } }),
    field: "spec.models.allowed[0]",
    says: "must be a model name",
  },
  {
    name: "a mirror with a password",
    object: network({
      models: { mirrors: [{ source: "https://a", mirrors: ["https://user:secret@b"] }] },
    }),
    field: "spec.models.mirrors[0].mirrors[0]",
    says: "without user, query or fragment",
  },
  {
    name: "two lists of mirrors for one source",
    object: network({
      models: {
        mirrors: [
          { source: "https://a", mirrors: ["https://b"] },
          { source: "https://a", mirrors: ["https://c"] },
        ],
      },
    }),
    field: "spec.models.mirrors[1]",
    says: "Duplicate value",
    apiServerAlone: true,
  },
  {
    name: "a pin that is no digest",
    object: network({ config: { pin: "latest" } }),
    field: "spec.config.pin",
    says: "64 lower-case hex digits",
  },
  {
    name: "two sources of trust",
    object: network({ trust: { root: "{}", rootConfigMap: { name: "x" } } }),
    field: "spec.trust",
    says: "set exactly one of root and rootConfigMap",
  },
  {
    name: "no source of trust",
    object: network({ trust: {} }),
    field: "spec.trust",
    says: "set exactly one of root and rootConfigMap",
  },
  {
    name: "an endpoint with a password",
    object: network({ endpoints: ["https://a:b@io.example.com"] }),
    field: "spec.endpoints[0]",
    says: "must be an http or https URL without user",
  },
  { name: "no endpoint", object: network({ endpoints: [] }), field: "spec.endpoints", says: "at least 1" },
  {
    name: "a third environment",
    object: network({ environment: "Devnet" }),
    field: "spec.environment",
    says: "supported values",
  },
  {
    name: "a pool that may lose nobody",
    object: pool({ strategy: { rollingUpdate: { maxUnavailable: 0 } } }),
    field: "spec.strategy.rollingUpdate.maxUnavailable",
    says: "greater than or equal to 1",
  },
  {
    name: "a pool that may lose nobody, as a percentage",
    object: pool({ strategy: { rollingUpdate: { maxUnavailable: "0%" } } }),
    field: "spec.strategy.rollingUpdate.maxUnavailable",
    says: "should match",
  },
  {
    name: "a template with one identity for all",
    object: pool({}, { identity: { secretName: "x" } }),
    field: "spec.template.spec.identity",
    says: "unknown field",
  },
  {
    name: "B29 a pool on lent GPUs with another PriorityClass",
    object: pool({ capacity: "Opportunistic" }, { podOverrides: { priorityClassName: "high" } }),
    field: "spec",
    says: "PriorityClass resultity-opportunistic: remove it",
  },
  {
    name: "B29 a node on lent GPUs with another PriorityClass",
    object: node({ capacity: "Opportunistic", podOverrides: { priorityClassName: "high" } }),
    field: "spec",
    says: "PriorityClass resultity-opportunistic: remove it",
  },
  {
    name: "a template that says whose GPUs they are",
    object: pool({}, { capacity: "Opportunistic" }),
    field: "spec.template.spec.capacity",
    says: "unknown field",
  },
  {
    name: "a template with replicas",
    object: pool({}, { replicas: 0 }),
    field: "spec.template.spec.replicas",
    says: "unknown field",
  },
];
