import type { NetworkSpec } from "../../api/v1alpha1/network.ts";
import type { Desired } from "../../protocol/desired.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import type { NetworkConfig } from "../views.ts";
import type { Moves, WishInputs } from "./desired.ts";

/** What the owner of a network says about models: `spec.models`. Names, or beginnings of names that end with `*`. */
export interface ModelPolicy {
  /** Empty = all that the network's config lists. */
  readonly allowed: readonly string[];
  /** Whatever `allowed` says. */
  readonly denied: readonly string[];
}

export const noModelPolicy: ModelPolicy = { allowed: [], denied: [] };

/** What a network's spec says. */
export function modelPolicyOf({ models }: NetworkSpec): ModelPolicy {
  const { allowed = [], denied = [] } = models ?? {};
  return { allowed, denied };
}

const isNamed = (model: string, names: readonly string[]): boolean =>
  names.some((name) => (name.endsWith("*") ? model.startsWith(name.slice(0, -1)) : model === name));

/** Whether the owner keeps a model from running here. */
export function isWithheld(model: string, { allowed, denied }: ModelPolicy): boolean {
  return isNamed(model, denied) || (allowed.length > 0 && !isNamed(model, allowed));
}

/** Most models that an agent is told by name. */
const mostNamed = 256;

/** What an agent is told of models: those of the spec, or by name what is left of them where the owner withholds some. */
export type ModelWish = Pick<Desired, "models" | "withheld">;

/**
 * The owner is asked when a node gets its pod or a config: what it then is told holds until it gets another one. So a word that
 * concerns a whole network at once takes nothing out of service, and one about a model that a node does not have
 * changes nothing there.
 */
export function modelWish({ node, config, pod }: WishInputs, { stage, target }: Moves): ModelWish {
  const asked = node.spec.models ?? [];
  const whole = { models: [...asked] };
  const told = pod?.desired.ok ? pod.desired.desired : undefined;
  const same = told !== undefined && told.target === target;
  const unknown = !config || (target !== null && !config.snapshots.has(target));
  if (unknown) return same && told.withheld ? { models: told.models, withheld: told.withheld } : whole;
  const listed = (digest: ConfigDigest | null) => namesIn(config, digest, node.spec.runtime.engine, asked);
  const refused = (names: readonly string[]) => names.filter((name) => isWithheld(name, config.models));
  const [now, next] = [listed(target), listed(stage)];
  const kept = now.filter((name) => told?.withheld?.includes(name));
  // Where nothing would be left the spec has changed, and what was told says nothing any more.
  const keeps = same && kept.length < now.length;
  const withheld = new Set(keeps ? kept : refused(now));
  for (const name of refused(next)) if (!now.includes(name)) withheld.add(name);
  const named = [...new Set([...now, ...next])].filter((name) => !withheld.has(name));
  // An empty list would be all of them.
  if (withheld.size === 0 || named.length === 0) return whole;
  return { models: named.slice(0, mostNamed), withheld: [...withheld].slice(0, mostNamed) };
}

/** Models that a config lists for an engine, of those that a node's spec asks for. */
function namesIn(
  { snapshots }: Pick<NetworkConfig, "snapshots">,
  digest: ConfigDigest | null,
  engine: string,
  asked: readonly string[],
): readonly string[] {
  const models = digest === null ? [] : (snapshots.get(digest)?.models ?? []);
  return models
    .filter(({ engines, name }) =>
      engines.length === 0 || engines.includes(engine) ? asked.length === 0 || asked.includes(name) : false,
    )
    .map(({ name }) => name)
    .filter((name) => asked.length === 0 || asked.includes(name));
}
