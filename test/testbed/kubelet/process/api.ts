/**
 * Client of the API server, as small as a kubelet needs: JSON requests on kept-alive connections, and watches. Not the
 * project's own client (`src/kube`), so that a fault there cannot hide from tests that use this kubelet.
 */
import { readFileSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { Agent, request as httpsRequest } from "node:https";
import { createInterface } from "node:readline";
import { parse } from "yaml";

/** An answer that is not a success, or none at all (`status` 0). */
export class ApiError extends Error {
  /** HTTP status; 0 when the server could not be reached. */
  readonly status: number;
  /** `reason` of the Status object, `""` without one. */
  readonly reason: string;

  constructor(status: number, reason: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "ApiError";
    this.status = status;
    this.reason = reason;
  }
}

/** Whether `thrown` is the API server's answer `status`. */
export function isStatus(thrown: unknown, status: number): boolean {
  return thrown instanceof ApiError && thrown.status === status;
}

/** One line of a watch. */
export interface WatchEvent {
  readonly type: "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK" | "ERROR";
  readonly object: unknown;
}

/** What a request may carry. */
export interface CallOptions {
  readonly body?: object;
  readonly contentType?: string;
  readonly signal?: AbortSignal;
}

const callTimeoutMs = 20_000;

/** One API server as one user. All methods reject with {@link ApiError}. */
export class Api {
  readonly #headers: Readonly<Record<string, string>>;
  readonly #base: URL;
  readonly #agent: Agent;

  /**
   * @param kubeconfig path of a kubeconfig file, whose current context is used
   * @param maxConnections beside which requests wait; default: none do
   */
  constructor(
    kubeconfig: string,
    { maxConnections = Number.POSITIVE_INFINITY }: { readonly maxConnections?: number } = {},
  ) {
    const { server, token, ...tls } = readKubeconfig(kubeconfig);
    this.#base = new URL(server);
    this.#agent = new Agent({ keepAlive: true, maxSockets: maxConnections, ...tls });
    this.#headers = { accept: "application/json", ...(token ? { authorization: `Bearer ${token}` } : {}) };
  }

  get<T>(path: string, options: CallOptions = {}): Promise<T> {
    return this.#call("GET", path, options);
  }

  create<T>(path: string, body: object, options: CallOptions = {}): Promise<T> {
    return this.#call("POST", path, { ...options, body });
  }

  /** Strategic merge patch. */
  patch<T>(path: string, body: object, options: CallOptions = {}): Promise<T> {
    return this.#call("PATCH", path, {
      ...options,
      body,
      contentType: "application/strategic-merge-patch+json",
    });
  }

  delete(path: string, body: object, options: CallOptions = {}): Promise<void> {
    return this.#call("DELETE", path, { ...options, body });
  }

  /** Calls `onEvent` for each line until the server ends the watch (resolves) or it breaks or aborts (rejects). */
  async watch(path: string, onEvent: (event: WatchEvent) => void, signal: AbortSignal): Promise<void> {
    const answer = await this.#send("GET", path, { signal });
    if (answer.statusCode !== 200) throw await failure("GET", path, answer);
    for await (const line of createInterface({ input: answer, crlfDelay: Number.POSITIVE_INFINITY })) {
      if (signal.aborted) return;
      if (line !== "") onEvent(JSON.parse(line));
    }
  }

  close(): void {
    this.#agent.destroy();
  }

  async #call<T>(method: string, path: string, options: CallOptions): Promise<T> {
    const timeout = AbortSignal.timeout(callTimeoutMs);
    const signal = options.signal ? AbortSignal.any([options.signal, timeout]) : timeout;
    const answer = await this.#send(method, path, { ...options, signal });
    if ((answer.statusCode ?? 0) >= 300) throw await failure(method, path, answer);
    return JSON.parse(await textOf(answer));
  }

  #send(method: string, path: string, { body, contentType, signal }: CallOptions): Promise<IncomingMessage> {
    const text = body === undefined ? undefined : JSON.stringify(body);
    return new Promise((resolve, reject) => {
      const call = httpsRequest(
        new URL(path, this.#base),
        {
          agent: this.#agent,
          method,
          ...(signal ? { signal } : {}),
          headers: {
            ...this.#headers,
            ...(text === undefined
              ? {}
              : {
                  "content-type": contentType ?? "application/json",
                  "content-length": Buffer.byteLength(text),
                }),
          },
        },
        resolve,
      );
      call.on("error", (cause) => reject(new ApiError(0, "", `${method} ${path}`, { cause })));
      call.end(text);
    });
  }
}

async function textOf(answer: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf8");
}

async function failure(method: string, path: string, answer: IncomingMessage): Promise<ApiError> {
  const text = await textOf(answer);
  let reason = "";
  let message = text.slice(0, 300);
  try {
    const status: { reason?: string; message?: string } = JSON.parse(text);
    reason = status.reason ?? "";
    message = status.message ?? message;
  } catch {
    // Not a Status object: a proxy's page, or nothing. The text itself says most.
  }
  return new ApiError(answer.statusCode ?? 0, reason, `${method} ${path}: ${answer.statusCode} ${message}`);
}

interface Credentials {
  readonly server: string;
  readonly token?: string;
  readonly ca?: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
}

interface Kubeconfig {
  readonly "current-context": string;
  readonly contexts: readonly { name: string; context: { cluster: string; user: string } }[];
  readonly clusters: readonly { name: string; cluster: Record<string, string> }[];
  readonly users: readonly { name: string; user: Record<string, string> }[];
}

function readKubeconfig(path: string): Credentials {
  const config: Kubeconfig = parse(readFileSync(path, "utf8"));
  const context = config.contexts.find((entry) => entry.name === config["current-context"])?.context;
  const cluster = config.clusters.find((entry) => entry.name === context?.cluster)?.cluster;
  const user = config.users.find((entry) => entry.name === context?.user)?.user;
  const server = cluster?.["server"];
  if (!cluster || !user || !server) {
    throw new Error(`kubeconfig ${path}: its current-context must name a cluster with a server and a user`);
  }
  const ca = inlineOrFile(cluster, "certificate-authority");
  const cert = inlineOrFile(user, "client-certificate");
  const key = inlineOrFile(user, "client-key");
  const token = user["token"];
  return {
    server,
    ...(token ? { token } : {}),
    ...(ca ? { ca } : {}),
    ...(cert ? { cert } : {}),
    ...(key ? { key } : {}),
  };
}

function inlineOrFile(entry: Readonly<Record<string, string>>, field: string): Buffer | undefined {
  const inline = entry[`${field}-data`];
  if (inline) return Buffer.from(inline, "base64");
  const file = entry[field];
  return file ? readFileSync(file) : undefined;
}
