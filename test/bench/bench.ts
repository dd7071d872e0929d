import type { Supervisor } from "../testbed/processes.ts";
import type { Figure } from "./figures.ts";

/** What a bench runs with. */
export interface BenchSetting {
  readonly processes: Supervisor;
  /** Fewer and shorter runs: to see that it works, not to quote it. */
  readonly quick: boolean;
  /** Nodes of the fleet, where a bench has one and is not to have its own sizes. */
  readonly nodes?: number;
  /** For how long a fleet that stands still is looked at. */
  readonly minutes?: number;
  /** Folder for peers that are installed when they are needed. */
  readonly cache: string;
  /** Progress, a line each. */
  readonly say: (line: string) => void;
}

/** What a bench has found. */
export interface BenchResult {
  readonly figures: readonly Figure[];
  /** What a reader of the figures has to know: what was left out, and why. */
  readonly notes: readonly string[];
}

/** One bench, as `--only` names it. */
export interface Bench {
  readonly name: string;
  /** What is measured against what, in a line. */
  readonly what: string;
  run(setting: BenchSetting): Promise<BenchResult>;
}
