import { fieldValue, FieldError, type HostFacts, resourceValue } from "./fields.ts";
import type { ConfigMap, DownwardFile, KeyToPath, Pod, Secret } from "./types.ts";

/** One file of a volume. */
export interface PayloadFile {
  readonly content: Buffer;
  readonly mode: number;
}

/** Files of a volume by path relative to it. */
export type Payload = ReadonlyMap<string, PayloadFile>;

/** What Kubernetes gives a file where the pod says nothing. */
export const defaultFileMode = 0o644;

/**
 * Files of a ConfigMap: all keys, or those of `items`.
 *
 * @param optional whether a key of `items` may be missing
 * @throws FieldError for a missing key
 */
export function configMapPayload(
  map: ConfigMap,
  items: readonly KeyToPath[] | undefined,
  mode: number,
  optional: boolean,
): Payload {
  const all = new Map<string, Buffer>();
  for (const [key, text] of Object.entries(map.data ?? {})) all.set(key, Buffer.from(text, "utf8"));
  for (const [key, text] of Object.entries(map.binaryData ?? {})) all.set(key, Buffer.from(text, "base64"));
  return select(all, items, mode, optional);
}

/** As {@link configMapPayload}, of a Secret. */
export function secretPayload(
  secret: Secret,
  items: readonly KeyToPath[] | undefined,
  mode: number,
  optional: boolean,
): Payload {
  const all = new Map<string, Buffer>();
  for (const [key, text] of Object.entries(secret.data ?? {})) all.set(key, Buffer.from(text, "base64"));
  return select(all, items, mode, optional);
}

function select(
  all: ReadonlyMap<string, Buffer>,
  items: readonly KeyToPath[] | undefined,
  mode: number,
  optional: boolean,
): Payload {
  const payload = new Map<string, PayloadFile>();
  if (!items || items.length === 0) {
    for (const [key, content] of all) payload.set(key, { content, mode });
    return payload;
  }
  for (const item of items) {
    const content = all.get(item.key);
    if (content) payload.set(item.path, { content, mode: item.mode ?? mode });
    else if (!optional) throw new FieldError(`references non-existent config key: ${item.key}`);
  }
  return payload;
}

/** Files of a downward API volume, which tell of the pod itself. */
export function downwardPayload(
  items: readonly DownwardFile[] | undefined,
  mode: number,
  pod: Pod,
  facts: HostFacts,
): Payload {
  const payload = new Map<string, PayloadFile>();
  for (const item of items ?? []) {
    const text = item.fieldRef
      ? fieldValue(item.fieldRef.fieldPath, pod, facts)
      : item.resourceFieldRef
        ? resourceValue(item.resourceFieldRef, pod, item.resourceFieldRef.containerName ?? "")
        : "";
    payload.set(item.path, { content: Buffer.from(text, "utf8"), mode: item.mode ?? mode });
  }
  return payload;
}
