import { ProtocolError } from "../../protocol/codes.ts";
import type { VerifyKey } from "../../protocol/keys.ts";
import type { Payload, Usage } from "../../protocol/messages.ts";
import { openReceipt } from "../../protocol/receipt.ts";
import type { ResultVerdict } from "../dispatch/types.ts";

/** What the service itself knows of the attempt whose result is checked. */
export interface RelayedOutput {
  readonly network: string;
  readonly nodeId: string;
  /** Those whose signature on its receipt counts. */
  readonly nodeKeys: readonly VerifyKey[];
  readonly account: string;
  readonly consumer: string;
  readonly model: string;
  /** The client's body, as it was offered: SHA-256 in hex, bytes. */
  readonly inputSha256: string;
  readonly inputBytes: number;
  /** Bytes of output that came from this attempt, and their SHA-256 in hex. */
  readonly outputBytes: number;
  readonly outputSha256: string;
  /** The client has seen some of it. */
  readonly pinned: boolean;
}

/** A result that passed, with the tokens that count. */
export interface CheckedResult {
  readonly verdict: ResultVerdict;
  readonly metered: Usage;
}

const nothing: Usage = { prompt_tokens: 0, completion_tokens: 0 };
/** Tokens that a chat template may add to a prompt. */
const templateTokens = 4096;

/**
 * Checks a result against what was relayed, in order: size and hash of the output, its status, the receipt's signature,
 * each of its fields. Then tells an answer for the client from a failure of the engine that another node may not have.
 */
export function checkResult(result: Payload<"result">, relayed: RelayedOutput): CheckedResult {
  const refused = (reason: string): CheckedResult => ({
    verdict: { is: "refused", reason },
    metered: nothing,
  });
  if (result.output_bytes !== relayed.outputBytes || result.output_sha256 !== relayed.outputSha256)
    return refused("output hash or size differs from what was relayed");
  // A redirect or an interim answer is none that an engine's node passes on, and would leave the client waiting.
  if (result.status < 200 || (result.status >= 300 && result.status < 400))
    return refused("status is none of an answer");
  const wrong = wrongInReceipt(result, relayed);
  if (wrong !== undefined) return refused(wrong);
  if (!relayed.pinned && (result.outcome === "failed" || result.status >= 500))
    return {
      verdict: { is: "retry", code: "E_ENGINE", reason: `engine answered HTTP ${result.status}` },
      metered: nothing,
    };
  return { verdict: { is: "sound" }, metered: meter(result.usage, relayed) };
}

/** A token is at least one byte of text, so no honest count passes the bytes (and a template's own tokens). */
function meter(claimed: Usage, relayed: RelayedOutput): Usage {
  return {
    prompt_tokens: Math.min(claimed.prompt_tokens, relayed.inputBytes + templateTokens),
    completion_tokens: Math.min(claimed.completion_tokens, relayed.outputBytes),
  };
}

function wrongInReceipt(result: Payload<"result">, relayed: RelayedOutput): string | undefined {
  let receipt: ReturnType<typeof openReceipt>;
  try {
    receipt = openReceipt(result.receipt, relayed.nodeKeys);
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
    return `receipt: ${error.code}`;
  }
  const expected = {
    network: relayed.network,
    job: result.job,
    attempt: result.attempt,
    node_id: relayed.nodeId,
    account: relayed.account,
    consumer: relayed.consumer,
    model: relayed.model,
    input_sha256: relayed.inputSha256,
    output_sha256: result.output_sha256,
    prompt_tokens: result.usage.prompt_tokens,
    completion_tokens: result.usage.completion_tokens,
    outcome: result.outcome,
  };
  for (const [field, value] of Object.entries(expected)) {
    if (receipt[field as keyof typeof expected] !== value) return `receipt: field ${field} differs`;
  }
  return undefined;
}
