import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { messageOf } from "../../lib/errors.ts";
import { type Desired, type ModelMirror, parseDesired } from "../../protocol/desired.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { canonical } from "../hash.ts";
import type { NetworkConfig } from "../views.ts";
import { modelWish } from "./model-policy.ts";

/** What the node controller wants done, beside what the spec says directly. */
export interface Moves {
  readonly stage: ConfigDigest | null;
  readonly target: ConfigDigest | null;
  readonly plannedStop: Desired["plannedStop"];
}

/** {@link Desired} without its revision: two that are equal need no new revision. */
export type Wish = Omit<Desired, "revision">;

/** What decides the wishes: parts of the observation. */
export interface WishInputs {
  readonly node: ResultityNode;
  readonly network: ResultityNetwork | undefined;
  /** Absent while the network is not verified: then models stay as they were told. */
  readonly config?: Pick<NetworkConfig, "snapshots" | "models"> | undefined;
  readonly pod?: { readonly desired: ReadDesired } | undefined;
}

/** What is wanted of the node's agent: the spec's own wishes and the moves of the moment. */
export function wishOf(o: WishInputs, moves: Moves): Wish {
  const { spec } = o.node;
  const mirrors = mirrorsOf(o);
  const { models, withheld } = modelWish(o, moves);
  return {
    stage: moves.stage,
    target: moves.target,
    engine: spec.runtime.engine,
    image: spec.runtime.image ?? null,
    gpuProduct: spec.gpu.product ?? null,
    gpuCount: spec.gpu.count,
    models,
    args: [...(spec.runtime.args ?? [])],
    accept: spec.participation.accept,
    subclouds: [...(spec.participation.subclouds ?? [])],
    drainTimeoutMs: spec.drain.timeoutSeconds * 1000,
    evictionTimeoutMs: spec.drain.evictionTimeoutSeconds * 1000,
    plannedStop: moves.plannedStop,
    // Absent, not empty: the pods of networks without mirrors and models withheld need no new word.
    ...(withheld && { withheld }),
    ...(mirrors.length > 0 && {
      mirrors: mirrors.map(({ source, mirrors: of }) => ({ source, mirrors: [...of] })),
    }),
  };
}

/** What the network's owner says; a network that cannot be read now leaves the pod's agent with what it has been told. */
function mirrorsOf({ network, pod }: WishInputs): readonly ModelMirror[] {
  if (network) return network.spec.models?.mirrors ?? [];
  return pod?.desired.ok ? (pod.desired.desired.mirrors ?? []) : [];
}

/** The annotation that a pod carries, as far as it can be read. */
export type ReadDesired =
  | { readonly ok: true; readonly desired: Desired }
  | { readonly ok: false; readonly problem: string };

/** Reads the annotation `resultity.com/desired`; someone may have edited or removed it. */
export function readDesired(text: string | undefined): ReadDesired {
  if (text === undefined) return { ok: false, problem: "the annotation resultity.com/desired was removed" };
  try {
    return { ok: true, desired: parseDesired(text) };
  } catch (thrown) {
    return { ok: false, problem: messageOf(thrown) };
  }
}

/** True if `desired` asks for exactly `wish`. */
export function asksFor(desired: Desired, wish: Wish): boolean {
  const { revision: _, ...current } = desired;
  return canonical(current) === canonical(wish);
}

/** `wish` as the next revision after `before` (0: the first of a new pod). */
export function revise(wish: Wish, before: number): Desired {
  return { revision: before + 1, ...wish };
}
