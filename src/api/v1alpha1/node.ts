/** `ResultityNode`: one identity at the network, and the pod that serves it. */
import { z } from "zod";
import { capacities, lentAtLowPriority } from "./capacity.ts";
import { conditions } from "./condition-list.ts";
import { nodeConditionTypes, nodeReasons } from "./conditions.ts";
import {
  count,
  digest,
  engine,
  exactlyOne,
  image,
  immutable,
  labelValue,
  listAtomic,
  listMap,
  listSet,
  matching,
  modelName,
  networkName,
  dnsLabel,
  objectName,
  observedDigest,
  observedGeneration,
  qualifiedMap,
  quantity,
  time,
  withRules,
  type Rule,
} from "./fields.ts";
import { gpu } from "./gpu.ts";
import type { NewResource, Resource } from "./meta.ts";
import { maxDrainTimeoutSeconds } from "./names.ts";
import { emptyDir, hostPath, persistentVolumeClaim, podOverrides } from "./pod-overrides.ts";

const quantities = () => qualifiedMap(quantity(), 16);

const resources = withRules(
  z.strictObject({
    limits: quantities()
      .describe(
        "Most that the runtime may use of cpu, memory, ephemeral-storage and extended resources other than GPUs.",
      )
      .optional(),
    requests: quantities()
      .describe("What is set aside for the runtime on its host. Absent: the same as limits.")
      .optional(),
  }),
  {
    cel: "!has(self.requests) || !has(self.limits) || self.requests.all(k, !(k in self.limits) || quantity(string(self.requests[k])).compareTo(quantity(string(self.limits[k]))) <= 0)",
    message: "no request may be larger than its limit: lower the request or raise the limit",
  },
);

const env = z.strictObject({
  name: withRules(
    z.string().min(1).max(256),
    matching(/^[A-Za-z_][A-Za-z0-9_]*$/, "must be letters, digits and _, and not begin with a digit"),
    {
      cel: '!self.startsWith("RESULTITY_")',
      message: "names that begin with RESULTITY_ belong to the operator: use another name",
      check: (name) => !name.startsWith("RESULTITY_"),
    },
  ).describe("Name of the variable."),
  value: z.string().max(4096).describe("Its value, as it is: nothing is expanded in it."),
});

const runtime = z.strictObject({
  engine: engine().describe(
    "The inference server: vllm, ollama, sglang, llamacpp, or openai for any server that speaks OpenAI's API. Its image comes from the network's config.",
  ),
  image: image()
    .describe(
      "Which of the images that the network's config lists for the engine to run, by digest. It narrows the choice and cannot add to it. Absent: the one that fits the GPU.",
    )
    .optional(),
  args: listAtomic(z.string().max(4096), 128)
    .describe("Arguments of the engine, after those that the network's config gives.")
    .optional(),
  env: listMap(env, ["name"], 64)
    .describe(
      "Environment of the engine, over what the network's config gives. Not for secrets: who reads the node reads it.",
    )
    .optional(),
  resources: resources
    .describe("CPU, memory and storage of the runtime. GPUs are set by spec.gpu.")
    .optional(),
});

const modelCache = withRules(
  z.strictObject({
    emptyDir: emptyDir()
      .describe("A folder that is lost with the pod; at its size limit, unused weights make room.")
      .optional(),
    persistentVolumeClaim: persistentVolumeClaim().describe("A volume that outlives the pod.").optional(),
    hostPath: z
      .strictObject({
        path: hostPath().describe("Path of the folder on the host; it is made if it is not there."),
      })
      .describe("A folder of the host, shared by the nodes that run there.")
      .optional(),
    imageVolume: z
      .strictObject({
        reference: image().describe(
          "The image or OCI artifact, by digest, with the files at its root, in models/ or in a folder named as the model.",
        ),
      })
      .describe(
        "An image that has the weights, mounted read-only (Kubernetes 1.35, or the feature gate ImageVolume). Nothing is fetched: the agent hashes what is there. On older clusters take another kind.",
      )
      .optional(),
  }),
  exactlyOne(
    ["emptyDir", "persistentVolumeClaim", "hostPath", "imageVolume"],
    "set exactly one of emptyDir, persistentVolumeClaim, hostPath and imageVolume",
  ),
);

/** The fields that a node has whether it stands alone or comes from a pool's template. */
const shared = {
  networkRef: withRules(
    z.strictObject({ name: dnsLabel().describe("Name of the ResultityNetwork.") }),
    immutable(
      "cannot be changed: an identity belongs to one network; create another object for the other network",
    ),
  ).describe("The network that the node serves, in the same namespace."),
  gpu: gpu.describe("The GPUs of the runtime.").prefault({}),
  runtime: runtime.describe("The inference server and how it is started."),
  models: listSet(modelName(), 64)
    .describe("Models to serve, of those that the network's config lists for the engine. Empty: all of them.")
    .optional(),
  // No default: it would stay beside the member that a user applies later, and exactly one may be set.
  modelCache: modelCache.describe("Where weights are kept. Absent: an emptyDir without limit.").optional(),
  participation: z
    .strictObject({
      subclouds: listSet(networkName(), 64)
        .describe(
          "Subclouds of the network that the node takes jobs from. Empty: those that everyone serves.",
        )
        .optional(),
      accept: z
        .boolean()
        .describe("Whether the node takes new jobs. False: it finishes what it has and stays connected.")
        .default(true),
    })
    .describe("Which jobs the node takes. Changes apply to the running node.")
    .prefault({}),
  config: z
    .strictObject({
      pin: digest()
        .describe(
          "Digest of the config to move to, in place of the network's. The newest release must allow it.",
        )
        .optional(),
    })
    .describe("Which config the node moves to.")
    .optional(),
  drain: z
    .strictObject({
      timeoutSeconds: z
        .int()
        .min(1)
        .max(maxDrainTimeoutSeconds)
        .describe(
          "Longest that running jobs may take to end before a planned stop, in seconds; then they are handed back.",
        )
        .default(300),
      evictionTimeoutSeconds: z
        .int()
        .min(1)
        .max(600)
        .describe(
          "The same for a stop that nobody planned: eviction, preemption, deletion of the pod by hand.",
        )
        .default(30),
    })
    .describe("How long jobs may run on when the node stops.")
    .prefault({}),
  unreachable: z
    .strictObject({
      replaceAfterSeconds: z
        .int()
        .min(60)
        .max(604_800)
        .describe(
          "How long its host may be lost to the cluster, and the node to its network, before the pod is given up and one is made on another host. The lost one may still run: it loses its session to the new one, and its jobs. Absent: never, a person decides.",
        )
        .optional(),
    })
    .describe("What to do when the host does not answer any more.")
    .optional(),
  podOverrides: podOverrides.describe("What to add to the pod: a closed list.").optional(),
};

interface NodeLike {
  gpu: { resourceName: string };
  runtime: {
    resources?:
      | { limits?: Record<string, unknown> | undefined; requests?: Record<string, unknown> | undefined }
      | undefined;
  };
}

const gpuNotInResources: Rule<NodeLike> = {
  cel: "!has(self.runtime.resources) || ((!has(self.runtime.resources.limits) || !(self.gpu.resourceName in self.runtime.resources.limits)) && (!has(self.runtime.resources.requests) || !(self.gpu.resourceName in self.runtime.resources.requests)))",
  message: "runtime.resources must not name the GPU resource: set gpu.count instead",
  check: ({ gpu, runtime }) =>
    !Object.hasOwn(runtime.resources?.limits ?? {}, gpu.resourceName) &&
    !Object.hasOwn(runtime.resources?.requests ?? {}, gpu.resourceName),
};

interface ClaimsLike {
  gpu: { claims?: readonly { resourceClaimName?: string | undefined }[] | undefined };
}

const claimsNotShared: Rule<ClaimsLike> = {
  cel: "!has(self.gpu.claims) || self.gpu.claims.all(c, !has(c.resourceClaimName))",
  message:
    "gpu.claims: all nodes of the pool would share the devices of one ResourceClaim: set resourceClaimTemplateName instead",
  check: ({ gpu }) => (gpu.claims ?? []).every((claim) => claim.resourceClaimName === undefined),
};

const identityKept: Rule<unknown> = {
  cel: "!has(oldSelf.identity) || !has(oldSelf.identity.secretName) || (has(self.identity) && has(self.identity.secretName) && self.identity.secretName == oldSelf.identity.secretName)",
  message:
    "identity.secretName cannot be changed once set, since it is who the node is: create another ResultityNode",
};

export const nodeSpec = withRules(
  z.strictObject({
    replicas: z
      .int()
      .min(0)
      .max(1)
      .describe("1: the node runs. 0: it is drained and parked; its identity stays.")
      .default(1),
    capacity: z
      .enum(capacities)
      .describe(
        "Guaranteed: a node without GPUs is a fault. Opportunistic: it takes GPUs that nobody else wants, at a low priority that preempts nobody, and is parked while there are none. Absent: Guaranteed. A pool sets it for its nodes.",
      )
      .optional(),
    ...shared,
    identity: z
      .strictObject({
        secretName: objectName()
          .describe(
            "Name of the Secret with the node's key. It is created when it is not there. Absent: <node>-identity.",
          )
          .optional(),
      })
      .describe("Who the node is at the network.")
      .optional(),
  }),
  gpuNotInResources,
  identityKept,
  lentAtLowPriority([], (spec) => spec),
).describe("What the node should be.");

/** A pool's children differ in identity and are parked one by one, so neither is in the template. */
export const nodeTemplateSpec = withRules(z.strictObject(shared), gpuNotInResources, claimsNotShared);

/** Steps of recovery that cost a pod, from the smallest: see src/operator/node/recovery. */
export const recoverySteps = ["NewPod", "OtherHost", "AnyHost", "LostHost"] as const;
/** Why a step that would be due is not taken. */
export const recoveryHolds = ["BudgetSpent", "SharedCause", "ConfigUnproven", "NothingToRun"] as const;

const recovery = z.strictObject({
  cause: z
    .string()
    .max(64)
    .describe("Reason of what is wrong now, as the condition Degraded has it. Absent: it was mended.")
    .optional(),
  since: time().describe("Since when.").optional(),
  next: z
    .strictObject({
      step: z.enum(recoverySteps).describe("What is done."),
      time: time().describe("When, if it is still wrong then."),
    })
    .describe("The next step.")
    .optional(),
  held: z
    .enum(recoveryHolds)
    .describe(
      "Why no step is taken now. BudgetSpent: all of the last hours did not help. SharedCause: many nodes fail alike, which no new pod mends. ConfigUnproven: other nodes serve another config, and none this one. NothingToRun: no pod could be made in place of this one.",
    )
    .optional(),
  steps: listAtomic(
    z.strictObject({
      step: z
        .enum(recoverySteps)
        .describe(
          "NewPod: the pod was replaced. OtherHost: so that it comes to another host. AnyHost: no other host could take it. LostHost: it was given up with its host.",
        ),
      cause: z.string().max(64).describe("What it was taken for."),
      time: time().describe("When."),
      podUid: z.string().max(64).describe("UID of the pod that was replaced."),
      host: objectName().describe("Host that it was on.").optional(),
    }),
    8,
  )
    .describe("What was done in the last six hours, oldest first. Hosts that were left are avoided as long.")
    .optional(),
});

export const nodeStatus = z
  .strictObject({
    observedGeneration: observedGeneration().optional(),
    replicas: z.int().min(0).max(1).describe("1 while the node has a pod that is not finished.").optional(),
    nodeId: z
      .string()
      .max(128)
      .describe("Id of the node at the network: the thumbprint of its first key.")
      .optional(),
    podName: dnsLabel().describe("Name of its pod.").optional(),
    hostName: objectName().describe("Host that the pod runs on.").optional(),
    config: z
      .strictObject({
        target: observedDigest()
          .describe(
            "Digest that the node is to move to. Written by the pool's rollout, or for a node without a pool by the node's controller.",
          )
          .optional(),
        next: observedDigest()
          .describe(
            "Digest whose image and weights the node is to have ready before it is told to move there: when others are back in service, or the network's maintenance window opens. Written by the pool's rollout.",
          )
          .optional(),
        staged: observedDigest()
          .describe("Digest whose image and weights are on the host, as the agent's signed status says.")
          .optional(),
        applied: observedDigest()
          .describe("Digest that the node runs, as the agent's signed status says.")
          .optional(),
      })
      .describe("Where the node is between two configs.")
      .optional(),
    runtime: z
      .strictObject({
        engine: engine().describe("The inference server."),
        image: z.string().max(512).describe("Image that the kubelet runs, by digest."),
        version: z.string().max(128).describe("Version that the engine reports.").optional(),
      })
      .describe("The runtime that is running.")
      .optional(),
    models: listMap(
      z.strictObject({
        name: modelName().describe("Name of the model."),
        state: z
          .enum(["Missing", "Installed", "Active"])
          .describe(
            "Whether its weights are there, and whether the engine serves it: only Active takes jobs.",
          ),
      }),
      ["name"],
      256,
    )
      .describe("The models of the node.")
      .optional(),
    session: z
      .strictObject({
        connected: z.boolean().describe("Whether the network sees an open session of the node."),
        since: time().describe("Since when that is so.").optional(),
      })
      .describe("The node's session, as the network sees it; steady for 90 seconds before it changes.")
      .optional(),
    gpus: z
      .strictObject({
        requested: count().describe("GPUs that the pod requests."),
        product: labelValue().describe("Product of the host's GPUs, where it is labelled.").optional(),
      })
      .describe("The GPUs of the node.")
      .optional(),
    recovery: recovery
      .describe("What is done about a node that does not come back by itself. Absent: nothing.")
      .optional(),
    conditions: conditions(nodeConditionTypes, nodeReasons).optional(),
  })
  .describe("What the operator knows about the node. Load and running jobs are metrics, not status.");

export type NodeSpec = z.output<typeof nodeSpec>;
export type NodeTemplateSpec = z.output<typeof nodeTemplateSpec>;
export type NodeStatus = z.output<typeof nodeStatus>;
export type Recovery = NonNullable<NodeStatus["recovery"]>;
export type RecoveryStep = (typeof recoverySteps)[number];
export type ModelState = NonNullable<NodeStatus["models"]>[number]["state"];
export type ResultityNode = Resource<"ResultityNode", NodeSpec, NodeStatus>;
export type NewResultityNode = NewResource<"ResultityNode", z.input<typeof nodeSpec>>;
