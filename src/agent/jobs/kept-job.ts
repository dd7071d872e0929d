import type { Payload } from "../../protocol/messages.ts";
import type { ByteBudget } from "../../lib/byte-budget.ts";
import { Delivery, type DeliveryPorts } from "./delivery.ts";
import type { HeldJob } from "./held-job.ts";
import type { KeptResult } from "./kept-result.ts";
import { JobOutput } from "./output.ts";
import type { Results } from "./results.ts";

/** A result that an earlier process has kept: there is no engine behind it any more, only the service to be told. */
export class KeptJob implements HeldJob {
  readonly running = false;
  readonly durable = true;
  readonly ref: HeldJob["ref"];
  readonly #output: JobOutput;
  readonly #delivery: Delivery;
  readonly #budget: ByteBudget;
  readonly #results: Results;
  readonly #forgotten: () => void;

  /** @param forgotten called when nothing is left to keep. */
  constructor(
    { ended, output }: KeptResult,
    ports: DeliveryPorts & { readonly budget: ByteBudget; readonly results: Results },
    forgotten: () => void,
  ) {
    const { job, attempt, token } = ended;
    this.ref = { job, attempt, token };
    this.#output = JobOutput.of(output);
    this.#budget = ports.budget;
    this.#results = ports.results;
    this.#forgotten = forgotten;
    this.#budget.hold(this.#output.size);
    const way = { lease: this.ref, holdBack: true, whole: true, wanted: false };
    this.#delivery = new Delivery(ports, way, this.#output, () => {});
    this.#delivery.finish(ended);
  }

  get needsLease(): boolean {
    return !this.#delivery.resultSent;
  }

  get held(): Payload<"resume">["jobs"][number] {
    return { ...this.ref, next_offset: this.#output.size, finished: true };
  }

  sessionEnded(): void {
    this.#delivery.sessionEnded();
  }

  keep(offset: number): void {
    this.#delivery.keep(offset);
  }

  drop(): void {
    this.#delivery.stop();
    this.#budget.give(this.#output.size);
    this.#results.forget(this.ref);
    this.#forgotten();
  }

  /** It is finished: there is nothing to hand back. */
  handBack(): void {}
}
