import { isIP } from "node:net";
import { type LogLevel, logLevels } from "../../lib/logger.ts";
import { type ConfigDigest, digestField } from "../../protocol/fields.ts";
import { agentPort } from "../../protocol/status.ts";
import {
  duration,
  list,
  parsed,
  type Setting,
  SettingsError,
  text,
  truth,
  whole,
  WrongValue,
} from "./setting.ts";
import { type SettingSources, Settings } from "./sources.ts";
import { parseWindow } from "./windows.ts";
import { desiredOf, type Standalone } from "./wish.ts";

const name = /^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$/i;
const nameForm = "a name of letters, digits and . _ -";
const folder = /^\/[^\0]*$/;
const folderForm = "an absolute path";
const mirrorText = /^(https?|file):\/\/[^\s=?#@]+=(https?|file):\/\/[^\s=?#@]+$/;
const url = /^https?:\/\/[^\s/@?#]+(\/[^\s@?#]*)?$/;

/** Every setting of the agent, in the order in which the usage lists them. Flag, environment and config file share it. */
export const agentSettings = {
  nodeName: text(name, nameForm, "nodeName", "node-name", "NAME", "name of the node in logs"),
  network: text(name, nameForm, "network", "network", "NETWORK", "network that it serves"),
  endpoints: list(
    url,
    "an http or https URL without user, query or fragment",
    "endpoints",
    "endpoint",
    "URL",
    "base URL of the network's IO service",
  ),
  listen: parsed(
    addressOf,
    "HOST:PORT",
    "listen",
    "listen",
    "HOST:PORT",
    `local endpoints (default 127.0.0.1:${agentPort})`,
  ),
  identityDir: text(
    folder,
    folderForm,
    "dirs.identity",
    "identity-dir",
    "DIR",
    "key.jwk, binding.json, root.json (default /etc/resultity/identity)",
  ),
  networkDir: text(
    folder,
    folderForm,
    "dirs.network",
    "network-dir",
    "DIR",
    "the network's ConfigMap, may be missing (default /etc/resultity/network)",
  ),
  podDir: text(
    folder,
    folderForm,
    "dirs.pod",
    "pod-dir",
    "DIR",
    "the operator's wishes, file desired (default /etc/resultity/pod)",
  ),
  stateDir: text(
    folder,
    folderForm,
    "dirs.state",
    "state-dir",
    "DIR",
    "known release, last good config (default /var/lib/resultity)",
  ),
  launchDir: text(
    folder,
    folderForm,
    "dirs.launch",
    "launch-dir",
    "DIR",
    "shared with the launcher (default /run/resultity)",
  ),
  modelsDir: text(
    folder,
    folderForm,
    "dirs.models",
    "models-dir",
    "DIR",
    "weights of models; agents may share it (default /models)",
  ),
  receiptsDir: text(
    folder,
    folderForm,
    "dirs.receipts",
    "receipts-dir",
    "DIR",
    "receipts earned (default, standalone: receipts in the state folder; else none are kept)",
  ),
  level: parsed(
    levelOf,
    `one of ${logLevels.join(", ")}`,
    "logLevel",
    "log-level",
    "LEVEL",
    `${logLevels.join(", ")} (default info)`,
  ),
  standalone: truth(
    true,
    "standalone",
    "standalone",
    "",
    "no operator: run the network's current config (default with a config file)",
  ),
  engine: text(name, nameForm, "runtime.engine", "engine", "ENGINE", "engine of the network's config to run"),
  models: list(
    /^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,254}$/,
    "the name of a model",
    "runtime.models",
    "model",
    "MODEL",
    "model to serve (default: all that the config has for the engine)",
  ),
  args: list(
    /^[^\0]{0,4096}$/,
    "a text",
    "runtime.args",
    "arg",
    "ARG",
    "argument added to the engine's command line: --arg=--max-model-len=8192",
  ),
  modelsMaxBytes: whole(
    0,
    Number.MAX_SAFE_INTEGER,
    "models.maxBytes",
    "models-max-bytes",
    "BYTES",
    "most bytes of weights (default: what the disk has); models that nobody uses make room",
  ),
  modelSourceDirs: list(
    folder,
    folderForm,
    "models.sourceDirs",
    "models-source-dir",
    "DIR",
    "folder in which file: sources of the network's config may be (default: none)",
  ),
  modelMirrors: list(
    mirrorText,
    "SOURCE=MIRROR, both http, https or file URLs",
    "models.mirrors",
    "models-mirror",
    "SOURCE=MIRROR",
    "take weights that the config has below SOURCE from below MIRROR first",
  ),
  gpuProduct: text(
    /^.{1,200}$/,
    "a text",
    "gpu.product",
    "gpu-product",
    "PRODUCT",
    "GPU product by which the config chooses its runtime",
  ),
  gpuCount: whole(0, 64, "gpu.count", "gpu-count", "N", "GPUs that the engine has"),
  dcgmUrl: text(
    url,
    "an http or https URL without user, query or fragment",
    "telemetry.dcgmURL",
    "dcgm-url",
    "URL",
    "metrics of the host's dcgm-exporter (default: nvidia-smi where there is no operator, else GPUs are unknown)",
  ),
  podNamespace: text(
    name,
    nameForm,
    "telemetry.namespace",
    "pod-namespace",
    "NAMESPACE",
    "namespace of the node's pod, by which its GPUs are found in dcgm-exporter (default: all of the host's)",
  ),
  pin: parsed(
    digestOf,
    "a config digest, sha256: and 64 hex digits",
    "config.pin",
    "config-pin",
    "DIGEST",
    "stay on this config as long as the network allows it",
  ),
  windows: list(
    /^\d\d:\d\d-\d\d:\d\d$/,
    "a span of UTC hours such as 01:30-05:00",
    "config.windows",
    "config-window",
    "HH:MM-HH:MM",
    "move to a new config only in these hours, UTC (default: at once)",
  ),
  accept: truth(
    false,
    "participation.accept",
    "accept",
    "true|false",
    "false: keep the session, take no jobs (default true)",
  ),
  subclouds: list(
    name,
    nameForm,
    "participation.subclouds",
    "subcloud",
    "NAME",
    "subcloud whose jobs the node takes too",
  ),
  drainTimeout: duration(
    "drain.timeout",
    "drain-timeout",
    "10m",
    "time for running jobs before the engine is restarted for a new config (default 10m)",
  ),
  stopTimeout: duration(
    "drain.stopTimeout",
    "stop-timeout",
    "30s",
    "time for running jobs at SIGTERM before they are handed back (default 30s)",
  ),
} as const;

/** What `agent run` runs with. */
export interface AgentSettings {
  readonly nodeName: string;
  readonly network: string;
  readonly endpoints: readonly string[];
  readonly listen: { readonly host: string; readonly port: number };
  readonly identityDir: string;
  readonly networkDir: string;
  /** Undefined = standalone. */
  readonly podDir: string | undefined;
  readonly stateDir: string;
  readonly launchDir: string;
  /** Undefined = receipts are not kept. */
  readonly receiptsDir: string | undefined;
  readonly modelsDir: string;
  /** Undefined = as the disk has. */
  readonly modelsMaxBytes: number | undefined;
  /** Folders that `file:` sources may be in. */
  readonly modelSourceDirs: readonly string[];
  readonly level: LogLevel;
  /** Time for running jobs at SIGTERM where no operator says, ms. */
  readonly drainTimeoutMs: number;
  /** GPUs as configured; undefined = as the machine has them. */
  readonly gpuCount: number | undefined;
  /** Undefined = no dcgm-exporter. */
  readonly dcgmUrl: string | undefined;
  /** Undefined = all GPUs of the host are the node's. */
  readonly podNamespace: string | undefined;
  readonly standalone: Standalone | undefined;
}

/** The settings that only a standalone node has (with an operator, its ResultityNode says these); most are for an engine. */
const needEngine: readonly Setting<unknown>[] = [
  agentSettings.models,
  agentSettings.args,
  agentSettings.gpuProduct,
  agentSettings.gpuCount,
  agentSettings.accept,
  agentSettings.subclouds,
  agentSettings.drainTimeout,
];
const standaloneOnly = [
  agentSettings.engine,
  agentSettings.pin,
  agentSettings.windows,
  agentSettings.modelMirrors,
  ...needEngine,
];

/**
 * Puts the settings together: flags over environment over config file over defaults.
 * @throws {SettingsError}
 */
export function resolveSettings(sources: SettingSources): AgentSettings {
  const known = agentSettings;
  const settings = new Settings(sources, Object.values(known));
  const standalone = settings.find(known.standalone) ?? sources.file !== undefined;
  const stateDir = settings.find(known.stateDir) ?? "/var/lib/resultity";
  const endpoints = settings.require(known.endpoints);
  if (endpoints.length === 0) throw new SettingsError("missing", "--endpoint is missing: name at least one");
  if (!standalone) refuseStandaloneOnly(settings);
  const stopTimeoutMs = settings.find(known.stopTimeout) ?? 30_000;
  return {
    nodeName: settings.require(known.nodeName),
    network: settings.require(known.network),
    endpoints,
    listen: settings.find(known.listen) ?? { host: "127.0.0.1", port: agentPort },
    identityDir: settings.find(known.identityDir) ?? "/etc/resultity/identity",
    networkDir: settings.find(known.networkDir) ?? "/etc/resultity/network",
    podDir: standalone ? undefined : (settings.find(known.podDir) ?? "/etc/resultity/pod"),
    stateDir,
    launchDir: settings.find(known.launchDir) ?? "/run/resultity",
    receiptsDir: settings.find(known.receiptsDir) ?? (standalone ? `${stateDir}/receipts` : undefined),
    modelsDir: settings.find(known.modelsDir) ?? "/models",
    modelsMaxBytes: settings.find(known.modelsMaxBytes),
    modelSourceDirs: settings.find(known.modelSourceDirs) ?? [],
    level: settings.find(known.level) ?? "info",
    drainTimeoutMs: stopTimeoutMs,
    gpuCount: settings.find(known.gpuCount),
    dcgmUrl: settings.find(known.dcgmUrl),
    podNamespace: settings.find(known.podNamespace),
    standalone: standalone ? standaloneOf(settings, stopTimeoutMs) : undefined,
  };
}

function standaloneOf(settings: Settings, stopTimeoutMs: number): Standalone {
  const known = agentSettings;
  const windows = (settings.find(known.windows) ?? []).map((text) => {
    const window = parseWindow(text);
    if (window) return window;
    throw new SettingsError("wrong", `--config-window is wrong: ${text} is no span of hours of a day`);
  });
  return {
    pin: settings.find(known.pin),
    windows,
    mirrors: mirrorsOf(settings.find(known.modelMirrors) ?? []),
    wish: wishOf(settings, stopTimeoutMs),
  };
}

/** Mirrors of one source, in the order in which they are given. */
function mirrorsOf(texts: readonly string[]): Standalone["mirrors"] {
  const mirrors = new Map<string, string[]>();
  for (const text of texts) {
    const [source = "", mirror = ""] = text.split("=");
    mirrors.set(source, [...(mirrors.get(source) ?? []), mirror]);
  }
  return [...mirrors].map(([source, ofSource]) => ({ source, mirrors: ofSource }));
}

function wishOf(settings: Settings, stopTimeoutMs: number): Standalone["wish"] {
  const known = agentSettings;
  const engine = settings.find(known.engine);
  if (engine === undefined) {
    const given = needEngine.find((setting) => settings.find(setting) !== undefined);
    if (!given) return undefined;
    throw new SettingsError(
      "missing",
      `--engine (runtime.engine) is missing: --${given.flag} (${given.path}) is for a named engine of the network's config`,
    );
  }
  return desiredOf({
    engine,
    models: [...(settings.find(known.models) ?? [])],
    args: [...(settings.find(known.args) ?? [])],
    gpuProduct: settings.find(known.gpuProduct) ?? null,
    gpuCount: settings.find(known.gpuCount) ?? 0,
    accept: settings.find(known.accept) ?? true,
    subclouds: [...(settings.find(known.subclouds) ?? [])],
    drainTimeoutMs: settings.find(known.drainTimeout) ?? 600_000,
    evictionTimeoutMs: stopTimeoutMs,
  });
}

function refuseStandaloneOnly(settings: Settings): void {
  for (const setting of standaloneOnly) {
    if (settings.find(setting) === undefined) continue;
    throw new SettingsError(
      "wrong",
      `--${setting.flag} is for a node without an operator: leave it out, or add --standalone`,
    );
  }
}

/** `[v6]:port`, and `v6:port` too: the operator writes `$(POD_IP):port`, and a manifest cannot add brackets by need. */
function addressOf(given: string): AgentSettings["listen"] {
  const [, host = "", digits] = /^\[?([^\][]+?)\]?:(\d{1,5})$/.exec(given) ?? [];
  const port = Number(digits);
  const isPlain = !host.includes(":") || isIP(host) === 6;
  if (host === "" || !isPlain || !(port <= 65_535)) throw new WrongValue("HOST:PORT, such as 127.0.0.1:9440");
  return { host, port };
}

function levelOf(given: string): LogLevel {
  const level = logLevels.find((candidate) => candidate === given);
  if (level) return level;
  throw new WrongValue(`one of ${logLevels.join(", ")}`);
}

function digestOf(given: string): ConfigDigest {
  const digest = digestField.safeParse(given);
  if (digest.success) return digest.data;
  throw new WrongValue("a config digest, sha256: and 64 hex digits");
}

/** Base URL at which this host reaches the agent's local endpoints. */
export function localUrl(listen: AgentSettings["listen"] = { host: "127.0.0.1", port: agentPort }): string {
  const { host, port } = listen;
  const reached = host === "0.0.0.0" ? "127.0.0.1" : host === "::" ? "::1" : host;
  return `http://${reached.includes(":") ? `[${reached}]` : reached}:${port}`;
}
