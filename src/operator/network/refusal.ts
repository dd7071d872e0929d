import type { NetworkReason } from "../../api/v1alpha1/conditions.ts";
import { CodedError, messageOf } from "../../lib/errors.ts";
import { ProtocolError, type ProtocolErrorCode } from "../../protocol/codes.ts";

/** What is wrong, as a condition says it: the failed check by name, and the fix. */
export interface Finding {
  readonly reason: NetworkReason;
  readonly message: string;
}

/** Something that the network or the user gave is not believed or not there. The last good one stays. */
export class Refusal extends CodedError<NetworkReason> {
  get finding(): Finding {
    return { reason: this.code, message: this.message };
  }
}

/** Kind of document that was checked: each has its own word for what else may be wrong with it. */
export type Checked = "root" | "release" | "snapshot";

const otherwise: Readonly<Record<Checked, NetworkReason>> = {
  root: "RootInvalid",
  release: "SignatureInvalid",
  snapshot: "SnapshotInvalid",
};

function reasonOf(code: ProtocolErrorCode, checked: Checked): NetworkReason {
  if (code === "wrong_network") return "OtherNetwork";
  if (code === "rollback" && checked === "release") return "SequenceWentBack";
  if (code === "threshold" && checked === "release") return "ThresholdNotMet";
  return otherwise[checked];
}

/**
 * Runs a check of the protocol and says what failed in the words of a condition. `what` names the document and where it
 * came from, `fix` ends the message.
 *
 * @throws {Refusal}
 */
export function checking<T>(checked: Checked, what: string, fix: string, check: () => T): T {
  try {
    return check();
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    const message = `${what} is refused (${error.code}): ${messageOf(error)}. ${fix}`;
    throw new Refusal(reasonOf(error.code, checked), message, { cause: error });
  }
}
