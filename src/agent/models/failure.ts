import { CodedError } from "../../lib/errors.ts";
import type { FailureKind } from "./machine.ts";

/** Weights could not be had. The message names the file or the folder, and the fix where a person can do something. */
export class ModelError extends CodedError<FailureKind> {}

/** What a failure of the disk is: full, or something else. */
export function diskError(thrown: unknown, folder: string): ModelError {
  if (thrown instanceof ModelError) return thrown;
  const code = thrown instanceof Error && "code" in thrown ? String(thrown.code) : "";
  if (code === "ENOSPC" || code === "EDQUOT")
    return new ModelError("room", `${folder} is full: free space there, or give the models a larger folder`, {
      cause: thrown,
    });
  return new ModelError("disk", `${folder} cannot be used`, { cause: thrown });
}
