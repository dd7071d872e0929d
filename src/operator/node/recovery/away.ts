import type { NodeSpec } from "../../../api/v1alpha1/node.ts";
import type { Pod } from "../../../kube/resources.ts";

type Affinity = NonNullable<NonNullable<NonNullable<Pod["spec"]>["affinity"]>>;
type Given = NonNullable<NodeSpec["podOverrides"]>["affinity"];

/**
 * Keeps a pod from hosts, beside what its owner says of hosts. Required, since the scheduler likes the host that has the image; that
 * no other can take the pod is seen, and ends it. By the name of the Node object, which a label need not repeat.
 */
export function awayFrom(hosts: readonly string[], given: Given): { affinity?: Affinity } {
  if (hosts.length === 0) return {};
  const matchFields = hosts.map((host) => ({ key: "metadata.name", operator: "NotIn", values: [host] }));
  const affinity: Affinity = given ? JSON.parse(JSON.stringify(given)) : {};
  const { nodeAffinity } = affinity;
  const terms = nodeAffinity?.requiredDuringSchedulingIgnoredDuringExecution?.nodeSelectorTerms ?? [{}];
  return {
    affinity: {
      ...affinity,
      nodeAffinity: {
        ...nodeAffinity,
        requiredDuringSchedulingIgnoredDuringExecution: {
          // One term has to hold, so each gets it.
          nodeSelectorTerms: terms.map((term) => ({
            ...term,
            matchFields: [...(term.matchFields ?? []), ...matchFields],
          })),
        },
      },
    },
  };
}
