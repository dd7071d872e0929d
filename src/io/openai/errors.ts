/** An error as OpenAI's API has it, with the HTTP status it is sent with. */
export interface ApiError {
  readonly status: number;
  readonly type: "invalid_request_error" | "rate_limit_error" | "server_error";
  readonly code: string;
  /** Name of the field that is wrong; null = none. */
  readonly param: string | null;
  readonly message: string;
  /** Seconds after which to try again. */
  readonly retryAfter?: number;
}

/** The error's JSON text: `{"error":{message, type, param, code}}`. */
export function errorText({ message, type, param, code }: ApiError): string {
  return JSON.stringify({ error: { message, type, param, code } });
}

/** A request that the client must change. */
export function invalid(
  message: string,
  param: string | null,
  code = "invalid_value",
  status = 400,
): ApiError {
  return { status, type: "invalid_request_error", code, param, message };
}

/** A request that may succeed later. */
export function tryLater(status: number, code: string, message: string, retryAfter: number): ApiError {
  const type = status === 429 ? "rate_limit_error" : "server_error";
  return { status, type, code, param: null, message, retryAfter };
}

/** What is on its way, in either direction, takes all the memory that there is for it. */
export function tooManyBytes(): ApiError {
  const message = "bodies on their way take all the memory that there is for them; try again later";
  return tryLater(429, "too_many_bytes", message, 2);
}
