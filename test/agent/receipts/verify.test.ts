import { beforeEach, describe, expect, it } from "vitest";
import { claimsOf, delegationLine, receiptLine } from "../../../src/agent/receipts/line.ts";
import { totalsOf } from "../../../src/agent/receipts/totals.ts";
import { type ReceiptTrust, ReceiptVerifier } from "../../../src/agent/receipts/verify.ts";
import { generateKey, importPrivateKey } from "../../../src/protocol/keys.ts";
import { MadeReceipts } from "./made.ts";

const noon = Date.UTC(2026, 0, 1, 12);
let made: MadeReceipts;
let trust: ReceiptTrust;
beforeEach(() => {
  made = new MadeReceipts();
  const { key, nodeId } = made.identity;
  trust = { root: made.network.root, serviceKeys: [], nodeKeys: [key], nodeId };
});

function verify(texts: readonly string[], by: ReceiptTrust = trust) {
  const verifier = new ReceiptVerifier(by);
  texts.forEach((text, at) => verifier.take({ file: "f", line: at + 1, text: text.trimEnd() }));
  return verifier.report();
}
const delegation = () => delegationLine(made.network.delegation(noon), noon);
const kept = (...given: Parameters<MadeReceipts["next"]>) => receiptLine(made.next(...given), noon);

/** Changes the payload of a JWS at `part`, leaving its signature. */
function altered(line: string): string {
  const { countersign, kept: time } = JSON.parse(line) as { countersign: string; kept: number };
  const [header = "", payload = "", signature = ""] = countersign.split(".");
  const text = Buffer.from(payload, "base64url").toString("utf8");
  const more = text.replace('"completion_tokens":20', '"completion_tokens":19');
  expect(more).not.toBe(text);
  return receiptLine([header, Buffer.from(more).toString("base64url"), signature].join("."), time);
}

describe("verifying receipts", () => {
  it("whole ones stand, also when they are there twice", () => {
    const [first, second] = [kept(), kept()];
    expect(verify([delegation(), first, second, second])).toEqual({
      receipts: 2,
      completionTokens: 40,
      links: 1,
      problems: [],
    });
  });

  it("a bare export stands with the service's key, without a root", () => {
    const by = { ...trust, root: undefined, serviceKeys: [made.network.service] };
    expect(verify([made.next(), made.next()], by).problems).toEqual([]);
  });

  it("receipts under a key that was rolled over stand beside those of the key since", () => {
    const { key, nodeId } = made.identity;
    const next = importPrivateKey(generateKey());
    const before = kept();
    made.key = next;
    const lines = [delegation(), before, kept()];
    const by = { ...trust, nodeKeys: [next, key], nodeId };
    expect(verify(lines, by)).toMatchObject({ receipts: 2, problems: [] });
    expect(verify(lines, { ...by, nodeId: undefined })).toMatchObject({ receipts: 2, problems: [] });
    expect(verify(lines, { ...by, nodeKeys: [next] }).problems).toMatchObject([
      { line: 2, problem: expect.stringContaining("unknown_key") as string },
    ]);
  });

  it("receipts of the account's other nodes in between leave a gap, which is no fault", () => {
    const first = kept();
    kept();
    expect(verify([delegation(), first, kept()])).toMatchObject({ receipts: 2, links: 0, problems: [] });
  });

  it.each<[string, () => readonly string[], string]>([
    ["an altered line", () => [delegation(), altered(kept())], "bad_signature"],
    ["a line that is cut", () => [delegation(), kept().slice(0, 300)], "malformed"],
    [
      "a key that nobody delegated to",
      () => [delegation(), kept({ by: importPrivateKey(generateKey()) })],
      "unknown_key",
    ],
    [
      "no delegation",
      () => [kept()],
      "unknown_key: no delegation of the service's key is kept before this line",
    ],
    ["a delegation that was over", () => [delegation(), kept({ at: noon + 2 * 86_400_000 })], "expired"],
    [
      "another node's receipt",
      () => [delegation(), kept({ receipt: { node_id: new MadeReceipts().identity.nodeId } })],
      "wrong_node",
    ],
    ["another account", () => [delegation(), kept({ receipt: { account: "other" } })], "different accounts"],
    ["more metered than claimed", () => [delegation(), kept({ metered: 21 })], "more tokens are metered"],
    [
      "a delegation that the root did not sign",
      () => [delegationLine(new MadeReceipts().network.delegation(noon), noon)],
      "threshold",
    ],
  ])("%s does not", (_what, lines, problem) => {
    const report = verify(lines());
    expect(report.problems).toHaveLength(1);
    expect(report.problems[0]?.problem).toContain(problem);
  });

  it("a chain that was spliced does not", () => {
    const other = new MadeReceipts();
    Object.assign(other, { network: made.network, identity: made.identity });
    const [mine] = [kept()];
    other.next({ at: noon + 1 });
    const spliced = receiptLine(other.next(), noon);
    expect(verify([delegation(), mine, spliced]).problems[0]?.problem).toContain(
      "receipt 2 of the account does not follow receipt 1",
    );
  });

  it("two receipts with one number do not", () => {
    const other = new MadeReceipts();
    Object.assign(other, { network: made.network, identity: made.identity });
    const texts = [delegation(), kept(), receiptLine(other.next({ at: noon + 1 }), noon)];
    expect(verify(texts).problems[0]?.problem).toContain("two receipts as number 1");
  });
});

describe("totals", () => {
  it("are metered tokens per day and model", () => {
    const texts = [
      made.next(),
      made.next({ metered: 5, receipt: { outcome: "failed" } }),
      made.next({ receipt: { model: "a" } }),
      made.next({ at: noon + 86_400_000 }),
    ];
    const day = "2026-01-01";
    expect(totalsOf(texts.map(claimsOf))).toEqual([
      { day, model: "a", jobs: 1, failed: 0, promptTokens: 10, completionTokens: 20 },
      { day, model: "org/m1", jobs: 2, failed: 1, promptTokens: 20, completionTokens: 25 },
      { day: "2026-01-02", model: "org/m1", jobs: 1, failed: 0, promptTokens: 10, completionTokens: 20 },
    ]);
  });
});
