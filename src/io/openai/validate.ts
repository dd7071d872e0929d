import { ProtocolError } from "../../protocol/codes.ts";
import { parseJson } from "../../protocol/json.ts";
import { decodeUtf8 } from "../../protocol/jws.ts";
import { maxBodyBytes } from "../../protocol/messages.ts";
import { type ApiError, invalid } from "./errors.ts";

/** What the service reads of a request; the rest is between client and engine. */
export interface CompletionRequest {
  readonly model: string;
  readonly stream: boolean;
  /** The body byte for byte, as text. */
  readonly text: string;
}

/** Most choices that one request may ask for. */
const maxChoices = 128;
/**
 * Prompts nest deeper and hold more values than protocol messages (tool schemas, long chats), but not without end. Half a
 * surrogate pair, such as the cut of a text through an emoji leaves, stays an escape in the body and hurts nobody.
 */
const bounds = { depth: 64, values: 100_000, halfPairs: true };

/** Reads a request's body. Returns an error in the client's terms where it cannot be passed on. */
export function readCompletion(body: Buffer): CompletionRequest | ApiError {
  let text: string;
  let request: unknown;
  try {
    text = decodeUtf8(body);
    request = parseJson(text, bounds);
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    return invalid(`the body is not usable JSON: ${error.message}`, null, "invalid_json");
  }
  if (typeof request !== "object" || request === null || Array.isArray(request))
    return invalid("the body must be a JSON object", null, "invalid_json");
  const fields = request as Readonly<Record<string, unknown>>;
  const { model, stream = false } = fields;
  if (typeof model !== "string" || model === "" || model.length > 256)
    return invalid("model must be the name of a model", "model", "missing_required_parameter");
  if (typeof stream !== "boolean" && stream !== null)
    return invalid("stream must be true or false", "stream");
  const wrong = wrongCount(fields, "n", maxChoices) ?? wrongTokens(fields);
  return wrong ?? { model, stream: stream === true, text };
}

function wrongTokens(fields: Readonly<Record<string, unknown>>): ApiError | undefined {
  const most = 2 ** 31 - 1;
  return wrongCount(fields, "max_tokens", most) ?? wrongCount(fields, "max_completion_tokens", most);
}

function wrongCount(
  fields: Readonly<Record<string, unknown>>,
  name: string,
  most: number,
): ApiError | undefined {
  const value = fields[name];
  if (value === undefined || value === null) return undefined;
  if (typeof value === "number" && Number.isInteger(value) && value >= 1 && value <= most) return undefined;
  return invalid(`${name} must be a whole number from 1 to ${most}`, name);
}

/** The answer to a body that is over the limit of one. */
export function tooLarge(): ApiError {
  const message = `the body is larger than the ${maxBodyBytes} bytes that this API takes`;
  return invalid(message, null, "request_too_large", 413);
}

/** Tells the two answers of {@link readCompletion} apart. */
export function isApiError(answer: object): answer is ApiError {
  return "status" in answer;
}
