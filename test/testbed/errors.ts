import { CodedError } from "../../src/lib/errors.ts";

/**
 * What can go wrong in the test bed.
 * - `ToolMissing`: something that the machine must bring (Go, openssl) is not there.
 * - `BinaryMissing`: a binary is neither found nor can it be built here.
 * - `BuildFailed`: the Go toolchain refused; the message ends with its last lines.
 * - `ProcessFailed`: a child could not start, or ended while it was needed.
 * - `NotReady`: a condition did not come true before its deadline.
 * - `CommandFailed`: a short command (kubectl, openssl) ended with an error.
 */
export type TestbedErrorCode =
  | "ToolMissing"
  | "BinaryMissing"
  | "BuildFailed"
  | "ProcessFailed"
  | "NotReady"
  | "CommandFailed";

/** Error of the test bed; its message says what to do. */
export class TestbedError extends CodedError<TestbedErrorCode> {}
