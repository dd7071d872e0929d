import type { Clock } from "../../../lib/clock.ts";
import type { HostState } from "./lost-host.ts";
import { type Census, censusMs } from "./fleet.ts";
import { rateWindowMs } from "./ladder.ts";

/** After this long, ms, what a host's Node object said is forgotten: who may be on a lost one looks three times as often. */
const forgetMs = 60_000;

/** What recovery remembers between reconciles. All of it can be lost: the record is in each node's status. */
export class RecoveryMemory {
  readonly #clock: Clock;
  readonly #steps = new Map<string, { readonly nodeKey: string; readonly at: number }[]>();
  readonly #hosts = new Map<string, { readonly state: HostState; readonly at: number }>();
  readonly #censuses = new Map<string, { readonly census: Census; readonly at: number }>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** A step is about to be recorded: it counts before any cache shows it. @param network `namespace/name` */
  stepTaken(network: string, nodeKey: string): void {
    const at = this.#clock.monotonic();
    this.#steps.set(network, [...this.#lately(network), { nodeKey, at }]);
  }

  /** Steps that this process has lately taken for other nodes of a network. */
  stepsTaken(network: string, nodeKey: string): number {
    return this.#lately(network).filter((step) => step.nodeKey !== nodeKey).length;
  }

  #lately(network: string) {
    const now = this.#clock.monotonic();
    return (this.#steps.get(network) ?? []).filter(({ at }) => now - at < rateWindowMs);
  }

  /** What a host's Node object said. */
  hostSeen(host: string, state: HostState): void {
    this.#hosts.set(host, { state, at: this.#clock.monotonic() });
  }

  /** What it said last, and how long ago, ms; undefined = nobody has looked lately, and hosts come back. */
  hostLook(host: string): { readonly state: HostState; readonly ageMs: number } | undefined {
    const look = this.#hosts.get(host);
    if (!look) return undefined;
    const ageMs = this.#clock.monotonic() - look.at;
    if (ageMs < forgetMs) return { state: look.state, ageMs };
    this.#hosts.delete(host);
    return undefined;
  }

  /** A count of a network's nodes, at most {@link censusMs} old: thousands may ask when thousands fail. */
  census(network: string, count: () => Census): Census {
    const last = this.#censuses.get(network);
    const now = this.#clock.monotonic();
    if (last && now - last.at < censusMs) return last.census;
    const census = count();
    this.#censuses.set(network, { census, at: now });
    return census;
  }
}
