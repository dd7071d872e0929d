import { describe, expect, it } from "vitest";
import { BodyVault } from "../../../src/io/jobs/body-vault.ts";
import type { JobId } from "../../../src/protocol/fields.ts";
import { random16 } from "../fixture/network.ts";

const one = "job-00000001" as JobId;
const two = "job-00000002" as JobId;
const key = (fill: number): Uint8Array => new Uint8Array(32).fill(fill);
const vaultOf = (bytes: Uint8Array): BodyVault => new BodyVault(bytes, random16);
const vault = vaultOf(key(1));
const wrong = expect.objectContaining({ code: "key" });

describe("bodies on the disk", () => {
  it.each([0, 1, 15, 16, 17, 100_000])("of %i bytes come back as they were", (size) => {
    const body = Buffer.alloc(size, "ä");
    expect(vault.open(one, "input", vault.seal(one, "input", body)).equals(body)).toBe(true);
  });

  it("show nothing of what they say, and are never the same twice", () => {
    const body = Buffer.from("the prompt of a client");
    const sealed = [vault.seal(one, "input", body), vault.seal(one, "input", body)].map((bytes) =>
      Buffer.from(bytes),
    );
    for (const bytes of sealed) expect(bytes.includes("prompt")).toBe(false);
    expect(sealed[0]?.equals(sealed[1] ?? Buffer.alloc(0))).toBe(false);
    expect(sealed[0]).toHaveLength(1 + 12 + body.length + 16);
  });

  it("are bound to their job, to what they are of it, and to the key", () => {
    const sealed = vault.seal(one, "input", Buffer.from("x"));
    expect(() => vault.open(two, "input", sealed)).toThrow(wrong);
    expect(() => vault.open(one, "output", sealed)).toThrow(wrong);
    expect(() => vaultOf(key(2)).open(one, "input", sealed)).toThrow(wrong);
  });

  it("that were altered or cut anywhere are not opened; the message says nothing of them", () => {
    const sealed = vault.seal(one, "input", Buffer.from("secret words"));
    for (let at = 0; at < sealed.length; at++) {
      const altered = Uint8Array.from(sealed);
      altered[at] = (altered[at] ?? 0) ^ 1;
      expect(() => vault.open(one, "input", altered)).toThrow(wrong);
      expect(() => vault.open(one, "input", sealed.subarray(0, at))).toThrow(wrong);
    }
    expect(() => vault.open(one, "input", undefined)).toThrow(expect.objectContaining({ code: "missing" }));
    expect(() => vault.open(one, "input", sealed.subarray(1))).not.toThrow("secret");
  });

  it("have a key whose check tells it from others and does not contain it", () => {
    expect(vaultOf(key(1)).check).toBe(vault.check);
    expect(vaultOf(key(2)).check).not.toBe(vault.check);
    expect(vault.check).not.toContain(Buffer.from(key(1)).toString("base64url").slice(0, 8));
    expect(() => vaultOf(new Uint8Array(31))).toThrow(wrong);
  });
});
