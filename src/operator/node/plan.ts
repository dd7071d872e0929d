import { findCondition, type NodeConditionType, type NodeReason } from "../../api/v1alpha1/conditions.ts";
import type { Recovery, RecoveryStep } from "../../api/v1alpha1/node.ts";
import type { Desired } from "../../protocol/desired.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { type Aim, aimOf, noteOf } from "./aim.ts";
import { revise, wishOf } from "./desired.ts";
import { planEnding } from "./ending.ts";
import type { PodFacts } from "./facts.ts";
import type { NodeObservation } from "./observation.ts";
import { planPod } from "./plan-pod.ts";
import { planStop } from "./plan-stop.ts";
import { recent } from "./recovery/ladder.ts";
import { withRecovery } from "./recovery/recover.ts";
import { avoidedHosts } from "./recovery/trouble.ts";

export { emptyHost } from "./prefetch/plan.ts";

/** One thing to do, and why, for people. */
export type Action = { readonly reason: string } & (
  | {
      readonly type: "create-pod";
      readonly desired: Desired;
      readonly runtimeImage: string;
      readonly agentImage: string;
      /** Hosts to which the pod is not to come. */
      readonly avoid?: readonly string[];
    }
  /** Brings the identity Secret up to date with root, account and the wish for another key, and says so on the pod. */
  | { readonly type: "refresh-identity"; readonly hash: string }
  /** Gives the agent its orders. `quiet`: they change nothing of what it applies. */
  | { readonly type: "annotate"; readonly desired: Desired; readonly quiet?: boolean }
  /** Has a pod without a GPU bring an image to the host. */
  | {
      readonly type: "prefetch";
      readonly role: "agent" | "runtime";
      readonly image: string;
      readonly host: string;
      readonly name: string;
    }
  /** Takes away such a pod that is of no use. `noVolumes`: a host that does not know image volumes, as it has shown. */
  | {
      readonly type: "drop-prefetch";
      readonly name: string;
      readonly uid: string;
      readonly noVolumes: string | undefined;
    }
  /** Lets the API server check the patch without doing it. */
  | { readonly type: "rehearse-image"; readonly container: "agent" | "runtime"; readonly image: string }
  | { readonly type: "patch-image"; readonly container: "agent" | "runtime"; readonly image: string }
  /** Gives the running pod the CPU and memory of the spec. */
  | { readonly type: "resize" }
  /**
   * `finished`: the pod has ended already, so that the deletion counts as a failure and the next creation waits. `graceSeconds`:
   * shorter than the pod's own; 0 takes the object away although nobody has seen the pod end.
   */
  | {
      readonly type: "delete-pod";
      readonly uid: string;
      readonly finished: boolean;
      readonly graceSeconds?: number;
    }
  /** Tells of a step of recovery that is written into the status. */
  | { readonly type: "recover"; readonly step: RecoveryStep; readonly cause: string }
  /** Reads the Node object of a host. */
  | { readonly type: "look-at-host"; readonly host: string }
  /** Tells the agent of a pod that ends to drain within these milliseconds. */
  | { readonly type: "hasten"; readonly ms: number }
  | { readonly type: "ask-agent" }
  | { readonly type: "wait"; readonly ms: number }
);

/** What a plan says about a condition beyond what the observation shows by itself. */
export interface Note {
  readonly status: "True" | "False" | "Unknown";
  readonly reason: NodeReason;
  readonly message: string;
}
export type Notes = Partial<Record<NodeConditionType, Note>>;

/** Actions are done in order; the first that fails ends the plan, and the next observation makes a new one. */
export interface Plan {
  /** Digest that the node is to run; undefined while unknown. */
  readonly target: ConfigDigest | undefined;
  readonly actions: readonly Action[];
  readonly notes: Notes;
  /** The host has yet to get an image of what the agent has staged. */
  readonly awaitsImage?: boolean;
  /** What is done if the node does not come back by itself; absent = nothing, and nothing was. */
  readonly recovery?: Recovery;
}

/**
 * Decides what to do for one node. Pure, and without memory: each step of a move can be read off the pod (its
 * annotation, images and status) and the agent's signed status, so a controller that was killed at any point goes on.
 */
export function planNode(o: NodeObservation): Plan {
  return withRecovery(o, planMoves(o));
}

function planMoves(o: NodeObservation): Plan {
  const { node, pod, conflictsWith } = o;
  // Children go with their owner; nothing is to be made for one that goes.
  if (node.metadata.deletionTimestamp !== undefined) return { target: undefined, actions: [], notes: {} };
  if (pod && !pod.ours) return foreignPod(pod);
  if (pod?.terminating) return planEnding(o, pod, pod.terminating);
  if (pod?.finished) return failedPod(pod, pod.finished);
  if (conflictsWith !== undefined) return refused(o, conflictsWith);
  if (node.spec.replicas === 0) {
    return planStop(o, "parking", "spec.replicas is 0", {
      Scheduled: {
        status: "False",
        reason: "Parked",
        message: "parked: spec.replicas is 0; set it to 1 to run",
      },
    });
  }
  const running = pod?.desired.ok ? (pod.desired.desired.target ?? undefined) : undefined;
  const missing = missingNetwork(o);
  if (missing || !o.network || !o.config) {
    return { target: undefined, actions: [], notes: missing ? { ConfigApplied: missing } : {} };
  }
  const aim = aimOf({ node, inPool: o.inPool, config: o.config, running, now: o.now });
  if (pod) return planPod(o, pod, aim);
  return aim.ok
    ? planCreate(o, aim)
    : { target: aim.digest, actions: [], notes: { ConfigApplied: noteOf(aim) } };
}

function missingNetwork({ node, network, config, pod }: NodeObservation): Note | undefined {
  const { name } = node.spec.networkRef;
  if (!network) {
    return {
      status: "False",
      reason: "NetworkNotFound",
      message: `there is no ResultityNetwork ${name} in namespace ${node.metadata.namespace}: create it`,
    };
  }
  // After its start the operator verifies the network anew; until it has, or finds a fault, a running node stays as it is.
  const refused = findCondition(network.status?.conditions, "Trusted")?.status === "False";
  if (!config && (!pod || refused)) {
    return {
      status: "False",
      reason: "NetworkNotTrusted",
      message: `the config of network ${name} is not verified yet: see the conditions of ResultityNetwork ${name}`,
    };
  }
  return undefined;
}

function planCreate(o: NodeObservation, aim: Aim & { readonly ok: true }): Plan {
  const target = aim.digest;
  const notes: Notes = {
    ConfigApplied: {
      status: "False",
      reason: "Waiting",
      message: `waiting for a pod to apply config ${target}`,
    },
  };
  if (o.recreateInMs > 0) {
    return {
      target,
      actions: [{ type: "wait", ms: o.recreateInMs, reason: "the last pod failed: backing off" }],
      notes: {
        ...notes,
        Degraded: {
          status: "True",
          reason: "PodFailed",
          message: "the last pod failed; the next one is made after a back-off of at most 5 minutes",
        },
      },
    };
  }
  const wish = wishOf(o, { stage: null, target, plannedStop: null });
  const avoid = avoidedHosts({ steps: recent(o.node.status?.recovery, o.now) });
  return {
    target,
    actions: [
      {
        type: "create-pod",
        desired: revise(wish, 0),
        runtimeImage: aim.selection.runtime.image,
        agentImage: o.network?.spec.agent.image ?? "",
        ...(avoid.length > 0 && { avoid }),
        reason: `the node has no pod; config ${target}`,
      },
    ],
    notes,
  };
}

function foreignPod(pod: PodFacts): Plan {
  return {
    target: undefined,
    actions: [{ type: "wait", ms: 10_000, reason: `pod ${pod.name} is not ours` }],
    notes: {
      Degraded: {
        status: "True",
        reason: "PodCreateRefused",
        message: `a pod ${pod.name} exists that does not belong to this ResultityNode: delete or rename it`,
      },
    },
  };
}

function failedPod(pod: PodFacts, finished: NonNullable<PodFacts["finished"]>): Plan {
  const message = `the pod ended (${finished.reason}${finished.message ? `: ${finished.message}` : ""}); a new one is made`;
  return {
    target: undefined,
    actions: [{ type: "delete-pod", uid: pod.uid, finished: true, reason: `pod ended: ${finished.reason}` }],
    notes: { Degraded: { status: "True", reason: "PodFailed", message } },
  };
}

function refused(o: NodeObservation, older: string): Plan {
  return planStop(o, "parking", `ResultityNode ${older} has the same identity`, {
    Degraded: {
      status: "True",
      reason: "IdentityConflict",
      message: `ResultityNode ${older} is older and has the same identity, so this one does not run: delete one of them, or give this one a Secret of its own in spec.identity.secretName`,
    },
  });
}
