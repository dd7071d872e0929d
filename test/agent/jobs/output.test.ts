import { createHash } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { JobOutput } from "../../../src/agent/jobs/output.ts";
import { sealFrame } from "../../../src/protocol/frame.ts";
import { jobIdField } from "../../../src/protocol/fields.ts";
import { generateKey, importPrivateKey } from "../../../src/protocol/keys.ts";
import { maxFrameBytes } from "../../../src/protocol/messages.ts";

const key = importPrivateKey(generateKey());
const bytes16 = Buffer.alloc(16, 1).toString("base64url");

/** All pieces from `offset`, as the service puts them together. */
function pieces(output: JobOutput, offset = 0): string[] {
  const found: string[] = [];
  for (let piece = output.piece(offset); piece; piece = output.piece(offset)) {
    expect(Buffer.byteLength(piece.data)).toBe(piece.bytes);
    found.push(piece.data);
    offset += piece.bytes;
  }
  return found;
}

describe("JobOutput", () => {
  it("comes out as it went in, with its hash, in frames that are not too large", () => {
    fc.assert(
      fc.property(
        fc.array(fc.string({ unit: "binary", minLength: 1, maxLength: 40 }), { maxLength: 30 }),
        (texts) => {
          const output = new JobOutput();
          for (const text of texts) output.append(text.toWellFormed());
          const whole = texts.map((text) => text.toWellFormed()).join("");
          expect(pieces(output).join("")).toBe(whole);
          expect(output.sha256()).toBe(createHash("sha256").update(whole).digest("hex"));
          expect([...output.events()].join("")).toBe(whole);
        },
      ),
    );
  });

  it("fits a frame also when every character must be escaped", () => {
    const output = new JobOutput();
    output.append("\u0001".repeat(400_000));
    for (const data of pieces(output)) {
      const frame = sealFrame(
        "chunk",
        {
          sid: bytes16,
          seq: 1,
          job: jobIdField.parse("job-00000000"),
          attempt: 1,
          token: bytes16,
          offset: 0,
          data,
        },
        key,
      );
      expect(frame.length).toBeLessThanOrEqual(maxFrameBytes);
    }
  });

  it("ends pieces at event boundaries, and never inside a character", () => {
    const output = new JobOutput();
    const event = `data: ${"é".repeat(20_000)}\n\n`;
    for (let i = 0; i < 5; i++) output.append(event);
    for (const data of pieces(output)) expect(data.endsWith("\n\n")).toBe(true);

    const large = new JobOutput();
    large.append("😀".repeat(60_000));
    expect(pieces(large).join("")).toBe("😀".repeat(60_000));
  });

  it("goes on from any offset that it has given out", () => {
    const output = new JobOutput();
    for (let i = 0; i < 50; i++) output.append(`data: ${"x".repeat(5_000)}${i}\n\n`);
    const first = output.piece(0);
    expect(pieces(output, first?.bytes).join("")).toBe([...output.events()].join("").slice(first?.bytes));
  });
});
