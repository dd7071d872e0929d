/**
 * A real control plane on this machine: etcd and kube-apiserver, and on request kube-scheduler,
 * kube-controller-manager and kwok.
 *
 * ```ts
 * await using bed = await startControlPlane({ components: ["controller-manager"], log: console.error });
 * await bed.kubectl(["apply", "-f", "-"], { stdin: manifest });              // as cluster-admin
 * const kubelet = bed.kubeconfigForUser("system:node:host-1", ["system:nodes"]);
 * const operator = await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");
 * const mark = await bed.audit.mark();
 * …
 * const writes = (await bed.audit.since(mark)).filter(isWrite);
 * await bed.killApiServer();                                                 // an outage
 * await bed.startApiServer();                                                // same port, same data
 * ```
 *
 * RBAC, the Node authorizer and NodeRestriction are on. Without "controller-manager" nobody makes the default
 * ServiceAccounts (so pods are refused), deletes the content of a namespace, or collects garbage. Everything
 * listens on 127.0.0.1, on ports that stay the bed's own while it lives. Nothing survives `stop()`, unless `dir` says where
 * to keep it.
 */
import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { Agent, request } from "undici";
import { type AuditLog, openAuditLog } from "./audit.ts";
import { type Binaries, type BinaryName, binary, ensureBinaries } from "./binaries.ts";
import {
  apiServerArgs,
  auditLogPath,
  type ControlPlanePlace,
  controllerManagerArgs,
  etcdArgs,
  kubeconfigPath,
  kwokArgs,
  type OptionalComponent,
  prepare,
  schedulerArgs,
} from "./components.ts";
import { TestbedError } from "./errors.ts";
import { kubeJson, type KubeObject } from "./kube-json.ts";
import { writeKubeconfig } from "./kubeconfig.ts";
import { kwokStages } from "./kwok-stages.ts";
import { freePort } from "./ports.ts";
import { type Child, supervise, type Supervisor } from "./processes.ts";
import { until } from "./until.ts";

export type { OptionalComponent } from "./components.ts";
export { type AuditEntry, type AuditMark, isWrite } from "./audit.ts";

/** Limit of a hook that starts a control plane: the first on a machine builds its binaries, about 14 minutes. Milliseconds. */
export const buildingMs = 1_500_000;

/** Any part of the control plane. */
export type ComponentName = "etcd" | "apiserver" | OptionalComponent;

/** Options of {@link startControlPlane}. */
export interface ControlPlaneOptions {
  /** What runs beside etcd and the API server. */
  readonly components: readonly OptionalComponent[];
  /** Told about builds and clean-up, one line each. Default: nobody. */
  readonly log?: (line: string) => void;
  /** Folder for data, certificates and logs; must be empty or absent; kept. Default: a temporary one, removed by `stop()`. */
  readonly dir?: string;
  /** Supervisor to start everything under. Default: one of the bed's own, which also handles signals. */
  readonly processes?: Supervisor;
  /** More flags, after the bed's own; a repeated flag wins over the bed's. */
  readonly extraArgs?: Readonly<Partial<Record<ComponentName, readonly string[]>>>;
}

/** Output of a command. */
export interface CommandResult {
  readonly stdout: string;
  readonly stderr: string;
  /** Exit code, or -1 when it was killed by the timeout. */
  readonly code: number;
}

/** Options of `kubectl`. */
export interface KubectlOptions {
  readonly stdin?: string;
  /** Path. Default: the administrator's. */
  readonly kubeconfig?: string;
  /** Milliseconds. Default 60,000. */
  readonly timeoutMs?: number;
}

/** A running control plane. */
export interface ControlPlane extends AsyncDisposable {
  /** URL of the API server. */
  readonly server: string;
  /** URL of etcd, which asks nobody who they are. */
  readonly etcd: string;
  /** Folder of data, certificates and logs (`<component>.log`). */
  readonly dir: string;
  /** Certificate of the authority that signed the API server's and every client's certificate, PEM. */
  readonly ca: string;
  /** Path of a kubeconfig in group system:masters. */
  readonly adminKubeconfig: string;
  readonly audit: AuditLog;
  /** Everything started for this bed; start more under it and it stops with the bed. */
  readonly processes: Supervisor;
  /** Paths of the binaries in use, among them kubectl. */
  readonly binaries: Binaries;
  /** Runs kubectl to its end; a failure is in `code`, it does not throw. For a long-running one use `processes.spawn`. */
  kubectl(args: readonly string[], options?: KubectlOptions): Promise<CommandResult>;
  /** As `kubectl`, but returns stdout. @throws TestbedError `CommandFailed` with kubectl's stderr */
  kubectlOk(args: readonly string[], options?: KubectlOptions): Promise<string>;
  /** Path of a kubeconfig with a new client certificate: common name = user, organisations = groups. */
  kubeconfigForUser(user: string, groups?: readonly string[]): string;
  /** Path of a kubeconfig with a token of an existing ServiceAccount, valid for a day. What it may do is RBAC's affair. */
  serviceAccountKubeconfig(namespace: string, name: string): Promise<string>;
  /** The process of a component, to signal or to watch. @throws TestbedError `ProcessFailed` when it was not started */
  component(name: ComponentName): Child;
  /** SIGKILL to the API server; resolves when it is gone. */
  killApiServer(): Promise<void>;
  /** Starts it again on the same port and data; resolves when it is ready. Does nothing while it runs. */
  startApiServer(): Promise<void>;
  /** Ends every process of the bed and removes its temporary folder. Idempotent. */
  stop(): Promise<void>;
}

const binariesOf: Readonly<Record<ComponentName, BinaryName>> = {
  etcd: "etcd",
  apiserver: "kube-apiserver",
  scheduler: "kube-scheduler",
  "controller-manager": "kube-controller-manager",
  kwok: "kwok",
};

/**
 * Starts a control plane and resolves when its API server is ready and, with the controller manager, the default
 * ServiceAccount exists. Binaries are found or built first (`binaries.ts`).
 *
 * @throws TestbedError with the end of the log of whatever did not come up
 */
export async function startControlPlane(options: ControlPlaneOptions): Promise<ControlPlane> {
  const { components, log } = options;
  const names: ComponentName[] = ["etcd", "apiserver", ...components];
  const binaries = await ensureBinaries(
    [...names.map((name) => binariesOf[name]), "kubectl"],
    log ? { log } : {},
  );
  const stages = components.includes("kwok") ? await kwokStages() : [];
  const own = options.processes === undefined;
  const processes = options.processes ?? supervise(log ? { log } : {});
  try {
    return await start(options, { binaries, stages, processes, own });
  } catch (thrown) {
    if (own) await processes.close();
    throw thrown;
  }
}

interface Prepared {
  readonly binaries: Binaries;
  readonly stages: readonly string[];
  readonly processes: Supervisor;
  /** Whether the supervisor is the bed's own, to be closed with it. */
  readonly own: boolean;
}

async function start(
  { components, dir: wantedDir, extraArgs = {} }: ControlPlaneOptions,
  { binaries, stages, processes, own }: Prepared,
): Promise<ControlPlane> {
  const dir = wantedDir ?? processes.folder("bed");
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const place = prepare(dir, await choosePorts());
  const adminKubeconfig = kubeconfigPath(dir, "admin");
  const ask = openAdmin(place);
  const children = new Map<ComponentName, Child>();

  const run = (name: ComponentName, args: readonly string[]): Child => {
    const child = processes.spawn({
      name,
      command: binary(binaries, binariesOf[name]),
      args: [...args, ...(extraArgs[name] ?? [])],
      cwd: dir,
      logFile: join(dir, `${name}.log`),
      // Nothing of theirs is kept that SIGKILL could hurt: etcd's data survives the death of its process.
      graceMs: 0,
    });
    children.set(name, child);
    return child;
  };
  const component = (name: ComponentName): Child => {
    const child = children.get(name);
    if (!child) throw new TestbedError("ProcessFailed", `${name} is not part of this control plane`);
    return child;
  };
  const startApiServer = async () => {
    if (children.get("apiserver")?.running()) return;
    const child = run("apiserver", apiServerArgs(place));
    await until("kube-apiserver to be ready", async () => (await ask.status("/readyz")) === 200, {
      deadlineMs: 60_000,
      giveUp: child.requireRunning,
    });
  };

  run("etcd", etcdArgs(place));
  await startApiServer();
  if (components.includes("controller-manager")) {
    const child = run("controller-manager", controllerManagerArgs(place));
    const path = "/api/v1/namespaces/default/serviceaccounts/default";
    await until("the default ServiceAccount", async () => (await ask.status(path)) === 200, {
      deadlineMs: 60_000,
      giveUp: child.requireRunning,
    });
  }
  if (components.includes("scheduler")) run("scheduler", schedulerArgs(place));
  if (components.includes("kwok")) run("kwok", kwokArgs(place, stages));

  const kubectl = (args: readonly string[], { stdin, kubeconfig, timeoutMs = 60_000 }: KubectlOptions = {}) =>
    runCommand(
      binary(binaries, "kubectl"),
      [`--kubeconfig=${kubeconfig ?? adminKubeconfig}`, `--cache-dir=${join(dir, "kubectl-cache")}`, ...args],
      stdin ?? "",
      timeoutMs,
    );
  let kubeconfigs = 0;
  const newKubeconfig = (user: string, credentials: { cert: string; key: string } | { token: string }) => {
    const path = kubeconfigPath(dir, `user-${++kubeconfigs}-${user.replace(/[^\w.-]+/g, "-")}`);
    writeKubeconfig(path, { server: place.server, ca: place.authority.cert, user, credentials });
    return path;
  };
  let stopping: Promise<void> | undefined;
  const stopAll = async () => {
    for (const child of [...children.values()].toReversed()) await child.stop();
    await ask.close();
    if (own) await processes.close();
  };
  const stop = () => {
    stopping ??= stopAll();
    return stopping;
  };

  return {
    server: place.server,
    etcd: `http://127.0.0.1:${place.ports.etcd}`,
    dir,
    ca: place.authority.cert,
    adminKubeconfig,
    audit: openAuditLog(auditLogPath(dir), (path) => ask.status(path)),
    processes,
    binaries,
    kubectl,
    async kubectlOk(args, kubectlOptions) {
      const { stdout, stderr, code } = await kubectl(args, kubectlOptions);
      if (code === 0) return stdout;
      throw new TestbedError(
        "CommandFailed",
        `kubectl ${args.join(" ")} ended with ${code}: ${stderr.trim()}`,
      );
    },
    kubeconfigForUser: (user, groups = []) =>
      newKubeconfig(user, place.authority.issue({ commonName: user, groups, usage: "client" })),
    async serviceAccountKubeconfig(namespace, name) {
      const token = await requestToken(adminKubeconfig, namespace, name);
      return newKubeconfig(`system:serviceaccount:${namespace}:${name}`, { token });
    },
    component,
    async killApiServer() {
      await component("apiserver").stop({ graceMs: 0 });
    },
    startApiServer,
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

async function choosePorts(): Promise<ControlPlanePlace["ports"]> {
  return {
    etcd: await freePort(),
    etcdPeer: await freePort(),
    apiServer: await freePort(),
    controllerManager: await freePort(),
    scheduler: await freePort(),
  };
}

/** GETs of the administrator of which only the status counts. */
function openAdmin({ server, authority }: ControlPlanePlace) {
  const groups = ["system:masters"];
  const { cert, key } = authority.issue({ commonName: "testbed", groups, usage: "client" });
  const dispatcher = new Agent({ connect: { ca: authority.cert, cert, key } });
  return {
    async status(path: string): Promise<number> {
      const answer = await request(`${server}${path}`, { dispatcher });
      await answer.body.dump();
      return answer.statusCode;
    },
    close: () => dispatcher.close(),
  };
}

interface TokenRequest extends KubeObject {
  readonly status: { readonly token: string };
}

const daySeconds = 86_400;

async function requestToken(kubeconfig: string, namespace: string, name: string): Promise<string> {
  const api = kubeJson(kubeconfig);
  try {
    const answer = await api.create<TokenRequest>(
      `/api/v1/namespaces/${namespace}/serviceaccounts/${name}/token`,
      {
        apiVersion: "authentication.k8s.io/v1",
        kind: "TokenRequest",
        spec: { expirationSeconds: daySeconds },
      },
    );
    return answer.status.token;
  } finally {
    await api.close();
  }
}

function runCommand(
  command: string,
  args: readonly string[],
  stdin: string,
  timeout: number,
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { timeout, killSignal: "SIGKILL" });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => out.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => err.push(chunk));
    child.once("error", reject);
    child.once("close", (code) =>
      resolve({
        stdout: Buffer.concat(out).toString(),
        stderr: Buffer.concat(err).toString(),
        code: code ?? -1,
      }),
    );
    // A command that does not read its input may close it early.
    child.stdin.on("error", () => {});
    child.stdin.end(stdin);
  });
}
