/**
 * Requests of the test bed to an API server: plain JSON by path, no cache, no watch. Not the project's client
 * (`src/kube`), so that a fault there cannot hide from the tests that use this.
 */
import { readFileSync } from "node:fs";
import { Agent, request } from "undici";
import { parse } from "yaml";
import { CodedError } from "../../src/lib/errors.ts";

/** `http-<status>` of the answer, e.g. `http-409`. */
export type KubeAnswerCode = `http-${number}`;

/** An answer of the API server that is not a success; the message is the server's own. */
export class KubeAnswerError extends CodedError<KubeAnswerCode> {}

/** An API object, of which the caller knows the shape. */
export interface KubeObject {
  readonly apiVersion?: string;
  readonly kind?: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
    readonly generation?: number;
    readonly resourceVersion?: string;
    readonly deletionTimestamp?: string;
    readonly annotations?: Readonly<Record<string, string>>;
    readonly labels?: Readonly<Record<string, string>>;
  };
}

const patchTypes = {
  json: "application/json-patch+json",
  merge: "application/merge-patch+json",
  strategic: "application/strategic-merge-patch+json",
} as const;

/** Client of one API server. Every method rejects with {@link KubeAnswerError}; `get` of what is not there is undefined. */
export interface KubeJson {
  get<T extends KubeObject>(path: string): Promise<T | undefined>;
  create<T extends KubeObject>(path: string, body: object): Promise<T>;
  patch<T extends KubeObject>(path: string, type: keyof typeof patchTypes, body: object): Promise<T>;
  /** 404 is no error. */
  delete(path: string, gracePeriodSeconds?: number): Promise<void>;
  close(): Promise<void>;
}

/** Opens a client with the current context of a kubeconfig file; credentials and CA must be inline data or files. */
export function kubeJson(kubeconfig: string): KubeJson {
  const { server, ca, cert, key, token } = credentialsOf(kubeconfig);
  const agent = new Agent({
    connect: { ...(ca ? { ca } : {}), ...(cert ? { cert } : {}), ...(key ? { key } : {}) },
  });
  const call = async (
    method: "GET" | "POST" | "PATCH" | "DELETE",
    path: string,
    body?: object,
    type?: string,
  ) => {
    const answer = await request(new URL(path, server), {
      method,
      dispatcher: agent,
      headers: {
        accept: "application/json",
        ...(body ? { "content-type": type ?? "application/json" } : {}),
        ...(token ? { authorization: `Bearer ${token}` } : {}),
      },
      ...(body ? { body: JSON.stringify(body) } : {}),
    });
    const text = await answer.body.text();
    if (answer.statusCode === 404 && (method === "GET" || method === "DELETE")) return undefined;
    if (answer.statusCode >= 300) {
      throw new KubeAnswerError(`http-${answer.statusCode}`, `${method} ${path}: ${messageIn(text)}`);
    }
    return JSON.parse(text);
  };
  return {
    get: (path) => call("GET", path),
    create: (path, body) => call("POST", path, body),
    patch: (path, type, body) => call("PATCH", path, body, patchTypes[type]),
    async delete(path, gracePeriodSeconds) {
      await call("DELETE", path, gracePeriodSeconds === undefined ? undefined : { gracePeriodSeconds });
    },
    close: () => agent.close(),
  };
}

interface Credentials {
  readonly server: string;
  readonly ca?: Buffer;
  readonly cert?: Buffer;
  readonly key?: Buffer;
  readonly token?: string;
}

interface Kubeconfig {
  readonly "current-context": string;
  readonly contexts: readonly { name: string; context: { cluster: string; user: string } }[];
  readonly clusters: readonly { name: string; cluster: Record<string, string> }[];
  readonly users: readonly { name: string; user: Record<string, string> }[];
}

function credentialsOf(path: string): Credentials {
  const config: Kubeconfig = parse(readFileSync(path, "utf8"));
  const context = config.contexts.find((entry) => entry.name === config["current-context"])?.context;
  const cluster = config.clusters.find((entry) => entry.name === context?.cluster)?.cluster;
  const user = config.users.find((entry) => entry.name === context?.user)?.user;
  const server = cluster?.["server"];
  if (!cluster || !user || !server) throw new Error(`${path}: current-context names no cluster and user`);
  const ca = dataOrFile(cluster, "certificate-authority");
  const cert = dataOrFile(user, "client-certificate");
  const key = dataOrFile(user, "client-key");
  const token = user["token"];
  return {
    server,
    ...(ca ? { ca } : {}),
    ...(cert ? { cert } : {}),
    ...(key ? { key } : {}),
    ...(token ? { token } : {}),
  };
}

function dataOrFile(entry: Record<string, string>, field: string): Buffer | undefined {
  const data = entry[`${field}-data`];
  if (data) return Buffer.from(data, "base64");
  const file = entry[field];
  return file ? readFileSync(file) : undefined;
}

function messageIn(text: string): string {
  try {
    const status: unknown = JSON.parse(text);
    if (typeof status === "object" && status !== null && "message" in status) return String(status.message);
  } catch {
    // Not a Status object: the text itself says most.
  }
  return text.slice(0, 500);
}
