import { fieldValue, FieldError, type HostFacts, resourceValue } from "./fields.ts";
import type { ConfigMap, Container, EnvVar, FileKeyRef, Pod, Secret } from "./types.ts";

export type Env = Readonly<Record<string, string>>;

/**
 * Replaces `$(NAME)` by the value of NAME. What is not defined stays as it is; `$$` is one `$`, so that `$$(NAME)`
 * is the text `$(NAME)` (Kubernetes API reference, Container.command).
 */
export function expand(text: string, env: Env): string {
  return text.replace(/\$\$|\$\(([^)]*)\)/g, (whole, name: string | undefined) => {
    if (name === undefined) return "$";
    return Object.hasOwn(env, name) ? (env[name] ?? "") : whole;
  });
}

/** Where values that are not in the pod come from; undefined is "there is none". */
export interface EnvSources {
  configMap(name: string): Promise<ConfigMap | undefined>;
  secret(name: string): Promise<Secret | undefined>;
  /** Text of a file in one of the pod's volumes. */
  file(volume: string, path: string): Promise<string | undefined>;
}

/**
 * The environment of a container: the image's, then `envFrom`, then `env` in order, later over earlier.
 *
 * @throws FieldError when something referenced is missing and not optional; the message names it, never a value
 */
export async function containerEnv(
  container: Container,
  pod: Pod,
  facts: HostFacts,
  sources: EnvSources,
  base: Env,
): Promise<Record<string, string>> {
  const env: Record<string, string> = { ...base };
  for (const from of container.envFrom ?? []) {
    const ref = from.configMapRef ?? from.secretRef;
    const name = ref?.name ?? "";
    const values = from.configMapRef
      ? (await sources.configMap(name))?.data
      : decoded(await sources.secret(name));
    if (!values && !ref?.optional) {
      throw new FieldError(`${from.configMapRef ? "configmap" : "secret"} "${name}" not found`);
    }
    for (const [key, value] of Object.entries(values ?? {})) env[`${from.prefix ?? ""}${key}`] = value;
  }
  // `$(NAME)` sees what the pod defines before it, and not what the image brings.
  const defined: Record<string, string> = {};
  for (const key of Object.keys(env)) if (!Object.hasOwn(base, key)) defined[key] = env[key] ?? "";
  for (const entry of container.env ?? []) {
    const value = await valueOf(entry, container, pod, facts, sources, defined);
    if (value === undefined) continue;
    env[entry.name] = value;
    defined[entry.name] = value;
  }
  return env;
}

async function valueOf(
  entry: EnvVar,
  container: Container,
  pod: Pod,
  facts: HostFacts,
  sources: EnvSources,
  defined: Env,
): Promise<string | undefined> {
  const from = entry.valueFrom;
  if (!from) return expand(entry.value ?? "", defined);
  if (from.fieldRef) return fieldValue(from.fieldRef.fieldPath, pod, facts);
  if (from.resourceFieldRef) return resourceValue(from.resourceFieldRef, pod, container.name);
  if (from.fileKeyRef) return fileValue(from.fileKeyRef, sources);
  const ref = from.configMapKeyRef ?? from.secretKeyRef;
  if (!ref) return "";
  const kind = from.configMapKeyRef ? "configmap" : "secret";
  const name = ref.name ?? "";
  const values = from.configMapKeyRef
    ? await sources.configMap(name).then((map) => map && (map.data ?? {}))
    : decoded(await sources.secret(name));
  if (!values && !ref.optional) throw new FieldError(`${kind} "${name}" not found`);
  const value = values?.[ref.key];
  if (value === undefined && !ref.optional) {
    throw new FieldError(`couldn't find key ${ref.key} in ${kind} ${pod.metadata.namespace}/${name}`);
  }
  return value;
}

async function fileValue(ref: FileKeyRef, sources: EnvSources): Promise<string | undefined> {
  const text = await sources.file(ref.volumeName, ref.path);
  const value = text === undefined ? undefined : parseEnvFile(text)[ref.key];
  if (value === undefined && !ref.optional) {
    throw new FieldError(`couldn't find key ${ref.key} in file ${ref.path} of volume ${ref.volumeName}`);
  }
  return value;
}

/** `KEY='value'` lines; blank lines and `#` comments are passed over (KEP-3721, env file syntax). */
export function parseEnvFile(text: string): Record<string, string> {
  const values: Record<string, string> = {};
  for (const match of text.matchAll(/^[ \t]*([A-Za-z_][A-Za-z0-9_]*)=(?:'([^']*)'|([^\n]*))$/gm)) {
    values[match[1] ?? ""] = match[2] ?? match[3] ?? "";
  }
  return values;
}

function decoded(secret: Secret | undefined): Record<string, string> | undefined {
  if (!secret) return undefined;
  return Object.fromEntries(
    Object.entries(secret.data ?? {}).map(([key, value]) => [
      key,
      Buffer.from(value, "base64").toString("utf8"),
    ]),
  );
}
