/**
 * Draining as a state machine: events in, actions out, no clock.
 *
 * `serving → draining → drained`, and back when the stop for which it was drained does not come or is over. Why it
 * drains decides what it waits for and how it ends:
 * - `stop`: the kubelet stops the runtime container (`preStop`). Waits for running jobs. Undone when no stop follows.
 * - `restart`: the agent itself gives the engine a new command line. Waits for running jobs. Ends when that is done.
 * - `terminate`: the agent leaves. Waits for running jobs and for the acknowledgement of results. Never undone.
 */
export type DrainCause = "restart" | "stop" | "terminate";

export type DrainState =
  | { readonly at: "serving" }
  | {
      readonly at: "draining";
      readonly cause: DrainCause;
      /** Wall time at which it began. */
      readonly since: number;
      /** Monotonic time at which jobs are handed back. */
      readonly deadline: number;
      /** Jobs have been handed back; only acknowledgements are awaited, for {@link ackWaitMs}. */
      readonly handedBack: boolean;
    }
  | {
      readonly at: "drained";
      readonly cause: DrainCause;
      readonly since: number;
      /** The runtime has been seen to stop. */
      readonly stopSeen: boolean;
    };

/** How many jobs run, and how many are held at all (results that wait for an ack included). */
export interface JobCount {
  readonly running: number;
  readonly held: number;
}

export type DrainEvent =
  | {
      readonly type: "request";
      readonly cause: DrainCause;
      readonly timeoutMs: number;
      /** Wall time, ms. */
      readonly wall: number;
      readonly jobs: JobCount;
    }
  | { readonly type: "jobs"; readonly jobs: JobCount }
  | { readonly type: "timer"; readonly jobs: JobCount }
  /** The runtime has been told to stop, or is gone. */
  | { readonly type: "runtime-stopping" }
  /** The runtime container has been started anew. */
  | { readonly type: "runtime-back" }
  /** The engine has its new command line. */
  | { readonly type: "restarted" };

export type DrainAction =
  | { readonly type: "timer"; readonly ms: number }
  | { readonly type: "clear-timer" }
  | { readonly type: "hand-back" }
  | { readonly type: "drained"; readonly cause: DrainCause }
  /** `reverted`: nothing was stopped; what was rendered for the stop must be taken back. */
  | { readonly type: "serving"; readonly reverted: boolean; readonly why: string };

/** Time in which the runtime's stop must follow a drain. */
export const undoAfterMs = 30_000;
/** Time for the acknowledgement of what was handed back. */
export const ackWaitMs = 5_000;

const rank: Readonly<Record<DrainCause, number>> = { restart: 0, stop: 1, terminate: 2 };

export class DrainMachine {
  #state: DrainState = { at: "serving" };

  get state(): DrainState {
    return this.#state;
  }

  /** @param now monotonic time, ms. */
  step(event: DrainEvent, now: number): DrainAction[] {
    switch (event.type) {
      case "request":
        return this.#request(event, now);
      case "jobs":
        return this.#settle(event.jobs);
      case "timer":
        return this.#timer(event.jobs, now);
      case "runtime-stopping":
        if (this.#state.at !== "drained" || this.#state.cause === "terminate") return [];
        this.#state = { ...this.#state, stopSeen: true };
        return [{ type: "clear-timer" }];
      case "runtime-back":
        if (this.#state.at !== "drained" || this.#state.cause !== "stop") return [];
        return this.#serve(false, "the runtime has been started anew");
      case "restarted":
        if (this.#state.at !== "drained" || this.#state.cause !== "restart") return [];
        return this.#serve(false, "the engine has its new command line");
    }
  }

  #request(event: Extract<DrainEvent, { type: "request" }>, now: number): DrainAction[] {
    const { cause, timeoutMs, wall, jobs } = event;
    const state = this.#state;
    const deadline = now + timeoutMs;
    let next: Extract<DrainState, { at: "draining" }>;
    if (state.at === "serving") {
      next = { at: "draining", cause, since: wall, deadline, handedBack: false };
    } else if (rank[cause] > rank[state.cause]) {
      // A weightier cause takes over; the earlier of both deadlines holds.
      const earlier = state.at === "draining" ? Math.min(state.deadline, deadline) : deadline;
      next = { at: "draining", cause, since: state.since, deadline: earlier, handedBack: false };
    } else if (state.at === "draining" && deadline < state.deadline) {
      next = { ...state, deadline };
    } else if (state.at === "drained" && cause === "stop" && !state.stopSeen) {
      // Asked again: the stop that follows has its time again.
      return [{ type: "timer", ms: undoAfterMs }];
    } else {
      return [];
    }
    this.#state = next;
    const settled = this.#settle(jobs);
    return settled.length > 0 ? settled : [{ type: "timer", ms: next.deadline - now }];
  }

  #settle(jobs: JobCount): DrainAction[] {
    const state = this.#state;
    if (state.at !== "draining") return [];
    if ((state.cause === "terminate" ? jobs.held : jobs.running) > 0) return [];
    return this.#drained(state);
  }

  #drained(state: Extract<DrainState, { at: "draining" }>): DrainAction[] {
    const { cause, since } = state;
    this.#state = { at: "drained", cause, since, stopSeen: false };
    return [
      cause === "stop" ? { type: "timer", ms: undoAfterMs } : { type: "clear-timer" },
      { type: "drained", cause },
    ];
  }

  #timer(jobs: JobCount, now: number): DrainAction[] {
    const state = this.#state;
    if (state.at === "drained" && state.cause === "stop" && !state.stopSeen) {
      return this.#serve(true, `no stop of the runtime followed within ${undoAfterMs / 1000} s`);
    }
    if (state.at !== "draining") return [];
    if (now < state.deadline) return [{ type: "timer", ms: state.deadline - now }];
    if (state.handedBack) return this.#drained(state);
    this.#state = { ...state, handedBack: true, deadline: now + ackWaitMs };
    if (jobs.held === 0) return [{ type: "hand-back" }, ...this.#settle(jobs)];
    // The timer first: what is handed back may end the drain at once, with a timer of its own.
    return [{ type: "timer", ms: ackWaitMs }, { type: "hand-back" }];
  }

  #serve(reverted: boolean, why: string): DrainAction[] {
    this.#state = { at: "serving" };
    return [{ type: "clear-timer" }, { type: "serving", reverted, why }];
  }
}
