import { type Kind, networkKind, nodeKind, poolKind } from "../api/v1alpha1/kinds.ts";
import { group, keyPrefix, version } from "../api/v1alpha1/meta.ts";
import type { ResultityNetwork } from "../api/v1alpha1/network.ts";
import type { ResultityNode } from "../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../api/v1alpha1/pool.ts";
import type { KubeObject } from "../kube/object.ts";
import { type Event, events as plainEvents, type Resource } from "../kube/resources.ts";

function served<T extends KubeObject>({ plural, kind }: Kind): Resource<T> {
  return { group, version, plural, kind, namespaced: true };
}

export const networks = served<ResultityNetwork>(networkKind);
export const nodes = served<ResultityNode>(nodeKind);
export const pools = served<ResultityNodePool>(poolKind);

/** An event of any reporter: the older API's fields are filled in place of the newer ones by those that still use it. */
export interface AnyEvent extends Omit<Event, "eventTime"> {
  readonly eventTime?: string | null;
  readonly deprecatedLastTimestamp?: string | null;
  readonly deprecatedCount?: number;
}

export const events: Resource<AnyEvent> = {
  group: plainEvents.group,
  version: plainEvents.version,
  plural: plainEvents.plural,
  kind: plainEvents.kind,
  namespaced: plainEvents.namespaced,
};

/** Label of the pods of nodes. */
export const nodeLabel = `${keyPrefix}node`;
