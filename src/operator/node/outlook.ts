import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { messageOf } from "../../lib/errors.ts";
import {
  type ChangeAction,
  changeActions,
  type ChangeStep,
  interrupts,
} from "../../protocol/config/change.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { type Standing, stepsBetween } from "../move.ts";
import { aimAt, type AimConfig } from "./aim.ts";

/** What a node is to become: its spec, its config, and what all nodes of its network share. */
export interface Outcome extends Omit<Standing, "snapshot"> {
  readonly spec: ResultityNode["spec"];
  readonly digest: ConfigDigest;
}

/** What decides an outlook. */
export interface OutlookInputs {
  /** As it is. */
  readonly node: ResultityNode;
  /** Agent and endpoints that it has. */
  readonly from: Pick<Standing, "agentImage" | "endpoints">;
  readonly to: Outcome;
  readonly config: AimConfig;
  /** Wall time, ms. */
  readonly now: number;
}

/** What comes of it. */
export type Outlook =
  /** It is not carried out, and why: a reason of the node's ConfigApplied. */
  | { readonly refused: { readonly reason: string; readonly message: string } }
  | {
      readonly refused?: undefined;
      /** The largest of the steps; `create` = it runs nothing yet; `unknown` = what it runs is not held any more. */
      readonly does: ChangeAction | "create" | "unknown";
      readonly steps: readonly ChangeStep[];
      readonly interrupts: boolean;
      /** The runtime's image, from the first place that it is pulled from. */
      readonly image: string;
    };

/**
 * What a change does to one node, or who refuses it, before anything of it is written. The choice of the runtime and the
 * steps are those that the operator comes to when it carries the change out.
 */
export function outlookOf({ node, from, to, config, now }: OutlookInputs): Outlook {
  const changed = { ...node, spec: to.spec };
  const aim = aimAt(to.digest, { node: changed, inPool: true, config, running: undefined, now });
  if (!aim.ok) return { refused: { reason: aim.reason, message: aim.message } };
  const image = aim.places[0];
  const applied = node.status?.config?.applied;
  if (applied === undefined) return { does: "create", steps: [], interrupts: false, image };
  const [before, after] = [config.snapshots.get(applied as ConfigDigest), config.snapshots.get(to.digest)];
  if (!before || !after) return { does: "unknown", steps: [], interrupts: true, image };
  const { agentImage, endpoints } = to;
  try {
    const steps = stepsBetween(
      { ...from, spec: node.spec, snapshot: before },
      { agentImage, endpoints, spec: to.spec, snapshot: after },
    );
    return { does: largestOf(steps), steps, interrupts: interrupts(steps), image };
  } catch (thrown) {
    const step = { action: "recreate", reason: messageOf(thrown) } as const;
    return { does: "unknown", steps: [step], interrupts: true, image };
  }
}

const cost = (action: ChangeAction): number => changeActions.indexOf(action);

function largestOf(steps: readonly ChangeStep[]): ChangeAction {
  return steps
    .map(({ action }): ChangeAction => action)
    .reduce((a, b) => (cost(a) >= cost(b) ? a : b), "none");
}
