import * as z from "zod/mini";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { isResizable, type Resources, sizeText } from "../size.ts";
import type { NetworkConfig } from "../views.ts";
import type { PodFacts } from "./facts.ts";
import { ownHalf, podInputsHash } from "./inputs.ts";
import type { NodeObservation } from "./observation.ts";
import type { Note } from "./plan.ts";

/** How a pod comes to the CPU and memory that its node's spec asks for. */
export type Resize =
  /** In the running pod, which goes on. */
  | { readonly how: "in-place"; readonly from: Resources }
  /** Only by a new pod, since the API server or the host has refused it for this one. */
  | { readonly how: "new-pod"; readonly reason: string };

/**
 * What there is to do about the size of a pod; undefined = nothing, or so much else differs that a new pod comes anyway.
 *
 * @param refused why the API server does not change this pod to the wanted size; undefined = it has not said so.
 */
export function resizeOf(
  node: ResultityNode,
  pod: PodFacts,
  config: NetworkConfig,
  refused: string | undefined,
): Resize | undefined {
  const wanted = podInputsHash(node, config);
  if (pod.inputsHash === wanted) {
    if (pod.resize?.state !== "infeasible") return undefined;
    const reason = `host ${pod.host ?? ""} cannot have the pod at ${sizeText(wantedOf(node))} (${pod.resize.message})`;
    return { how: "new-pod", reason };
  }
  const made = asMade(node, pod);
  if (!made || podInputsHash(made, config) !== pod.inputsHash) return undefined;
  return refused === undefined
    ? { how: "in-place", from: made.spec.runtime.resources ?? {} }
    : { how: "new-pod", reason: `the running pod cannot be given another size: ${refused}` };
}

/**
 * True if the pod differs from its node's own spec in more than a size: who changed that has made room for a stop, as the
 * pool's window does. A size is changed without, so where it takes a new pod after all, nodes take turns. Of a pod that
 * does not say what it was given (an older operator's) it cannot be told.
 */
export function isEdited(node: ResultityNode, pod: PodFacts, config: NetworkConfig): boolean {
  if (pod.inputsHash === undefined || givenTo(pod) === undefined) return false;
  return ownHalf(podInputsHash(asMade(node, pod) ?? node, config)) !== ownHalf(pod.inputsHash);
}

/** The node with the resources that its pod was given; undefined where it takes another pod to change them. */
function asMade(node: ResultityNode, pod: PodFacts): ResultityNode | undefined {
  const resources = givenTo(pod);
  if (resources === undefined || !isResizable(resources, wantedOf(node))) return undefined;
  const { resources: _, ...runtime } = node.spec.runtime;
  return { ...node, spec: { ...node.spec, runtime: { ...runtime, resources } } };
}

const amounts = z.optional(z.record(z.string(), z.union([z.string(), z.number()])));
const given = z.object({ limits: amounts, requests: amounts });

/** Someone may have edited or removed the annotation. */
function givenTo({ resources }: PodFacts): Resources | undefined {
  try {
    return resources === undefined ? undefined : given.parse(JSON.parse(resources));
  } catch {
    return undefined;
  }
}

const wantedOf = ({ spec }: ResultityNode): Resources => spec.runtime.resources ?? {};

/** What is to be said of a new size that the host has not given; undefined = nothing. The node serves on as it is. */
export function resizeNote({
  pod,
  node,
  resizeRefused,
}: Pick<NodeObservation, "pod" | "node" | "resizeRefused">): Note | undefined {
  const refused =
    resizeRefused === undefined ? undefined : { state: "infeasible" as const, message: resizeRefused };
  const said = refused ?? pod?.resize;
  if (!pod || !said) return undefined;
  const { state, message } = said;
  const about = `host ${pod.host ?? ""} has not given the pod ${sizeText(wantedOf(node))}`;
  switch (state) {
    case "deferred":
      return {
        status: "True",
        reason: "ResizeDeferred",
        message: `${about}: it has no room for it now (${message}), and gives it when there is: free some there, or ask for less in spec.runtime.resources; parking the node and taking it back looks for another host`,
      };
    case "infeasible":
      return {
        status: "True",
        reason: "ResizeInfeasible",
        message: `${about} and cannot (${message}): the pod is replaced when it is the node's turn; ask for less in spec.runtime.resources if that is not wanted`,
      };
    case "failed":
      return {
        status: "True",
        reason: "ResizeFailed",
        message: `${about} (${message}), and tries again: a memory limit below what is in use has to be raised in spec.runtime.resources; parking the node and taking it back makes a new pod`,
      };
  }
}
