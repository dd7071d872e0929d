import type { Mutation } from "../lib/mutate.ts";

/** A bug that is planted to see that the simulator finds it. */
export interface Mutant extends Mutation {
  readonly name: string;
}

/**
 * The bugs. Each is one that a careful person could make: what it breaks shows only when something else goes wrong as well.
 * A text that is no longer in its file exactly once ends the run (`test/lib/mutate.ts`).
 */
export const mutants: readonly Mutant[] = [
  {
    name: "ack before fsync: the service acknowledges a commit that is not on the disk",
    file: "src/io/jobs/desk.ts",
    from: "this.#keep(store.write(changes).then(() => this.#durable(job)));",
    to: "this.#keep(store.write(changes)); this.#durable(job);",
  },
  {
    name: "ack before fsync: the service promises a job that is not on the disk",
    file: "src/io/jobs/async-jobs.ts",
    from: "await store.write([",
    to: "void store.write([",
  },
  {
    name: "ack before fsync: the node tells a result that is not on its disk",
    file: "src/agent/jobs/job.ts",
    from: "await results.keep({ ended, output: this.#reader.output.bytes });",
    to: "results.keep({ ended, output: this.#reader.output.bytes }).catch(() => {});",
  },
  {
    name: "fence check removed",
    file: "src/io/dispatch/job-messages.ts",
    from: "if (!node || !job?.admits(from, lease)) return undefined;",
    to: "if (!node || !job) return undefined;",
  },
  {
    name: "token not compared at commit",
    file: "src/io/dispatch/job.ts",
    from: "this.token === lease.token &&",
    to: "",
  },
  {
    name: "seq off by one",
    file: "src/protocol/session/channel.ts",
    from: "if (seq !== this.#received + 1) {",
    to: "if (seq !== this.#received + 1 && seq !== this.#received) {",
  },
  {
    name: "penalty never decays",
    file: "src/io/dispatch/standing.ts",
    from: "this.#value * 2 ** (-(now - this.#at) / halfLifeMs)",
    to: "this.#value",
  },
  {
    name: "result deleted before the ack",
    file: "src/agent/jobs/job.ts",
    from: "this.#delivery.finish(ended);",
    to: "this.#delivery.finish(ended); this.#ports.results.forget(this.ref);",
  },
  {
    name: "resume from the wrong offset",
    file: "src/agent/jobs/delivery.ts",
    from: "this.#sent = Math.min(offset, this.#output.size);",
    to: "this.#sent = Math.max(this.#sent, Math.min(offset, this.#output.size));",
  },
  {
    name: "release sequence not checked",
    file: "src/protocol/config/release.ts",
    from: "if (release.sequence < known) {",
    to: "if (release.sequence < 0) {",
  },
];
