/** The three kinds as the CRDs describe them: names, columns, subresources, and the schema of a whole object. */
import { z } from "zod";
import { dnsLabel, withRules, type Rule } from "./fields.ts";
import { apiVersion } from "./meta.ts";
import { networkNames, nodeNames, poolNames } from "./names.ts";
import { networkSpec, networkStatus } from "./network.ts";
import { nodeSpec, nodeStatus } from "./node.ts";
import { maxPoolNameLength, poolSpec, poolStatus } from "./pool.ts";

/** A column of `kubectl get`; priority 1 shows with `-o wide` alone. */
export interface Column {
  readonly name: string;
  readonly type: "string" | "integer" | "date";
  readonly jsonPath: string;
  readonly description: string;
  readonly priority?: 1;
}

/** What a CRD says of one kind. */
export interface Kind {
  readonly kind: "ResultityNetwork" | "ResultityNode" | "ResultityNodePool";
  readonly plural: string;
  readonly singular: string;
  readonly shortName: string;
  readonly description: string;
  readonly spec: z.ZodType;
  readonly status: z.ZodType;
  /** Rules over the whole object, of which CEL sees `metadata.name`. */
  readonly rules: readonly Rule<{ metadata: { name: string } }>[];
  readonly columns: readonly Column[];
  readonly scale?: { readonly labelSelectorPath?: string };
}

const readyColumns: readonly Column[] = [
  {
    name: "Ready",
    type: "string",
    jsonPath: '.status.conditions[?(@.type=="Ready")].status',
    description: "Whether all is well.",
  },
  {
    name: "Reason",
    type: "string",
    jsonPath: '.status.conditions[?(@.type=="Ready")].reason',
    description: "Why, in one word.",
  },
];
const messageColumn: Column = {
  name: "Message",
  type: "string",
  jsonPath: '.status.conditions[?(@.type=="Ready")].message',
  description: "What is wrong and what to do about it.",
  priority: 1,
};
const ageColumn: Column = {
  name: "Age",
  type: "date",
  jsonPath: ".metadata.creationTimestamp",
  description: "Since when it exists.",
};

/** Names become labels and names of pods, so they are DNS labels: a stricter rule than Kubernetes' own. */
function nameRule(maxLength: number, why: string): Rule<{ metadata: { name: string } }> {
  const schema = dnsLabel().max(maxLength);
  return {
    cel: `self.metadata.name.size() <= ${maxLength} && self.metadata.name.matches("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")`,
    message: `metadata.name must have at most ${maxLength} characters, only lower-case letters, digits and dashes, since ${why}: choose a shorter or plainer name`,
    check: ({ metadata }) => schema.safeParse(metadata.name).success,
  };
}

export const networkKind: Kind = {
  ...networkNames,
  singular: "resultitynetwork",
  shortName: "rnet",
  description:
    "ResultityNetwork is an inference network as the nodes of one namespace know it: where it is, what may configure them, and for which account they earn.",
  spec: networkSpec,
  status: networkStatus,
  rules: [nameRule(63, "it is the value of a label")],
  columns: [
    {
      name: "Environment",
      type: "string",
      jsonPath: ".spec.environment",
      description: "Testnet or Mainnet.",
    },
    ...readyColumns,
    {
      name: "Nodes",
      type: "integer",
      jsonPath: ".status.nodes.total",
      description: "Nodes that name this network.",
    },
    {
      name: "NodesReady",
      type: "integer",
      jsonPath: ".status.nodes.ready",
      description: "Those that are Ready.",
    },
    {
      name: "Version",
      type: "string",
      jsonPath: ".status.config.version",
      description: "Version of the config.",
    },
    {
      name: "Expires",
      type: "string",
      jsonPath: ".status.config.expiresAt",
      description: "When the config expires unless it is renewed.",
      priority: 1,
    },
    {
      name: "Config",
      type: "string",
      jsonPath: ".status.config.digest",
      description: "Digest of the config.",
      priority: 1,
    },
    messageColumn,
    ageColumn,
  ],
};

export const nodeKind: Kind = {
  ...nodeNames,
  singular: "resultitynode",
  shortName: "rnode",
  description:
    "ResultityNode is one node of an inference network: one identity and the pod with GPUs that serves it.",
  spec: nodeSpec,
  status: nodeStatus,
  rules: [nameRule(63, "it is the name of the pod")],
  columns: [
    ...readyColumns,
    {
      name: "Engine",
      type: "string",
      jsonPath: ".spec.runtime.engine",
      description: "The inference server.",
    },
    { name: "GPUs", type: "integer", jsonPath: ".spec.gpu.count", description: "GPUs of the runtime." },
    {
      name: "Connected",
      type: "string",
      jsonPath: '.status.conditions[?(@.type=="Connected")].status',
      description: "Whether the network sees the node.",
    },
    {
      name: "Host",
      type: "string",
      jsonPath: ".status.hostName",
      description: "Host that the pod runs on.",
      priority: 1,
    },
    {
      name: "Network",
      type: "string",
      jsonPath: ".spec.networkRef.name",
      description: "Network that the node serves.",
      priority: 1,
    },
    {
      name: "Applied",
      type: "string",
      jsonPath: ".status.config.applied",
      description: "Digest of the config that runs.",
      priority: 1,
    },
    messageColumn,
    ageColumn,
  ],
  scale: {},
};

export const poolKind: Kind = {
  ...poolNames,
  singular: "resultitynodepool",
  shortName: "rpool",
  description:
    "ResultityNodePool is a number of equal ResultityNodes that are counted, scaled and updated together.",
  spec: poolSpec,
  status: poolStatus,
  rules: [
    nameRule(
      maxPoolNameLength,
      "its nodes are named <pool>-0 to <pool>-9999 and a pod's name has 63 at most",
    ),
  ],
  columns: [
    {
      name: "Desired",
      type: "integer",
      jsonPath: ".spec.replicas",
      description: "Nodes that the pool should have.",
    },
    {
      name: "ReadyNodes",
      type: "integer",
      jsonPath: ".status.readyReplicas",
      description: "Nodes that are ready.",
    },
    {
      name: "Updated",
      type: "integer",
      jsonPath: ".status.updatedReplicas",
      description: "Nodes with the newest template and config.",
    },
    ...readyColumns,
    {
      name: "WaitingOn",
      type: "string",
      jsonPath: ".status.rollout.waitingOn.node",
      description: "Node that the update waits for.",
      priority: 1,
    },
    {
      name: "Target",
      type: "string",
      jsonPath: ".status.rollout.target",
      description: "Digest that the pool moves to.",
      priority: 1,
    },
    messageColumn,
    ageColumn,
  ],
  scale: { labelSelectorPath: ".status.selector" },
};

export const kinds: readonly Kind[] = [networkKind, nodeKind, poolKind];

/**
 * The schema of a whole object of `kind` as a user writes it, with the rules that need no stored object. For tools and
 * tests: the operator never parses, since the API server already did.
 */
export function objectSchema(kind: Kind) {
  return withRules(
    z.strictObject({
      apiVersion: z.literal(apiVersion),
      kind: z.literal(kind.kind),
      metadata: z.looseObject({ name: z.string() }),
      spec: kind.spec,
      status: kind.status.optional(),
    }),
    ...kind.rules,
  );
}
