import { readFile } from "node:fs/promises";
import type { RequestOptions } from "node:https";
import { join } from "node:path";
import type { SecureContextOptions } from "node:tls";
import { type Clock, systemClock } from "../lib/clock.ts";

/** TLS of a connection to the API server. */
export interface TlsOptions extends Pick<SecureContextOptions, "ca" | "cert" | "key"> {
  readonly servername?: string;
  readonly rejectUnauthorized?: boolean;
}

/** Where the API server is and who we are to it. */
export interface ApiConnection {
  /** `https://host:port`, with a path in front of the API's own where the server is behind a gateway. */
  readonly server: URL;
  /** The namespace that the kubeconfig's context or the ServiceAccount names. */
  readonly namespace: string | undefined;
  /** Read anew for each connection, so that rotated certificates are picked up. */
  tls(): Promise<TlsOptions>;
  /** Headers that say who we are. `fresh` after a 401: whatever was kept is read anew. */
  headers(options?: { readonly fresh?: boolean }): Promise<Readonly<Record<string, string>>>;
}

/** Kubelets rotate a ServiceAccount's token at 80 % of its life, an hour at least; a minute late is early enough. */
const tokenMaxAge = 60_000;

const serviceAccountFolder = "/var/run/secrets/kubernetes.io/serviceaccount";

/** What a pod knows of its API server: the environment that the kubelet sets, and where the ServiceAccount is mounted. */
export interface InClusterOptions {
  /** `KUBERNETES_SERVICE_HOST`: a name, or an IPv4 or IPv6 address. */
  readonly host: string;
  /** `KUBERNETES_SERVICE_PORT`. */
  readonly port: string;
  /** Default: where Kubernetes mounts it. */
  readonly folder?: string;
  readonly clock?: Clock;
}

/** Connection of a pod with its own ServiceAccount. Rejects when the ServiceAccount's files cannot be read. */
export async function inCluster(options: InClusterOptions): Promise<ApiConnection> {
  const { host, port, folder = serviceAccountFolder, clock = systemClock } = options;
  const address = host.includes(":") ? `[${host}]` : host;
  const [namespace] = await Promise.all([
    readFile(join(folder, "namespace"), "utf8").then(
      (text) => text.trim(),
      () => undefined,
    ),
    readFile(join(folder, "token")),
  ]);
  const token = kept(clock, async () => (await readFile(join(folder, "token"), "utf8")).trim());
  return {
    server: new URL(`https://${address}:${port}`),
    namespace,
    tls: async () => ({ ca: await readFile(join(folder, "ca.crt")) }),
    headers: async ({ fresh = false } = {}) => ({ authorization: `Bearer ${await token(fresh)}` }),
  };
}

/**
 * Connection of a kubeconfig file's context: client certificates, tokens, exec plugins, OIDC, as client-node's
 * KubeConfig knows them. It is loaded here and not at the top of the module, because it takes 36 MiB of memory that an
 * operator in a pod does not need. Of several files, as in `KUBECONFIG`, the first that names a cluster, user, context
 * or current context decides. Rejects when a file cannot be read or the context names no cluster.
 */
export async function fromKubeconfig(
  file: string | readonly string[],
  options: { readonly context?: string; readonly clock?: Clock } = {},
): Promise<ApiConnection> {
  const { clock = systemClock } = options;
  const { KubeConfig } = await import("./kubeconfig.ts");
  const files = typeof file === "string" ? [file] : file;
  const load = () => {
    const parts = files.map((path) => {
      const part = new KubeConfig();
      part.loadFromFile(path);
      return part;
    });
    const config = new KubeConfig();
    config.loadFromOptions({
      clusters: firstOfName(parts.flatMap(({ clusters }) => clusters)),
      users: firstOfName(parts.flatMap(({ users }) => users)),
      contexts: firstOfName(parts.flatMap(({ contexts }) => contexts)),
      currentContext: parts.map(({ currentContext }) => currentContext).find(Boolean) ?? "",
    });
    if (options.context) config.setCurrentContext(options.context);
    return config;
  };
  let config = load();
  const context = config.getContextObject(config.getCurrentContext());
  const cluster = config.getCurrentCluster();
  if (!context || !cluster) {
    throw new Error(
      `${files.join(", ")}: context "${config.getCurrentContext()}" names no cluster; set current-context, or choose one with --context`,
    );
  }
  const resolved = async () => {
    const https: RequestOptions = { headers: {} };
    await config.applyToHTTPSOptions(https);
    return https;
  };
  const headers = kept(clock, async (fresh) => {
    if (fresh) config = load();
    const { headers, auth } = await resolved();
    const result: Record<string, string> = {};
    for (const [name, value] of Object.entries(headers ?? {})) {
      if (value !== undefined) result[name.toLowerCase()] = String(value).trim();
    }
    if (typeof auth === "string") result["authorization"] = `Basic ${Buffer.from(auth).toString("base64")}`;
    return result;
  });
  return {
    server: new URL(cluster.server),
    namespace: context.namespace,
    tls: async () => {
      const { ca, cert, key, rejectUnauthorized } = await resolved();
      return {
        ...(ca ? { ca } : {}),
        ...(cert ? { cert } : {}),
        ...(key ? { key } : {}),
        ...(cluster.tlsServerName ? { servername: cluster.tlsServerName } : {}),
        ...(rejectUnauthorized === undefined ? {} : { rejectUnauthorized }),
      };
    },
    headers: ({ fresh = false } = {}) => headers(fresh),
  };
}

function firstOfName<T extends { readonly name: string }>(entries: readonly T[]): T[] {
  return entries.filter(({ name }, at) => entries.findIndex((other) => other.name === name) === at);
}

/** Keeps what `read` gave for a minute. A reading that fails is not kept, and an older one is not used instead. */
function kept<T>(clock: Clock, read: (fresh: boolean) => Promise<T>): (fresh: boolean) => Promise<T> {
  let at = Number.NEGATIVE_INFINITY;
  let value: Promise<T> | undefined;
  return (fresh) => {
    if (value && !fresh && clock.monotonic() - at < tokenMaxAge) return value;
    at = clock.monotonic();
    const reading = read(fresh);
    value = reading;
    reading.catch(() => {
      if (value === reading) value = undefined;
    });
    return reading;
  };
}
