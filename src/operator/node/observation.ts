import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { FeedNode } from "../../protocol/feed.ts";
import type { AgentStatus } from "../../protocol/status.ts";
import type { NetworkConfig } from "../views.ts";
import type { PodFacts } from "./facts.ts";
import type { FleetHealth } from "./recovery/ladder.ts";
import type { HostState } from "./recovery/lost-host.ts";
import type { HostView } from "./prefetch/plan.ts";

/** What the agent of the present pod has said, signed. */
export interface AgentView {
  /** Newest verified status; undefined until one came. */
  readonly status: AgentStatus | undefined;
  /** Milliseconds since it came. */
  readonly ageMs?: number | undefined;
  /** Milliseconds for which asking has failed; 0 = the last time it answered, or nobody has asked. */
  readonly silentMs: number;
  /** Why the last question got no answer. */
  readonly problem: string;
}

/** All that the node controller decides on. A plain value: the same observation gives the same plan. */
export interface NodeObservation {
  /** Wall time, ms. */
  readonly now: number;
  readonly node: ResultityNode;
  /** A ResultityNodePool controls the node. */
  readonly inPool: boolean;
  readonly network: ResultityNetwork | undefined;
  readonly config: NetworkConfig | undefined;
  readonly pod: PodFacts | undefined;
  readonly agent: AgentView;
  /** Newest revision of the pod's orders that changed what its agent applies; undefined = none since the operator began. */
  readonly mustRead?: number | undefined;
  /** The images of the pod's host. */
  readonly host: HostView;
  /** Id at the network; undefined until the identity has been made or read. */
  readonly nodeId: string | undefined;
  /** Older ResultityNode with the same identity. */
  readonly conflictsWith: string | undefined;
  readonly feed: FeedNode | undefined;
  readonly feedLive: boolean;
  /** Milliseconds until a pod may be created again after failures. */
  readonly recreateInMs: number;
  /** Whether this node may be disturbed for what all nodes of its pool or network share: one at a time. */
  readonly turn: boolean;
  /** Whether too few other nodes of its pool serve for this one to be stopped now; looked up where it matters. Absent: they do. */
  readonly isNeeded?: (() => boolean) | undefined;
  /** How the neighbours fare, while something is wrong with the node. */
  readonly fleet?: FleetHealth | undefined;
  /** What the Node object of the pod's host said, and how long ago; undefined = it was not looked at. */
  readonly hostLook?: { readonly state: HostState; readonly ageMs: number } | undefined;
  /** Why the API server does not give the pod the CPU and memory that the spec asks for. */
  readonly resizeRefused?: string | undefined;
}
