import * as z from "zod/mini";
import type { Timer } from "../../lib/clock.ts";
import { fullJitter } from "../../lib/backoff.ts";
import { messageOf } from "../../lib/errors.ts";
import { parsePayload } from "../../protocol/frame.ts";
import { requestBytes } from "../http-bytes.ts";
import type { Ports } from "../ports.ts";
import { engineHost } from "./argv.ts";

/** The first request of an engine may compile kernels or capture graphs. */
const timeoutMs = 120_000;
const retry = { base: 2_000, cap: 60_000 };
const maxAnswerBytes = 64 * 1024;

const answerSchema = z.object({ choices: z.array(z.unknown()).check(z.minLength(1)) });

/** Path of the test request: that of the jobs to come. */
export const proofPath = "/v1/chat/completions";

/** A request for one token. */
export function proofBody(model: string): string {
  return JSON.stringify({
    model,
    messages: [{ role: "user", content: "Hi" }],
    max_tokens: 1,
    stream: false,
  });
}

/**
 * Test inference: a model counts as active only when it has answered a request for one token in this engine process. A list
 * of models is not proof: engines list what they cannot run, for lack of memory, of a chat template, of a kernel.
 */
export class ModelProofs {
  readonly #ports: Ports;
  readonly #changed: () => void;
  readonly #proven = new Set<string>();
  readonly #faults = new Map<string, string>();
  readonly #attempts = new Map<string, number>();
  readonly #retries = new Map<string, Timer>();
  #busy = false;
  /** Counts engine processes: what an older one answers is of no interest. */
  #process = 0;

  /** @param changed called when a model has answered, or has not. */
  constructor(ports: Ports, changed: () => void) {
    this.#ports = ports;
    this.#changed = changed;
  }

  has(model: string): boolean {
    return this.#proven.has(model);
  }

  /** Why models have not answered as they should, by model. */
  get faults(): Readonly<Record<string, string>> {
    return Object.fromEntries(this.#faults);
  }

  /** A new engine process has proven nothing. */
  reset(): void {
    this.#process++;
    this.#busy = false;
    this.#proven.clear();
    this.#faults.clear();
    this.#attempts.clear();
    for (const timer of this.#retries.values()) timer.cancel();
    this.#retries.clear();
  }

  /** Tries those of the models that have not been tried, one at a time; forgets all others. */
  want(port: number, models: readonly string[]): void {
    for (const model of [...this.#proven, ...this.#faults.keys()])
      if (!models.includes(model)) this.#forget(model);
    if (this.#busy) return;
    const next = models.find((model) => !this.#proven.has(model) && !this.#retries.has(model));
    if (next !== undefined) void this.#try(port, next, this.#process);
  }

  #forget(model: string): void {
    this.#proven.delete(model);
    this.#faults.delete(model);
    this.#attempts.delete(model);
    this.#retries.get(model)?.cancel();
    this.#retries.delete(model);
  }

  async #try(port: number, model: string, process: number): Promise<void> {
    this.#busy = true;
    const fault = await this.#ask(port, model);
    if (process !== this.#process) return;
    this.#busy = false;
    if (fault === undefined) {
      this.#faults.delete(model);
      this.#attempts.delete(model);
      this.#proven.add(model);
      this.#ports.log.info({ model }, "model answers its test request");
    } else {
      if (this.#faults.get(model) !== fault)
        this.#ports.log.warn({ model, why: fault }, "model does not answer its test request; tried again");
      this.#faults.set(model, fault);
      const attempt = this.#attempts.get(model) ?? 0;
      this.#attempts.set(model, attempt + 1);
      const ms = fullJitter(attempt, retry, this.#ports.random.number);
      this.#retries.set(
        model,
        this.#ports.clock.setTimer(() => this.#retries.delete(model), ms),
      );
    }
    this.#changed();
  }

  /** Why it failed; undefined = it did not. */
  async #ask(port: number, model: string): Promise<string | undefined> {
    const url = `http://${engineHost}:${port}${proofPath}`;
    const headers = { "content-type": "application/json" };
    const request = { method: "POST", url, headers, body: proofBody(model) } as const;
    try {
      const limits = { maxBytes: maxAnswerBytes, timeoutMs };
      const { status, body } = await requestBytes(this.#ports.http, this.#ports.clock, request, limits);
      const text = body.toString("utf8");
      if (status !== 200) return `test request answered with HTTP ${status}: ${text.slice(0, 150)}`;
      parsePayload(answerSchema, text, "test request's answer");
      return undefined;
    } catch (thrown) {
      return `test request failed: ${messageOf(thrown).slice(0, 200)}`;
    }
  }
}
