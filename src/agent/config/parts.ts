import type { TrustedRoot } from "../../protocol/config/root.ts";
import type { Weights } from "../../protocol/config/weights.ts";
import type { Desired, ModelMirror } from "../../protocol/desired.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import type { Standalone } from "../standalone/wish.ts";
import type { NodeConfig } from "./plan.ts";
import type { ConfigProblem } from "./problems.ts";

/** What the rest of the agent sees of the config. */
export interface ConfigView {
  readonly desired: Desired | undefined;
  readonly releaseSequence: number;
  readonly target: ConfigDigest | null;
  readonly staged: ConfigDigest | null;
  readonly applied: NodeConfig | undefined;
  /** Verified configs that are to come: the target, the one to stage. Their weights may still be on their way. */
  readonly coming: readonly NodeConfig[];
  /** Why no jobs may be taken under the applied config; undefined = they may. */
  readonly invalid: string | undefined;
  readonly problem: ConfigProblem | null;
}

/** Keeps weights on disk, as `models/models.ts` does. */
export interface WeightsKeeper {
  /** Wants these from now on, the first ones first, and no others. */
  want(weights: readonly Weights[], mirrors: readonly ModelMirror[]): void;
  /** Resolves when all that is wanted has been looked for on disk. */
  looked(): Promise<void>;
  /** True when all of these are on disk and verified. */
  ready(weights: readonly Weights[]): boolean;
  /** Why some of these cannot be had. */
  problem(weights: readonly Weights[]): string | undefined;
}

/** What the config does to the engine. */
export interface ConfigHooks {
  readonly weights: WeightsKeeper;
  /** Starts of the runtime container so far; undefined = not known. */
  launcherStarts(): number | undefined;
  /** Has the engine started with this config: `now`, or when its container begins anew. */
  render(config: NodeConfig, when: "now" | "next"): Promise<void>;
  /** Has the running engine serve the config's models, where it can take them without a restart. */
  live(config: NodeConfig): Promise<void>;
  /** Takes back what `render(…, "next")` did last. */
  restore(): Promise<void>;
  /** The engine must be restarted: drain first, then call `ConfigLoop.restartNow`. */
  wantRestart(reason: string): void;
  changed(): void;
}

export interface ConfigOptions {
  readonly network: string;
  readonly root: TrustedRoot;
  readonly endpoints: readonly string[];
  readonly stateDir: string;
  readonly networkDir: string | undefined;
  /** Folder with the file `desired`; undefined = standalone, the release's current config is the target. */
  readonly podDir: string | undefined;
  /** How a node without a `podDir` decides by itself. */
  readonly standalone?: Standalone | undefined;
  readonly agentVersion: string;
}
