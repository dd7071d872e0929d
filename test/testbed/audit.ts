/**
 * Reads the API server's audit log: what clients really asked of it, and so the honest count of writes and LISTs.
 *
 * ```ts
 * const mark = await bed.audit.mark();
 * …
 * const writes = (await bed.audit.since(mark)).filter(isWrite);
 * ```
 */
import { closeSync, existsSync, fstatSync, openSync, readSync } from "node:fs";

/** One request that the API server has answered. */
export interface AuditEntry {
  readonly stage: "ResponseComplete";
  /** Such as `system:serviceaccount:resultity-system:operator`. */
  readonly user: string;
  /** Such as get, list, watch, create, update, patch, delete, deletecollection. */
  readonly verb: string;
  /** API group, "" for the core group and for requests that are not about a resource. */
  readonly group: string;
  /** Plural resource, "" for requests that are not about a resource. */
  readonly resource: string;
  /** Such as status or scale, "" for none. */
  readonly subresource: string;
  readonly namespace: string;
  readonly name: string;
  /** HTTP status of the answer. */
  readonly code: number;
  /** When the request came in. Milliseconds since the Unix epoch. */
  readonly time: number;
  readonly userAgent: string;
  /** Path and query. */
  readonly uri: string;
}

/** A place in the log. */
export interface AuditMark {
  /** Byte offset. */
  readonly offset: number;
}

/** The log of one control plane. Both calls first wait until what was answered before them is written. */
export interface AuditLog {
  readonly path: string;
  /** The place to count from. */
  mark(): Promise<AuditMark>;
  /** Requests answered since the mark (default: all), in the order of the log. An open watch is not answered yet. */
  since(mark?: AuditMark): Promise<AuditEntry[]>;
}

/** Whether a request changes something stored. Refused ones and dry runs count too: look at `code` and `uri`. */
export function isWrite({ verb, resource }: AuditEntry): boolean {
  return (
    ["create", "update", "patch", "delete", "deletecollection"].includes(verb) &&
    // Reviews and token requests are POSTs that store nothing.
    !resource.endsWith("reviews") &&
    resource !== ""
  );
}

/**
 * The place to count from when nothing is to follow: resolves when no request that `counts` has come for `ms`.
 *
 * @throws Error when that takes longer than a minute
 */
export async function markWhenQuiet(
  log: AuditLog,
  counts: (entry: AuditEntry) => boolean,
  ms: number,
): Promise<AuditMark> {
  let mark = await log.mark();
  let since = performance.now();
  const deadline = since + 60_000;
  while (performance.now() - since < ms) {
    await new Promise((resolve) => setTimeout(resolve, Math.min(500, ms)));
    const came = (await log.since(mark)).filter(counts);
    mark = await log.mark();
    if (came.length > 0) since = performance.now();
    if (performance.now() > deadline) throw new Error(`no rest in 60 s; the last was ${came.at(-1)?.uri}`);
  }
  return mark;
}

/** Path of the request that {@link openAuditLog} sends to find its place; such entries are left out. */
const fencePath = "/livez/ping";

/**
 * Opens the log.
 *
 * @param ask sends a GET to the API server and resolves when it was answered, or rejects when it cannot
 */
export function openAuditLog(path: string, ask: (pathAndQuery: string) => Promise<unknown>): AuditLog {
  let fences = 0;
  /** The API server answers before it writes the entry: a request of our own that has arrived is the sign. */
  const settle = async () => {
    const fence = `${fencePath}?fence=${process.pid}-${++fences}`;
    const from = sizeOf(path);
    try {
      await ask(fence);
    } catch {
      // The server is down: nothing more will be written.
      return;
    }
    const deadline = performance.now() + 5_000;
    while (!readFrom(path, from).includes(fence) && performance.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  };
  return {
    path,
    async mark() {
      await settle();
      return { offset: sizeOf(path) };
    },
    async since(mark = { offset: 0 }) {
      await settle();
      return parseAuditLog(readFrom(path, mark.offset)).filter((entry) => !entry.uri.startsWith(fencePath));
    },
  };
}

/** Parses lines of the log (audit.k8s.io/v1 Event, JSON). Only stage ResponseComplete; a half-written last line is left. */
export function parseAuditLog(text: string): AuditEntry[] {
  const entries: AuditEntry[] = [];
  for (const line of text.slice(0, text.lastIndexOf("\n") + 1).split("\n")) {
    if (!line.includes('"ResponseComplete"')) continue;
    // An API server killed while it wrote leaves half an entry, to which its successor appends.
    const event: unknown = JSON.parse(line.slice(Math.max(0, line.lastIndexOf(entryStart))));
    if (stringField(event, "stage") !== "ResponseComplete") continue;
    const object = field(event, "objectRef");
    entries.push({
      stage: "ResponseComplete",
      user: stringField(field(event, "user"), "username"),
      verb: stringField(event, "verb"),
      group: stringField(object, "apiGroup"),
      resource: stringField(object, "resource"),
      subresource: stringField(object, "subresource"),
      namespace: stringField(object, "namespace"),
      name: stringField(object, "name"),
      code: Number(field(field(event, "responseStatus"), "code") ?? 0),
      time: Date.parse(stringField(event, "requestReceivedTimestamp")),
      userAgent: stringField(event, "userAgent"),
      uri: stringField(event, "requestURI"),
    });
  }
  return entries;
}

/** How the API server begins each line. */
const entryStart = '{"kind":"Event"';

function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null ? Reflect.get(value, name) : undefined;
}

function stringField(value: unknown, name: string): string {
  const found = field(value, name);
  return typeof found === "string" ? found : "";
}

function sizeOf(path: string): number {
  return readable(path, (file) => fstatSync(file).size) ?? 0;
}

function readFrom(path: string, offset: number): string {
  return (
    readable(path, (file) => {
      const bytes = Buffer.alloc(Math.max(0, fstatSync(file).size - offset));
      const read = readSync(file, bytes, 0, bytes.length, offset);
      return bytes.subarray(0, read).toString("utf8");
    }) ?? ""
  );
}

/** Undefined while the API server has not made the file. */
function readable<T>(path: string, read: (file: number) => T): T | undefined {
  if (!existsSync(path)) return undefined;
  const file = openSync(path, "r");
  try {
    return read(file);
  } finally {
    closeSync(file);
  }
}
