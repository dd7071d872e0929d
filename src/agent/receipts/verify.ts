import { messageOf } from "../../lib/errors.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import { verifyDelegation } from "../../protocol/config/delegation.ts";
import type { TrustedRoot } from "../../protocol/config/root.ts";
import { importPublicKey, type KeyId, type NodeId, type VerifyKey } from "../../protocol/keys.ts";
import { chainHash, openCountersign, openReceipt } from "../../protocol/receipt.ts";
import { claimsOf, type ClaimedReceipt, parseLine } from "./line.ts";

/** A line and where it stands. */
export interface PlacedLine {
  readonly file: string;
  /** From 1. */
  readonly line: number;
  readonly text: string;
}

/** Whose signatures are believed. */
export interface ReceiptTrust {
  /** Root of the network: keys that it delegates to may countersign. Undefined = only `serviceKeys`. */
  readonly root: TrustedRoot | undefined;
  readonly serviceKeys: readonly VerifyKey[];
  /** All keys that the node has or had: one of them must have signed. */
  readonly nodeKeys: readonly VerifyKey[];
  /** Undefined = the thumbprint of one of its keys. */
  readonly nodeId: NodeId | undefined;
}

/** A line that does not stand up, and why. */
export interface ReceiptProblem {
  readonly file: string;
  readonly line: number;
  readonly problem: string;
}

/** What a verification has found. */
export interface ReceiptReport {
  readonly receipts: number;
  readonly completionTokens: number;
  /** Receipts that follow, by hash, the one before them in the account's chain. The others follow one of another node. */
  readonly links: number;
  readonly problems: readonly ReceiptProblem[];
}

/**
 * Verifies receipts line by line: the delegation of the service's key by the root at the time of the countersignature (or a
 * service key given), countersignature, the node's own signature, agreement of both, and the links of the account's chain
 * between receipts that are both there.
 */
export class ReceiptVerifier {
  readonly #trust: ReceiptTrust;
  /** Delegated keys, each with the end of its longest delegation. */
  readonly #delegated = new Map<KeyId, { readonly key: VerifyKey; readonly expires: number }>();
  readonly #problems: ReceiptProblem[] = [];
  /** Receipts by account and index. */
  readonly #chain = new Map<
    string,
    { readonly hash: string; readonly prev: string; readonly at: PlacedLine }
  >();
  #tokens = 0;

  constructor(trust: ReceiptTrust) {
    this.#trust = trust;
  }

  /** Lines must come in the order in which they are kept. */
  take(at: PlacedLine): void {
    try {
      const line = parseLine(at.text);
      if (line.is === "delegation") this.#delegation(line.delegation);
      else this.#receipt(line.countersign, at);
    } catch (thrown) {
      if (!(thrown instanceof ProtocolError)) throw thrown;
      this.#problem(at, `${thrown.code}: ${messageOf(thrown)}`);
    }
  }

  report(): ReceiptReport {
    let links = 0;
    for (const [place, { prev, at }] of this.#chain) {
      const [account = "", index = ""] = place.split("\n");
      const before = this.#chain.get(`${account}\n${Number(index) - 1}`);
      if (!before) continue;
      if (before.hash === prev) links++;
      else
        this.#problem(
          at,
          `sequence: receipt ${index} of the account does not follow receipt ${Number(index) - 1}`,
        );
    }
    return {
      receipts: this.#chain.size,
      completionTokens: this.#tokens,
      links,
      problems: this.#problems.toSorted((a, b) => a.file.localeCompare(b.file) || a.line - b.line),
    };
  }

  #delegation(statement: Parameters<typeof verifyDelegation>[0]): void {
    const { root } = this.#trust;
    if (!root) return;
    // Whether it had ended is asked with each receipt's own time.
    const { key: jwk, expires } = verifyDelegation(statement, root, 0);
    const key = importPublicKey(jwk);
    const known = this.#delegated.get(key.kid);
    this.#delegated.set(key.kid, { key, expires: Math.max(expires, known?.expires ?? 0) });
  }

  #receipt(text: string, at: PlacedLine): void {
    const claims = claimsOf(text);
    const countersign = openCountersign(text, this.#keyOf(claims));
    const { nodeKeys, nodeId } = this.#trust;
    const receipt = openReceipt(countersign.receipt, nodeKeys);
    const its = nodeId === undefined ? nodeKeys.map(({ kid }) => String(kid)) : [String(nodeId)];
    if (!its.includes(receipt.node_id))
      throw new ProtocolError("wrong_node", "the receipt is of another node");
    if (receipt.account !== countersign.account)
      throw new ProtocolError("schema", "receipt and countersignature name different accounts");
    const { metered } = countersign;
    if (
      metered.prompt_tokens > receipt.prompt_tokens ||
      metered.completion_tokens > receipt.completion_tokens
    )
      throw new ProtocolError("schema", "more tokens are metered than the node claims");
    this.#link(text, claims, at);
  }

  #link(text: string, { countersign }: ClaimedReceipt, at: PlacedLine): void {
    const place = `${countersign.account}\n${countersign.index}`;
    const hash = chainHash(text);
    const known = this.#chain.get(place);
    // After a crash a receipt may be there twice, and acknowledgements are repeated.
    if (known?.hash === hash) return;
    if (known)
      throw new ProtocolError(
        "sequence",
        `the service has countersigned two receipts as number ${countersign.index} of the account`,
      );
    this.#chain.set(place, { hash, prev: countersign.prev, at });
    this.#tokens += countersign.metered.completion_tokens;
  }

  #keyOf({ serviceKid, countersign }: ClaimedReceipt): VerifyKey {
    const given = this.#trust.serviceKeys.find(({ kid }) => kid === serviceKid);
    if (given) return given;
    const delegated = this.#delegated.get(serviceKid);
    if (!delegated)
      throw new ProtocolError(
        "unknown_key",
        "no delegation of the service's key is kept before this line: name the key with --service-key",
      );
    if (countersign.committed_at > delegated.expires)
      throw new ProtocolError("expired", "countersigned after the delegation of the service's key had ended");
    return delegated.key;
  }

  #problem({ file, line }: PlacedLine, problem: string): void {
    this.#problems.push({ file, line, problem });
  }
}
