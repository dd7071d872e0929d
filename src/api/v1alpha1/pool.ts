/** `ResultityNodePool`: equal nodes, counted and rolled together. */
import { z } from "zod";
import { conditions } from "./condition-list.ts";
import { poolConditionTypes, poolReasons } from "./conditions.ts";
import {
  count,
  dnsLabel,
  listMap,
  observedDigest,
  observedGeneration,
  quantity,
  time,
  withRules,
} from "./fields.ts";
import type { NewResource, Resource } from "./meta.ts";
import { maxPoolReplicas } from "./names.ts";
import { capacities, lentAtLowPriority } from "./capacity.ts";
import { nodeTemplateSpec } from "./node.ts";
import { annotations, labels } from "./pod-overrides.ts";

/** Longest name of a pool, so that `<pool>-9999` is still a DNS label. */
export const maxPoolNameLength = 58;

const percentPattern = /^([1-9][0-9]?|100)%$/;

const maxUnavailable = z
  .union([z.int().min(1).max(maxPoolReplicas), z.string().max(4).regex(percentPattern)])
  .meta({
    "x-kubernetes-int-or-string": true,
    minimum: 1,
    maximum: maxPoolReplicas,
    maxLength: 4,
    pattern: percentPattern.source,
  });

const percent = (fallback: number) => z.int().min(0).max(100_000).default(fallback);

const canary = z.strictObject({
  replicas: z
    .int()
    .min(1)
    .max(maxPoolReplicas)
    .describe("How many nodes try a new config before the others move: those with the lowest numbers.")
    .default(1),
  jobs: z
    .int()
    .min(0)
    .max(1_000_000)
    .describe("How many jobs they have to answer first, all together. Without traffic the update waits.")
    .default(20),
  maxErrorRatePercent: percent(5).describe("Most of these jobs that may fail, in percent."),
  maxLatencyIncreasePercent: percent(50).describe(
    "Most that their jobs may take longer than those of the nodes under the old config, in percent.",
  ),
  soakSeconds: z
    .int()
    .min(0)
    .max(604_800)
    .describe(
      "How long they have to be in service first; also how long one that cannot come up is borne, which is at least 60 seconds.",
    )
    .default(300),
});
export type Canary = z.output<typeof canary>;

export const poolSpec = withRules(
  z.strictObject({
    replicas: z.int().min(0).max(maxPoolReplicas).describe("How many nodes the pool has.").default(1),
    capacity: z
      .enum(capacities)
      .describe(
        "Guaranteed: replicas is how many nodes there should be. Opportunistic: replicas is how many there may be. They take GPUs that nobody else wants, at a low priority that preempts nobody; a node for which there are none is parked (reason NoCapacity) and counts in no budget.",
      )
      .default("Guaranteed"),
    template: z
      .strictObject({
        metadata: z
          .strictObject({
            labels: labels().describe("Labels of the nodes, beside the operator's.").optional(),
            annotations: annotations()
              .describe("Annotations of the nodes, beside the operator's.")
              .optional(),
          })
          .describe("Metadata of the nodes. What their pods get is in spec.podOverrides.")
          .optional(),
        spec: nodeTemplateSpec.describe("What the nodes are, as in the spec of a ResultityNode."),
      })
      .describe("What the nodes of the pool are: <pool>-0, <pool>-1 and so on."),
    strategy: z
      .strictObject({
        rollingUpdate: z
          .strictObject({
            maxUnavailable: maxUnavailable
              .describe(
                "Most nodes that may be out of service for an update at once: a number, or a percentage of replicas, rounded down and at least 1.",
              )
              .default(1),
            partition: z
              .int()
              .min(0)
              .max(maxPoolReplicas)
              .describe(
                "Nodes whose number is less than this are left as they are: a new config or template is tried on the others first. 0: all are updated.",
              )
              .default(0),
            canary: canary
              .describe(
                "A trial of each new config by the first nodes, judged by what the network sees of their jobs. Absent: there is none. A new template is not tried.",
              )
              .optional(),
            autoRollback: z
              .boolean()
              .describe(
                "Whether the pool goes back to the config before when the trial of a new one fails. The reason is kept in status.rejected.",
              )
              .default(true),
            prefetch: z
              .strictObject({
                maxParallel: z
                  .int()
                  .min(1)
                  .max(maxPoolReplicas)
                  .describe(
                    "Most images that hosts of the network may be fetching when a node of the pool begins to fetch one; those that cannot be pulled count too.",
                  )
                  .default(4),
                minFreeDisk: quantity()
                  .describe(
                    "Least that a host must have free where it keeps images, or none begins to come: as much as the largest image takes unpacked, and what the kubelet keeps free (15 % unless set otherwise). With less, the node stays as it is and says so. Absent: that is not asked.",
                  )
                  .optional(),
              })
              .describe(
                "How a new image comes to a host while the node there still runs the old one. A node is stopped for an image only when its host has it.",
              )
              .optional(),
          })
          .describe("How an update goes from node to node.")
          .prefault({}),
        paused: z
          .boolean()
          .describe("Whether updates stop where they are. Nodes that were told to move still do.")
          .default(false),
      })
      .describe("How the pool moves to a new config or template.")
      .prefault({}),
    identityRetention: z
      .enum(["Retain", "Delete"])
      .describe(
        "What becomes of a node's identity when the pool is made smaller. Retain: its Secret stays, and a node of the same number takes it up again with its reputation. Delete: it goes.",
      )
      .default("Retain"),
  }),
  lentAtLowPriority(["template", "spec"], ({ template }) => template.spec),
).describe("How many nodes there are, what they are and how they are updated.");

export const poolStatus = z
  .strictObject({
    observedGeneration: observedGeneration().optional(),
    replicas: count().describe("Nodes that exist.").optional(),
    readyReplicas: count().describe("Nodes whose pod serves the models.").optional(),
    availableReplicas: count().describe("Nodes that are ready and connected to the network.").optional(),
    updatedReplicas: count()
      .describe("Nodes that have the newest template and applied the target config.")
      .optional(),
    parkedReplicas: count()
      .describe(
        "Nodes that count in no budget: a person has parked them, or no host has GPUs to lend them (reason NoCapacity). Absent: none.",
      )
      .optional(),
    selector: z.string().max(512).describe("Label selector of the nodes' pods, for autoscalers.").optional(),
    rollout: z
      .strictObject({
        target: observedDigest().describe("Digest that the pool moves to."),
        updated: count().describe("Nodes that applied it."),
        total: count().describe("Nodes that are to apply it."),
        waitingOn: z
          .strictObject({
            node: dnsLabel().describe("Name of the ResultityNode."),
            reason: z.string().max(512).describe("What it is waited for."),
            since: time().describe("Since when.").optional(),
          })
          .describe("The node that the update waits for.")
          .optional(),
        startedAt: time().describe("When the pool began to move to the target.").optional(),
        canary: z
          .enum(["Running", "Passed", "Failed"])
          .describe("How the trial of the target stands. Absent where there is none.")
          .optional(),
      })
      .describe("How far the pool is in moving to a config.")
      .optional(),
    rejected: listMap(
      z.strictObject({
        digest: observedDigest().describe("Digest of the config."),
        instead: observedDigest().describe("The config that the pool went back to."),
        reason: z.string().max(512).describe("Why its trial failed."),
        at: time().describe("When."),
      }),
      ["digest"],
      10,
    )
      .describe(
        "Configs whose trial failed, newest first. The pool does not move to them again unless `kubectl resultity rollout promote` says so.",
      )
      .optional(),
    conditions: conditions(poolConditionTypes, poolReasons).optional(),
  })
  .describe("What the operator knows about the pool.");

export type PoolSpec = z.output<typeof poolSpec>;
export type PoolStatus = z.output<typeof poolStatus>;
export type ResultityNodePool = Resource<"ResultityNodePool", PoolSpec, PoolStatus>;
export type NewResultityNodePool = NewResource<"ResultityNodePool", z.input<typeof poolSpec>>;
