import type { Action, Note } from "./plan.ts";
import { echoed } from "./plan-stop.ts";
import { type Fetched, fetchImage } from "./prefetch/plan.ts";
import { sameImage, type Scene } from "./scene.ts";

/** What a node does about the config that comes next: in a maintenance window, or when others have moved. */
export interface Readiness {
  readonly actions: readonly Action[];
  readonly awaitsImage: boolean;
  /** Adds what stands in the way, if anything does, to what is said of the config that runs. */
  readonly told: (applied: Note) => Note;
}

/**
 * Image and weights of what comes next are fetched before the node is told to move, while it serves. What fails is told,
 * and takes nothing from the node. Undefined where nothing is to come; asked once the agent has been told to stage it.
 */
export function getReady({ o, pod, desired, ahead }: Scene): Readiness | undefined {
  if (!ahead) return undefined;
  const { digest, places } = ahead;
  const image: Fetched = sameImage(pod.runtime.image, places[0])
    ? { ok: true, image: places[0] }
    : fetchImage(o, pod, "runtime", places);
  const { status } = o.agent;
  // After a restart of the operator nobody has asked yet: what was staged still is.
  const said = status ? status.report.config.staged : o.node.status?.config?.staged;
  const staged = said === digest && (!status || echoed(o, desired));
  const ask: Action = { type: "ask-agent", reason: `has the agent staged config ${digest}?` };
  const error = status?.config_error;
  const trouble: Pick<Note, "reason" | "message"> | undefined =
    !staged && error?.digest === digest
      ? { reason: "StageFailed", message: `the agent cannot stage it (${error.code}): ${error.message}` }
      : image.ok || image.note.reason === "Staging"
        ? undefined
        : image.note;
  return {
    actions: [...(image.ok ? [] : image.actions), ...(staged ? [] : [ask])],
    awaitsImage: !image.ok,
    told: (applied) =>
      trouble
        ? {
            ...applied,
            reason: trouble.reason,
            message: `${applied.message}; it cannot get ready for config ${digest}, which comes next: ${trouble.message}`,
          }
        : applied,
  };
}
