import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import type { Work } from "./canary.ts";

/** All that the pool's plan depends on. One look: nothing in it changes. */
export interface PoolObservation {
  readonly pool: ResultityNodePool;
  /** Nodes that the pool controls, in any order. */
  readonly children: readonly ResultityNode[];
  /** Whether a ResultityNode of this name exists, the pool's or another's. */
  readonly isTaken: (name: string) => boolean;
  readonly hasPod: (child: ResultityNode) => boolean;
  /** Whether the ResultityNetwork of the template exists. */
  readonly networkKnown: boolean;
  /** Digest that the network's nodes move to; undefined while none is verified. */
  readonly current: string | undefined;
  /** Whether the network's newest release lets nodes apply a digest. True where that is not known. */
  readonly allows: (digest: string) => boolean;
  /** False outside of the network's maintenance windows: then no node in service is restarted for a config. */
  readonly mayRestart: boolean;
  /** Wall time, ms, at which `mayRestart` changes by itself; undefined = never. */
  readonly restartsUntil: number | undefined;
  /** Whether the child's jobs are interrupted when it moves from the config that it applied to `digest`. */
  readonly interrupts: (child: ResultityNode, digest: string) => boolean;
  /** What the network has seen of a child's jobs; undefined = nothing. */
  readonly work: (child: ResultityNode) => Work | undefined;
  /** How many jobs a child has now; undefined = not known. Absent: nobody has been asked, as none is to go. */
  readonly load?: (child: ResultityNode) => number | undefined;
  /** The PodDisruptionBudget of the pool's name. `ours`: we made it. `intact`: it selects the pool's pods. */
  readonly budget:
    | { readonly ours: boolean; readonly intact: boolean; readonly minAvailable: unknown }
    | undefined;
  /** Wall time, ms. */
  readonly now: number;
}

/** One write, with the reason for people. */
export type PoolAction =
  | { readonly type: "create"; readonly name: string; readonly reason: string }
  /** Give the child the template's spec, labels and annotations. */
  | { readonly type: "update"; readonly child: ResultityNode; readonly reason: string }
  /** Mark and park a child that is one too many. */
  | { readonly type: "retire"; readonly child: ResultityNode; readonly reason: string }
  /** Take back a child that was being retired. */
  | { readonly type: "revive"; readonly child: ResultityNode; readonly reason: string }
  | { readonly type: "delete"; readonly child: ResultityNode; readonly reason: string }
  | {
      readonly type: "target";
      readonly child: ResultityNode;
      readonly digest: string;
      readonly reason: string;
    }
  /** Have the child get ready for a config that it is not to move to yet; undefined = for none any more. */
  | {
      readonly type: "prepare";
      readonly child: ResultityNode;
      readonly digest: string | undefined;
      readonly reason: string;
    }
  | { readonly type: "budget"; readonly minAvailable: number; readonly reason: string };
