import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import { ownedBy } from "../../kube/object.ts";
import { configMaps } from "../../kube/resources.ts";
import { unreachable } from "../../lib/errors.ts";
import type { OperatorContext } from "../context.ts";
import { networkConfigMapName, networkLabel, networkManager } from "../names.ts";
import { isOurs } from "./entries.ts";
import type { Feeds } from "./feeds.ts";
import type { Knowledge } from "./knowledge.ts";
import { storedConfigMap } from "./observe.ts";
import type { NetworkAction } from "./plan.ts";
import { type FetchContext, fetchSnapshot } from "./refresh.ts";

/** With what a plan is carried out. */
export interface Executing {
  readonly operator: Pick<OperatorContext, "client" | "configs" | "logger">;
  readonly fetching: FetchContext;
  readonly feeds: Feeds;
  readonly key: string;
  readonly network: ResultityNetwork;
  readonly knowledge: Knowledge;
}

/** Carries one action out. Rejects with {@link KubeError} where the API server refuses. */
export async function execute(action: NetworkAction, into: Executing, signal: AbortSignal): Promise<void> {
  const { operator, key, network, knowledge } = into;
  operator.logger.debug({ network: key, action: action.type, reason: action.reason }, "network action");
  switch (action.type) {
    case "fetch-snapshot":
      await fetchSnapshot(network, action.digest, knowledge, into.fetching, signal);
      break;
    case "apply-config-map":
      await applyConfigMap(action.data, into, signal);
      break;
    case "publish":
      operator.configs.set(key, action.config);
      into.feeds.follow(key, action.config);
      break;
    default:
      unreachable(action);
  }
}

async function applyConfigMap(
  data: Readonly<Record<string, string>>,
  { operator, network, knowledge }: Executing,
  signal: AbortSignal,
): Promise<void> {
  const { name, namespace } = network.metadata;
  const applied = await operator.client.apply(
    configMaps,
    {
      metadata: {
        name: networkConfigMapName(name),
        namespace,
        labels: { [networkLabel]: name },
        ownerReferences: [ownedBy(network)],
      },
      data,
    },
    { fieldManager: networkManager, signal },
  );
  knowledge.configMap = storedConfigMap(applied, network);
  knowledge.foreign = new Set(
    Object.keys(applied.data ?? {}).filter((entry) => isOurs(entry) && !(entry in data)),
  );
}
