/** Ends one run of a container as the kubelet does: preStop, its turn, SIGTERM, SIGKILL. */
import { sleep } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import type { Run } from "./container-record.ts";
import { handlerTarget } from "./container-start.ts";
import { runHook } from "./handler.ts";
import type { Host } from "./host.ts";
import type { Pod } from "./types.ts";

/** What a program always gets between SIGTERM and SIGKILL (minimumGracePeriodInSeconds of the kubelet). */
const leastGraceMs = 2_000;

/** How a run is to end. */
export interface KillInput {
  readonly host: Host;
  readonly pod: Pod;
  readonly podIP: string;
  readonly run: Run;
  /** Milliseconds from now to SIGKILL, preStop included. */
  readonly graceMs: number;
  /** Text of the `Killing` event. */
  readonly message: string;
  /** Resolves when it is this container's turn to get SIGTERM; undefined is at once. */
  readonly turn?: Promise<unknown>;
  /** Gives up without killing, because the pod is to be ended in another way. */
  readonly signal: AbortSignal;
}

/** Resolves when the run has ended, or when the signal aborted. */
export async function killRun(input: KillInput): Promise<void> {
  const { host, pod, run, graceMs, message, turn, signal } = input;
  const began = host.clock.monotonic();
  const left = () => graceMs - (host.clock.monotonic() - began);
  host.events.normal(pod, "Killing", message, run.container.name);
  await preStop(input);
  if (signal.aborted) return;
  if (turn && left() > 0) await waitAtMost(host, turn, left(), signal);
  if (signal.aborted) return;
  run.process.signal("SIGTERM");
  await waitAtMost(host, run.ended, Math.max(left(), leastGraceMs), signal);
  if (signal.aborted) return;
  run.process.signal("SIGKILL");
  await run.ended;
}

async function preStop({ host, pod, podIP, run, graceMs, signal }: KillInput): Promise<void> {
  const hook = run.container.lifecycle?.preStop;
  if (!hook || graceMs <= 0) return;
  const late = new AbortController();
  const timer = host.clock.setTimer(() => late.abort(), graceMs);
  const target = handlerTarget(host, run.container, podIP, run.process);
  try {
    await runHook(hook, target, host.clock, AbortSignal.any([late.signal, signal]));
  } catch (thrown) {
    if (signal.aborted) return;
    host.log.info(
      { pod: pod.metadata.name, container: run.container.name, why: messageOf(thrown) },
      "preStop failed",
    );
    host.events.warning(
      pod,
      "FailedPreStopHook",
      `PreStopHook failed: ${messageOf(thrown)}`,
      run.container.name,
    );
  } finally {
    timer.cancel();
  }
}

async function waitAtMost(
  host: Host,
  what: Promise<unknown>,
  ms: number,
  signal: AbortSignal,
): Promise<void> {
  const done = new AbortController();
  await Promise.race([what, sleep(host.clock, ms, AbortSignal.any([signal, done.signal]))]);
  done.abort();
}
