import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import { isTrue, type NodeReason } from "../../api/v1alpha1/conditions.ts";
import { messageOf } from "../../lib/errors.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import { checkAllowed } from "../../protocol/config/release.ts";
import { type Selection, selectRuntime } from "../../protocol/config/select.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { moveInterrupts } from "../move.ts";
import type { NetworkConfig } from "../views.ts";
import { isWithheld } from "./model-policy.ts";
import { placesOf, refusalOf } from "./places.ts";
import type { Note } from "./plan.ts";

/** Where a node is to go. */
export type Aim =
  | {
      readonly ok: true;
      readonly digest: ConfigDigest;
      /** Its image is named by the first place that it is to be pulled from. */
      readonly selection: Selection;
      /** All places of the image, in order. */
      readonly places: readonly [string, ...string[]];
    }
  | {
      readonly ok: false;
      /** Wanted, but not to be had for now; undefined where nothing is wanted. */
      readonly digest: ConfigDigest | undefined;
      readonly reason: NodeReason;
      readonly message: string;
    };

/** What an aim needs to know of its network's config. */
export type AimConfig = Pick<
  NetworkConfig,
  "release" | "current" | "snapshots" | "images" | "models" | "mayRestart"
>;

/** What decides the aim. */
export interface AimInputs {
  readonly node: ResultityNode;
  /** A pool's rollout says when the node moves. */
  readonly inPool: boolean;
  readonly config: AimConfig;
  /** What the pod is told to run now. */
  readonly running: ConfigDigest | undefined;
  /** Wall time, ms. */
  readonly now: number;
}

/** Digest that the node should run, whether or not it can be had: DESIGN §4, "No target: keep what is applied". */
export function wantedDigest(inputs: AimInputs): ConfigDigest | undefined {
  const { node, inPool, config, running } = inputs;
  const pin = digestOf(node.spec.config?.pin);
  if (!inPool) return pin ?? (waitsForWindow(inputs) ? running : config.current) ?? running;
  const target = digestOf(node.status?.config?.target);
  const applied = running ?? digestOf(node.status?.config?.applied);
  return target ?? applied ?? pin ?? config.current;
}

/**
 * Whether a node without a pool stays at what it runs until the network's maintenance window opens: it serves, the move
 * would interrupt it, and what it runs may still be run.
 */
function waitsForWindow({ node, config, running, now }: AimInputs): boolean {
  const { current, release, snapshots } = config;
  if (config.mayRestart || running === undefined || current === undefined || current === running)
    return false;
  if (!isTrue(node.status?.conditions, "Ready")) return false;
  if ((release?.allowed.find(({ digest }) => digest === running)?.expires ?? 0) <= now) return false;
  return moveInterrupts(node.spec, snapshots.get(running), snapshots.get(current));
}

/**
 * Config that the node gets ready for while it runs another, so that a maintenance window is for restarts alone; undefined
 * where there is none, or none that it may take.
 */
export function aheadOf(inputs: AimInputs): (Aim & { readonly ok: true }) | undefined {
  const { node, inPool, config, running } = inputs;
  const pinned = node.spec.config?.pin !== undefined;
  const own = !pinned && waitsForWindow(inputs) ? config.current : undefined;
  const digest = inPool ? digestOf(node.status?.config?.next) : own;
  if (digest === undefined || digest === running) return undefined;
  const aim = aimAt(digest, inputs);
  return aim.ok ? aim : undefined;
}

/** The CRD has checked the form. */
const digestOf = (text: string | undefined): ConfigDigest | undefined => text as ConfigDigest | undefined;

/** Finds the node's aim, or why there is none, in words that say what to do. */
export function aimOf(inputs: AimInputs): Aim {
  const digest = wantedDigest(inputs);
  const network = inputs.node.spec.networkRef.name;
  if (digest === undefined || !inputs.config.release) {
    return {
      ok: false,
      digest,
      reason: "NoConfig",
      message: `network ${network} has no verified config yet: see the conditions of ResultityNetwork ${network}`,
    };
  }
  return aimAt(digest, inputs);
}

/** The aim at one digest. */
export function aimAt(digest: ConfigDigest, { node, config, now }: AimInputs): Aim {
  const network = node.spec.networkRef.name;
  if (!config.release) return { ok: false, digest, reason: "NoConfig", message: "no release is known" };
  try {
    checkAllowed(config.release, digest, now);
  } catch (thrown) {
    return { ok: false, digest, reason: "DigestNotAllowed", message: messageOf(thrown) };
  }
  const snapshot = config.snapshots.get(digest);
  if (!snapshot) {
    return {
      ok: false,
      digest,
      reason: "Waiting",
      message: `waiting for the operator to fetch config ${digest} of network ${network}`,
    };
  }
  const { runtime, gpu, models } = node.spec;
  try {
    const wish = {
      engine: runtime.engine,
      gpuProduct: gpu.product,
      image: runtime.image,
      models: models ?? [],
    };
    const selection = selectRuntime(snapshot, wish);
    if (selection.runtime.launcher !== "shell") {
      return {
        ok: false,
        digest,
        reason: "NoRuntimeForEngine",
        message: `the ${runtime.engine} image of config ${snapshot.version} has no shell, which this version needs to start the engine: ask the network for an image with one`,
      };
    }
    const { image } = selection.runtime;
    const refusal = refusalOf(image, config.images);
    if (refusal !== undefined) {
      return {
        ok: false,
        digest,
        reason: "ImageNotAllowed",
        message: `config ${snapshot.version} runs ${image}, and ${refusal}: change spec.images of ResultityNetwork ${network}, or ask the network for another image`,
      };
    }
    const served = selection.models.filter((name) => !isWithheld(name, config.models));
    if (served.length === 0 && selection.models.length > 0) {
      const names = selection.models.slice(0, 4).join(", ");
      return {
        ok: false,
        digest,
        reason: "ModelNotAllowed",
        message: `of config ${snapshot.version} the node would serve ${names}, and spec.models of ResultityNetwork ${network} allows none of them: change its allowed or denied, or the node's spec.models`,
      };
    }
    const places = placesOf(image, config.images);
    const pulled = { models: served, runtime: { ...selection.runtime, image: places[0] } };
    return { ok: true, digest, selection: pulled, places };
  } catch (thrown) {
    if (!(thrown instanceof ProtocolError)) throw thrown;
    return {
      ok: false,
      digest,
      reason: runtime.image === undefined ? "NoRuntimeForEngine" : "ImageNotInConfig",
      message: `${thrown.message}: change spec.runtime or spec.gpu.product, or ask the network to approve it`,
    };
  }
}

/** The condition of an aim that cannot be had. */
export function noteOf(aim: Aim & { readonly ok: false }): Note {
  return { status: "False", reason: aim.reason, message: aim.message };
}
