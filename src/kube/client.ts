import type { OpenAnswer } from "./answer.ts";
import { KubeError, isKubeError, phrase } from "./errors.ts";
import type { Applied, Draft, KubeObject, ObjectRef } from "./object.ts";
import {
  type Selection,
  collectionContext,
  collectionPath,
  contextOf,
  needNamespace,
  pathOf,
  withQuery,
} from "./paths.ts";
import { type Resource, apiVersionOf } from "./resources.ts";
import { noteWrite } from "./trace.ts";
import type { Request, Transport } from "./transport.ts";

/** What every call takes. */
export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** Total time in milliseconds, retries included. Default 30 s. */
  readonly timeout?: number;
  /** Goes ahead of the requests that wait for their turn ({@link TransportOptions.maxInFlight}). */
  readonly urgent?: boolean;
}

/** What every write takes. */
export interface WriteOptions extends CallOptions {
  /** The API server does everything but store it. */
  readonly dryRun?: boolean;
  /** Who owns the fields that are set. Default: the user agent's name. */
  readonly fieldManager?: string;
  /** `status`, `scale`, `resize`, … */
  readonly subresource?: string;
}

/** Options of {@link Client.list}. */
export interface ListOptions extends Selection, CallOptions {
  /** Objects per request. Default 500. */
  readonly limit?: number;
}

/** One page of a list. */
export interface Page<T> {
  readonly items: readonly T[];
  readonly resourceVersion: string;
  readonly last: boolean;
}

interface List<T> {
  readonly items?: readonly T[] | null;
  readonly metadata: { readonly resourceVersion: string; readonly continue?: string };
}

/** Options of {@link Client.watch}. */
export interface WatchOptions extends Selection, CallOptions {
  /** Events after this version; with `initial` left out. */
  readonly resourceVersion?: string;
  /** Begin with every object there is, then a bookmark annotated `k8s.io/initial-events-end` (WatchList). */
  readonly initial?: boolean;
  /** After how many seconds the server ends the watch. */
  readonly timeoutSeconds: number;
}

/** Options of {@link Client.delete}. */
export interface DeleteOptions extends CallOptions {
  /** The deletion is refused (Conflict) unless the object still has this UID and version. */
  readonly preconditions?: { readonly uid?: string; readonly resourceVersion?: string };
  readonly gracePeriodSeconds?: number;
  readonly propagationPolicy?: "Background" | "Foreground" | "Orphan";
  readonly dryRun?: boolean;
}

/** One step of a JSON Patch (RFC 6902), of the kinds that are used here. */
export type JsonPatchOperation =
  | { readonly op: "add" | "replace" | "test"; readonly path: string; readonly value: unknown }
  | { readonly op: "remove"; readonly path: string };

/** A key as a segment of a JSON pointer (RFC 6901): `jsonPointer("metadata", "annotations", "resultity.com/desired")`. */
export function jsonPointer(...segments: readonly (string | number)[]): string {
  return segments.map((s) => `/${String(s).replaceAll("~", "~0").replaceAll("/", "~1")}`).join("");
}

/** Fails the patch unless the object is still this very one: put first in every JSON Patch of a pod or Secret. */
export function testUnchanged(object: KubeObject): readonly JsonPatchOperation[] {
  return [
    { op: "test", path: "/metadata/uid", value: object.metadata.uid },
    { op: "test", path: "/metadata/resourceVersion", value: object.metadata.resourceVersion },
  ];
}

/**
 * The API server's verbs, typed by {@link Resource}. Every failure is a {@link KubeError}. Nothing is retried here but what
 * the server refused with Retry-After and what it never looked at; the work queue does the rest.
 */
export class Client {
  readonly #transport: Transport;
  readonly #mayWrite: (() => void) | undefined;

  constructor(transport: Transport, mayWrite?: () => void) {
    this.#transport = transport;
    this.#mayWrite = mayWrite;
  }

  /**
   * The same client whose writes call `mayWrite` at the moment at which they are sent, and sent again. It throws where this
   * process must not write (see {@link LeaderElector.assertLeading}).
   */
  guarded(mayWrite: () => void): Client {
    return new Client(this.#transport, mayWrite);
  }

  /** Reads one object from etcd's present state. Rejects with NotFound. */
  get<T extends KubeObject>(resource: Resource<T>, ref: ObjectRef, options: CallOptions = {}): Promise<T> {
    return this.#json({
      method: "GET",
      path: pathOf(resource, ref),
      context: contextOf("get", resource, ref),
      ...options,
    });
  }

  /** As {@link get}, with `undefined` where there is no such object. */
  async find<T extends KubeObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    options: CallOptions = {},
  ): Promise<T | undefined> {
    try {
      return await this.get(resource, ref, options);
    } catch (error) {
      if (isKubeError(error, "NotFound")) return undefined;
      throw error;
    }
  }

  /** Reads all selected objects, page by page, as of one version of the store. Rejects with Gone when it got too old. */
  async *pages<T extends KubeObject>(
    resource: Resource<T>,
    options: ListOptions = {},
  ): AsyncGenerator<Page<T>, void> {
    const { limit = 500, signal, timeout } = options;
    let token: string | undefined;
    do {
      const list = await this.#json<List<T>>({
        method: "GET",
        path: collectionPath(resource, options, { limit: String(limit), continue: token }),
        context: collectionContext("list", resource, options),
        maxBytes: 256 << 20,
        signal,
        timeout,
      });
      token = list.metadata.continue || undefined;
      yield {
        items: (list.items ?? []).map((item) => named(item, resource)),
        resourceVersion: list.metadata.resourceVersion,
        last: token === undefined,
      };
    } while (token !== undefined);
  }

  /** {@link pages} put together. */
  async list<T extends KubeObject>(
    resource: Resource<T>,
    options: ListOptions = {},
  ): Promise<{ readonly items: readonly T[]; readonly resourceVersion: string }> {
    const items: T[] = [];
    let resourceVersion = "";
    for await (const page of this.pages(resource, options)) {
      items.push(...page.items);
      ({ resourceVersion } = page);
    }
    return { items, resourceVersion };
  }

  /** Begins a watch: one JSON object a line, `{type, object}`. For {@link Reflector}; nobody else should need it. */
  watch<T extends KubeObject>(resource: Resource<T>, options: WatchOptions): Promise<OpenAnswer> {
    const { signal, timeout, timeoutSeconds, initial = false, resourceVersion } = options;
    return this.#transport.stream({
      method: "GET",
      path: collectionPath(resource, options, {
        watch: "true",
        allowWatchBookmarks: "true",
        timeoutSeconds: String(timeoutSeconds),
        resourceVersion,
        sendInitialEvents: initial ? "true" : undefined,
        resourceVersionMatch: initial ? "NotOlderThan" : undefined,
      }),
      context: collectionContext("watch", resource, options),
      signal,
      timeout,
    });
  }

  /** Creates an object. Rejects with AlreadyExists. Not retried: its answer may be lost, so look before creating again. */
  create<T extends KubeObject>(
    resource: Resource<T>,
    draft: Draft<T>,
    options: WriteOptions = {},
  ): Promise<T> {
    const { namespace, name } = draft.metadata;
    return this.#write(resource, { namespace, name }, options, {
      method: "POST",
      path: collectionPath(resource, { namespace: namespace ?? needNamespace(resource, name) }, {}),
      verb: "create",
      body: complete(resource, draft),
    });
  }

  /** Replaces an object. With `metadata.resourceVersion` set it rejects with Conflict when someone wrote in between. */
  update<T extends KubeObject>(
    resource: Resource<T>,
    draft: Draft<T>,
    options: WriteOptions = {},
  ): Promise<T> {
    return this.#write(resource, draft.metadata, options, {
      method: "PUT",
      verb: "update",
      body: complete(resource, draft),
    });
  }

  /** JSON Patch (RFC 6902). A failed `test` rejects with Invalid; see {@link testUnchanged}. */
  jsonPatch<T extends KubeObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    operations: readonly JsonPatchOperation[],
    options: WriteOptions = {},
  ): Promise<T> {
    return this.#write(resource, ref, options, {
      method: "PATCH",
      verb: "patch",
      body: operations,
      contentType: "application/json-patch+json",
    });
  }

  /** JSON Merge Patch (RFC 7396): `null` removes a field, lists are replaced whole. */
  mergePatch<T extends KubeObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    patch: object,
    options: WriteOptions = {},
  ): Promise<T> {
    return this.#write(resource, ref, options, {
      method: "PATCH",
      verb: "patch",
      body: patch,
      contentType: "application/merge-patch+json",
    });
  }

  /** {@link mergePatch} of the status subresource: `{status: …}`. */
  patchStatus<T extends KubeObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    patch: { readonly status: unknown; readonly metadata?: object },
    options: WriteOptions = {},
  ): Promise<T> {
    return this.mergePatch(resource, ref, patch, { ...options, subresource: "status" });
  }

  /**
   * Server-side apply: the fields of `draft` and no others become `fieldManager`'s; fields that it owned before and that are
   * left out are removed. `force` (default true, as for controllers) takes over what others own. Creates what is not
   * there, unless `metadata.uid` is set. Never for pods (DESIGN §3).
   */
  apply<T extends KubeObject>(
    resource: Resource<T>,
    draft: Applied<T>,
    options: WriteOptions & { readonly fieldManager: string; readonly force?: boolean },
  ): Promise<T> {
    return this.#write(resource, draft.metadata, options, {
      method: "PATCH",
      verb: "patch",
      body: complete(resource, draft),
      contentType: "application/apply-patch+yaml",
      query: { force: String(options.force ?? true) },
      idempotent: true,
    });
  }

  /** {@link apply} of the status subresource. Rejects with NotFound where the object is gone: it creates nothing. */
  applyStatus<T extends KubeObject>(
    resource: Resource<T>,
    draft: Applied<T>,
    options: WriteOptions & { readonly fieldManager: string; readonly force?: boolean },
  ): Promise<T> {
    return this.apply(resource, draft, { ...options, subresource: "status" });
  }

  /** Deletes one object. Rejects with NotFound, and with Conflict when a precondition does not hold. */
  async delete<T extends KubeObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    options: DeleteOptions = {},
  ): Promise<void> {
    const { preconditions, gracePeriodSeconds, propagationPolicy, dryRun, signal, timeout, urgent } = options;
    const context = contextOf("delete", resource, ref);
    await this.#transport.request({
      method: "DELETE",
      path: pathOf(resource, ref),
      context,
      body: JSON.stringify({
        apiVersion: "v1",
        kind: "DeleteOptions",
        preconditions,
        gracePeriodSeconds,
        propagationPolicy,
        ...(dryRun ? { dryRun: ["All"] } : {}),
      }),
      idempotent: true,
      permit: this.#mayWrite,
      signal,
      timeout,
      urgent,
    });
    if (!dryRun) noteWrite(signal, phrase(context));
  }

  /** `GET /version`: the API server's version, `{major: "1", minor: "37", gitVersion: "v1.37.2"}`. */
  async version(
    options: CallOptions = {},
  ): Promise<{ readonly major: string; readonly minor: string; readonly gitVersion: string }> {
    const context = { verb: "get", resource: "/version", object: "" };
    return this.#json({ method: "GET", path: "/version", context, ...options });
  }

  async #write<T extends KubeObject>(
    resource: Resource<T>,
    ref: ObjectRef,
    options: WriteOptions,
    write: {
      readonly method: Request["method"];
      readonly verb: string;
      readonly body: unknown;
      readonly path?: string;
      readonly contentType?: string;
      readonly query?: Record<string, string>;
      readonly idempotent?: boolean;
    },
  ): Promise<T> {
    const { dryRun, fieldManager, subresource, signal, timeout, urgent } = options;
    const path = write.path ?? pathOf(resource, ref, subresource);
    const context = contextOf(write.verb, resource, ref, subresource);
    const written = await this.#json<T>({
      method: write.method,
      path: withQuery(path, { ...write.query, fieldManager, dryRun: dryRun ? "All" : undefined }),
      context,
      body: JSON.stringify(write.body),
      idempotent: write.idempotent ?? false,
      ...(write.contentType ? { contentType: write.contentType } : {}),
      permit: this.#mayWrite,
      signal,
      timeout,
      urgent,
    });
    if (!dryRun) noteWrite(signal, phrase(context));
    return written;
  }

  /** What the API server sends is typed, not checked: it is trusted, and its answers are large (DESIGN §3). */
  async #json<R extends object>(request: Request): Promise<R> {
    const text = await this.#transport.request(request);
    try {
      return JSON.parse(text);
    } catch (cause) {
      const message = `${phrase(request.context)}: the answer is cut or not JSON`;
      throw new KubeError("Unavailable", message, { ...request.context, cause });
    }
  }
}

/** Lists leave `apiVersion` and `kind` out of their items; with one shared string each they cost nothing. */
function named<T extends KubeObject>(item: T, resource: Resource<T>): T {
  return { ...item, apiVersion: apiVersionOf(resource), kind: resource.kind };
}

function complete<T extends KubeObject>(resource: Resource<T>, draft: Draft<T> | Applied<T>): object {
  return { ...draft, apiVersion: apiVersionOf(resource), kind: resource.kind };
}
