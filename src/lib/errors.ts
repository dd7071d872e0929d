/**
 * Base of the project's errors. Each boundary has one subclass with a closed union of codes; `message` is written
 * for the person who reads it at night and names the object, the field and the fix.
 */
export class CodedError<Code extends string> extends Error {
  readonly code: Code;

  constructor(code: Code, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** The message of anything thrown, with the messages of its causes. Never a stack, never `[object Object]`. */
export function messageOf(thrown: unknown): string {
  if (!(thrown instanceof Error)) return String(thrown);
  const cause = thrown.cause instanceof Error ? `: ${messageOf(thrown.cause)}` : "";
  return `${thrown.message || thrown.name}${cause}`;
}

/** Fails to compile where a union is not exhausted, and throws where untyped input got past its schema. */
export function unreachable(value: never): never {
  throw new Error(`unexpected value: ${JSON.stringify(value)}`);
}
