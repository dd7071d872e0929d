/** What probes and lifecycle hooks do: ask by HTTP, open a TCP connection, run a command, sleep. */
import { spawn } from "node:child_process";
import { request as httpRequest } from "node:http";
import { request as httpsRequest } from "node:https";
import { connect } from "node:net";
import { type Clock, sleep } from "../../../../src/lib/clock.ts";
import { messageOf } from "../../../../src/lib/errors.ts";
import type { Container, Handler, HttpGet } from "./types.ts";

/** Where a handler is carried out. */
export interface HandlerTarget {
  readonly container: Container;
  readonly podIP: string;
  /** Runs a command in the container. */
  readonly exec: (command: readonly string[], signal: AbortSignal) => Promise<HandlerOutcome>;
  /** Status of a GET, where it is known without asking over the network. */
  readonly answer?: ((podIP: string, port: number, path: string) => number | undefined) | undefined;
}

/** What came of it; `message` is for events. */
export interface HandlerOutcome {
  readonly passed: boolean;
  readonly message: string;
}

const outputLimit = 10 * 1024;

/**
 * Carries out a probe's handler. HTTP passes from 200 to 399.
 *
 * @param signal ends the attempt; the outcome is then a failure
 */
export async function runProbe(
  handler: Handler,
  target: HandlerTarget,
  signal: AbortSignal,
): Promise<HandlerOutcome> {
  try {
    if (handler.httpGet) {
      const { path = "/", port } = handler.httpGet;
      const known = target.answer?.(target.podIP, portNumber(port, target.container), path);
      const status = known ?? (await httpStatus(handler.httpGet, target, "kube-probe/process", signal));
      return status >= 200 && status < 400
        ? { passed: true, message: "" }
        : { passed: false, message: `HTTP probe failed with statuscode: ${status}` };
    }
    if (handler.tcpSocket) {
      const { host, port } = handler.tcpSocket;
      await tcpOpen(host ?? target.podIP, portNumber(port, target.container), signal);
      return { passed: true, message: "" };
    }
    return await target.exec(handler.exec?.command ?? [], signal);
  } catch (thrown) {
    return { passed: false, message: messageOf(thrown) };
  }
}

/**
 * Carries out a lifecycle hook. For HTTP any answer will do, whatever its status (kubelet, runHTTPHandler).
 *
 * @throws Error when it failed or `signal` ended it
 */
export async function runHook(
  handler: Handler,
  target: HandlerTarget,
  clock: Clock,
  signal: AbortSignal,
): Promise<void> {
  if (handler.sleep) return sleep(clock, handler.sleep.seconds * 1000, signal);
  if (handler.httpGet) {
    await httpStatus(handler.httpGet, target, "kube-lifecycle/process", signal);
    return;
  }
  if (handler.exec) {
    const outcome = await target.exec(handler.exec.command ?? [], signal);
    if (!outcome.passed) throw new Error(outcome.message);
  }
}

/** Number of a port given by number or by a name of the container's `ports`. */
export function portNumber(port: number | string, container: Container): number {
  if (typeof port === "number") return port;
  const named = container.ports?.find((entry) => entry.name === port)?.containerPort ?? Number(port);
  if (!Number.isInteger(named)) throw new Error(`couldn't find port: ${port} in container ${container.name}`);
  return named;
}

function httpStatus(
  get: HttpGet,
  target: HandlerTarget,
  userAgent: string,
  signal: AbortSignal,
): Promise<number> {
  const host = get.host ?? target.podIP;
  const port = portNumber(get.port, target.container);
  const path = get.path?.startsWith("/") ? get.path : `/${get.path ?? ""}`;
  const headers: Record<string, string> = { "user-agent": userAgent, accept: "*/*", connection: "close" };
  for (const { name, value } of get.httpHeaders ?? []) headers[name.toLowerCase()] = value;
  const options = { host, port, path, method: "GET", headers, agent: false, signal };
  return new Promise((resolve, reject) => {
    const call =
      get.scheme === "HTTPS" ? httpsRequest({ ...options, rejectUnauthorized: false }) : httpRequest(options);
    call.on("response", (answer) => {
      answer.on("error", reject);
      answer.on("end", () => resolve(answer.statusCode ?? 0));
      answer.resume();
    });
    call.on("error", (cause) =>
      reject(
        new Error(`Get "${(get.scheme ?? "HTTP").toLowerCase()}://${host}:${port}${path}"`, {
          cause: signal.aborted ? new Error("no answer in time") : cause,
        }),
      ),
    );
    call.end();
  });
}

function tcpOpen(host: string, port: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, signal });
    socket.on("connect", () => {
      socket.destroy();
      resolve();
    });
    socket.on("error", reject);
  });
}

/** Runs a command through `enter`, the command that enters the container. */
export function runCommand(
  command: readonly string[],
  { enter, env }: { readonly enter: readonly string[]; readonly env: Readonly<Record<string, string>> },
  signal: AbortSignal,
): Promise<HandlerOutcome> {
  const [program = "", ...args] = [...enter, ...command];
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env, cwd: "/", stdio: ["ignore", "pipe", "pipe"], detached: true });
    let output = "";
    const take = (chunk: Buffer) => {
      if (output.length < outputLimit) output += chunk.toString("utf8");
    };
    child.stdout.on("data", take);
    child.stderr.on("data", take);
    const abort = () => {
      if (child.pid !== undefined) {
        try {
          process.kill(-child.pid, "SIGKILL");
        } catch {
          // It has ended in this moment.
        }
      }
    };
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort, { once: true });
    child.on("error", reject);
    child.on("close", (code) => {
      signal.removeEventListener("abort", abort);
      if (signal.aborted) resolve({ passed: false, message: `command "${command.join(" ")}" timed out` });
      else resolve({ passed: code === 0, message: output.trim() || `command ended with code ${code}` });
    });
  });
}
