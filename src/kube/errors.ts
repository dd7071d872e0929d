import { CodedError } from "../lib/errors.ts";

/**
 * What went wrong with a request, in the API server's own words where it answered, else in ours: `Timeout` no answer in
 * time; `Unavailable` no connection, a cut answer, 5xx; `Aborted` the caller gave up; `NotLeader` a write was withheld
 * because this process may no longer write.
 */
export type KubeErrorCode =
  | "BadRequest"
  | "Unauthorized"
  | "Forbidden"
  | "NotFound"
  | "MethodNotAllowed"
  | "AlreadyExists"
  | "Conflict"
  | "Gone"
  | "Invalid"
  | "TooLarge"
  | "TooManyRequests"
  | "Timeout"
  | "Unavailable"
  | "Aborted"
  | "NotLeader";

/** The body with which the API server refuses (`kind: Status`), as far as it is read. */
export interface Status {
  readonly kind?: string;
  readonly code?: number;
  readonly reason?: string;
  readonly message?: string;
  readonly details?: {
    readonly retryAfterSeconds?: number;
    readonly causes?: readonly {
      readonly reason?: string;
      readonly message?: string;
      readonly field?: string;
    }[];
  };
}

/** Which request failed. */
export interface RequestContext {
  /** In the words of RBAC: get, list, watch, create, update, patch, delete. */
  readonly verb: string;
  /** Plural resource, with the subresource if any: `pods`, `resultitynodes/status`. */
  readonly resource: string;
  /** `namespace/name`, `name`, or a namespace followed by `/` for a collection; empty for all namespaces. */
  readonly object: string;
}

/** What is known beside the code. */
export interface KubeErrorDetails extends Partial<RequestContext> {
  /** HTTP status, when there was an answer. */
  readonly status?: number | undefined;
  /** `Status.reason` of the answer. */
  readonly reason?: string | undefined;
  /** How long the server asked us to wait, in milliseconds. */
  readonly retryAfter?: number | undefined;
  /** Field errors and other causes of the answer. */
  readonly causes?: readonly { reason?: string; message?: string; field?: string }[] | undefined;
  readonly cause?: unknown;
}

/** A request to the API server that did not do what it was asked to. */
export class KubeError extends CodedError<KubeErrorCode> {
  readonly status: number | undefined;
  readonly reason: string | undefined;
  readonly verb: string;
  readonly resource: string;
  readonly object: string;
  readonly retryAfter: number | undefined;
  readonly causes: readonly { reason?: string; message?: string; field?: string }[];

  constructor(code: KubeErrorCode, message: string, details: KubeErrorDetails = {}) {
    super(code, message, details.cause === undefined ? undefined : { cause: details.cause });
    this.status = details.status;
    this.reason = details.reason;
    this.verb = details.verb ?? "";
    this.resource = details.resource ?? "";
    this.object = details.object ?? "";
    this.retryAfter = details.retryAfter;
    this.causes = details.causes ?? [];
  }
}

/** Whether `thrown` is a {@link KubeError} with one of these codes. */
export function isKubeError(thrown: unknown, ...codes: readonly KubeErrorCode[]): thrown is KubeError {
  return thrown instanceof KubeError && (codes.length === 0 || codes.includes(thrown.code));
}

const codeOfStatus: Readonly<Record<number, KubeErrorCode>> = {
  400: "BadRequest",
  401: "Unauthorized",
  403: "Forbidden",
  404: "NotFound",
  405: "MethodNotAllowed",
  408: "Timeout",
  409: "Conflict",
  410: "Gone",
  413: "TooLarge",
  415: "BadRequest",
  422: "Invalid",
  429: "TooManyRequests",
  504: "Timeout",
};

/** The error for an answer of HTTP status `status` with a `Status` body, or with one that could not be read. */
export function errorOfStatus(
  status: number,
  body: Status,
  context: RequestContext,
  retryAfter?: number,
): KubeError {
  const code: KubeErrorCode =
    status === 409 && body.reason === "AlreadyExists"
      ? "AlreadyExists"
      : (codeOfStatus[status] ?? (status >= 500 ? "Unavailable" : "BadRequest"));
  const seconds = body.details?.retryAfterSeconds;
  return new KubeError(code, `${phrase(context)}: ${body.message || `HTTP ${status}`}`, {
    ...context,
    status,
    reason: body.reason,
    retryAfter: retryAfter ?? (seconds === undefined ? undefined : seconds * 1000),
    causes: body.details?.causes,
  });
}

/** `patch pods gpu/node-1`, for the beginning of a message. */
export function phrase({ verb, resource, object }: RequestContext): string {
  return object ? `${verb} ${resource} ${object}` : `${verb} ${resource}`;
}
