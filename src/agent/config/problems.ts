import { messageOf } from "../../lib/errors.ts";
import type { Logger } from "../../lib/logger.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";

/** Why something of the config is not in force, as the signed status tells it. */
export interface ConfigProblem {
  readonly digest: ConfigDigest | null;
  /** Code of the protocol error, or `unavailable`. */
  readonly code: string;
  readonly message: string;
}

/** Where a problem can lie, the weightiest first. */
const places = ["target", "release", "mount", "desired", "stage"] as const;
export type Place = (typeof places)[number];

/** What is wrong with the config now, one problem a place. Each is logged when it begins or changes, not every round. */
export class ConfigProblems {
  readonly #log: Logger;
  readonly #now = new Map<Place, ConfigProblem>();
  readonly #told = new Map<Place, string>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /** The weightiest one; null = none. */
  get first(): ConfigProblem | null {
    for (const place of places) {
      const problem = this.#now.get(place);
      if (problem) return problem;
    }
    return null;
  }

  note(place: Place, digest: ConfigDigest | null, thrown: unknown): void {
    const code = thrown instanceof ProtocolError ? thrown.code : "unavailable";
    const problem = { digest, code, message: messageOf(thrown).slice(0, 500) };
    this.#now.set(place, problem);
    const telling = `${code} ${digest ?? ""}`;
    if (this.#told.get(place) === telling) return;
    this.#told.set(place, telling);
    this.#log.warn({ place, ...problem }, "config: not in force; what is applied goes on");
  }

  clear(place: Place): void {
    this.#now.delete(place);
  }

  /** The round is over: what is no problem any more is told again when it comes back. */
  settle(): void {
    for (const place of this.#told.keys()) if (!this.#now.has(place)) this.#told.delete(place);
  }
}
