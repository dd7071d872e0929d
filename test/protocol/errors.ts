import { expect } from "vitest";
import { ProtocolError, type ProtocolErrorCode } from "../../src/protocol/codes.ts";

/** Expects `run` to throw a ProtocolError with `code`; returns it. */
export function expectCode(code: ProtocolErrorCode, run: () => unknown): ProtocolError {
  try {
    run();
  } catch (error) {
    expect(error).toBeInstanceOf(ProtocolError);
    const protocolError = error as ProtocolError;
    expect(protocolError.code).toBe(code);
    return protocolError;
  }
  throw new Error(`expected ${code}, but nothing was thrown`);
}
