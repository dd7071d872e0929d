import { ProtocolError } from "./codes.ts";

/** Bounds of a JSON text from outside. */
export interface JsonBounds {
  /** Deepest nesting of arrays and objects. Default 16. */
  readonly depth?: number;
  /** Most values (members and elements) in the whole text. Default 8192. */
  readonly values?: number;
  /** Takes half surrogate pairs (`\ud800`) too, which other languages cannot write as UTF-8. Default false. */
  readonly halfPairs?: boolean;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const COLON = 0x3a;

/**
 * Parses JSON text that a stranger sent. Beyond `JSON.parse` it refuses what two readers could understand
 * differently or what costs more than it says: duplicate keys (RFC 8259 §4 leaves them open), `__proto__` and
 * `constructor` as keys, deep nesting, more values than any message has, half surrogate pairs (RFC 8259 §8.2).
 *
 * @throws {ProtocolError} `malformed`; the message does not repeat the input.
 */
export function parseJson(text: string, bounds: JsonBounds = {}): unknown {
  scan(text, bounds.depth ?? 16, bounds.values ?? 8192);
  const value = parse(text);
  if (!(bounds.halfPairs ?? false) && escapedSurrogate.test(text) && !isWellFormed(value))
    throw new ProtocolError("malformed", "JSON with half a surrogate pair");
  return value;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw new ProtocolError("malformed", "not JSON");
  }
}

const escapedSurrogate = /\\u[dD][89a-fA-F]/;

/** Whether every string and key in `value` is well-formed UTF-16. Its depth is bounded by then. */
function isWellFormed(value: unknown): boolean {
  if (typeof value === "string") return value.isWellFormed();
  if (typeof value !== "object" || value === null) return true;
  return Object.entries(value).every(([key, inner]) => key.isWellFormed() && isWellFormed(inner));
}

/**
 * One pass over the structure before anything is built. It need not decide whether the text is valid JSON, only that
 * what `JSON.parse` will build is small and unambiguous; the parser decides the rest.
 */
function scan(text: string, maxDepth: number, maxValues: number): void {
  const keys: (Set<string> | undefined)[] = [];
  let values = 0;
  for (let at = 0; at < text.length; at++) {
    switch (text.charCodeAt(at)) {
      case 0x7b: // {
      case 0x5b: // [
        if (keys.length >= maxDepth)
          throw new ProtocolError("malformed", `JSON nested deeper than ${maxDepth}`);
        keys.push(text.charCodeAt(at) === 0x7b ? new Set() : undefined);
        if (++values > maxValues) throw tooMany(maxValues);
        break;
      case 0x7d: // }
      case 0x5d: // ]
        keys.pop();
        break;
      case COMMA:
        if (++values > maxValues) throw tooMany(maxValues);
        break;
      case QUOTE: {
        const end = endOfString(text, at);
        const seen = keys.at(-1);
        if (seen && nextIsColon(text, end + 1)) noteKey(seen, text.slice(at, end + 1));
        at = end;
        break;
      }
      default:
    }
  }
}

function noteKey(seen: Set<string>, quoted: string): void {
  const key = quoted.includes("\\") ? unescapeKey(quoted) : quoted.slice(1, -1);
  if (key === "__proto__" || key === "constructor")
    throw new ProtocolError("malformed", "JSON with a reserved key");
  if (seen.has(key)) throw new ProtocolError("malformed", "JSON with a duplicate key");
  seen.add(key);
}

function unescapeKey(quoted: string): string {
  try {
    return JSON.parse(quoted) as string;
  } catch {
    throw new ProtocolError("malformed", "not JSON");
  }
}

function endOfString(text: string, start: number): number {
  let end = text.indexOf('"', start + 1);
  while (end !== -1) {
    let slashes = 0;
    while (text.charCodeAt(end - 1 - slashes) === BACKSLASH) slashes++;
    if (slashes % 2 === 0) return end;
    end = text.indexOf('"', end + 1);
  }
  throw new ProtocolError("malformed", "not JSON");
}

function nextIsColon(text: string, from: number): boolean {
  let at = from;
  while (at < text.length && text.charCodeAt(at) <= 0x20) at++;
  return text.charCodeAt(at) === COLON;
}

function tooMany(maxValues: number): ProtocolError {
  return new ProtocolError("malformed", `JSON with more than ${maxValues} values`);
}
