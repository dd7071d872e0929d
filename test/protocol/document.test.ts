import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { CloseCode, nackCodes } from "../../src/protocol/codes.ts";
import { schemas } from "../../src/protocol/messages.ts";

const at = (path: string): string => join(import.meta.dirname, "../..", path);
const document = readFileSync(at("docs/protocol.md"), "utf8");
const read = (name: string): unknown => JSON.parse(readFileSync(at(`test/vectors/${name}.json`), "utf8"));

/** Text of the section whose heading begins so, up to the next heading. */
function section(heading: string): string {
  const [, ...rest] = document.split(`\n${heading}`);
  return rest.join("\n").split(/\n#{2,3} /)[0] ?? "";
}

/** First cells of the rows of all tables in a text, without their back-ticks. */
const firstCells = (text: string): string[] =>
  [...text.matchAll(/^\| `?([^|`]+?)`? \|/gm)].map(([, cell]) => cell ?? "");

describe("docs/protocol.md", () => {
  const { examples } = read("messages") as { examples: Record<string, unknown> };

  it.each(Object.keys(schemas))("describes %s with the example of the vectors, field by field", (kind) => {
    const heading = new RegExp(`^### 5\\.\\d+ \`${kind}\``, "m").exec(document)?.[0];
    if (heading === undefined) throw new Error(`no section for ${kind}`);
    const text = section(heading);
    const example = /```json\n([^]*?)\n```/.exec(text)?.[1] ?? "null";
    expect(JSON.parse(example)).toEqual(examples[kind]);
    const shared = ["sid", "seq", "job", "attempt", "token"];
    for (const field of Object.keys(schemas[kind as keyof typeof schemas].shape)) {
      if (!shared.includes(field)) expect(text).toContain(`\`${field}`);
    }
  });

  it("has a row for every error code with its close code, for every close code and every NACK code", () => {
    const { errors } = read("codes") as { errors: Record<string, number> };
    const rows = section("### 8.1");
    for (const [code, close] of Object.entries(errors))
      expect(rows).toMatch(new RegExp(`^\\| \`${code}\` \\|.*\\| ${close} \\|$`, "m"));
    expect(firstCells(section("### 8.2"))).toEqual(
      expect.arrayContaining(Object.values(CloseCode).map(String)),
    );
    expect(firstCells(section("### 8.3"))).toEqual(expect.arrayContaining([...nackCodes]));
  });

  it("shows the first frames and the registration of the vectors", () => {
    const { frames } = read("session") as { frames: { text: string }[] };
    for (const { text } of frames.slice(0, 4)) expect(document).toContain(`\n${text}\n`);
    const { registrations } = read("http") as { registrations: { body: string }[] };
    expect(document).toContain(`\n${registrations[0]?.body}\n`);
    const { input } = read("bindings") as { input: string };
    expect(document).toContain(`\n${input}\n`);
    // The key change: its header, and what stands inside it.
    const { changes } = read("rollover") as { changes: { body: string }[] };
    const open = (part?: string): string => Buffer.from(part ?? "", "base64url").toString();
    const [header, payload] = changes[0]?.body.split(".") ?? [];
    const { new: inner } = JSON.parse(open(payload)) as { new: string };
    for (const part of [header, ...inner.split(".").slice(0, 2)])
      expect(document).toContain(`\n${open(part)}\n`);
  });

  it("names every file of vectors", () => {
    for (const name of readdirSync(at("test/vectors"))) expect(document).toContain(`\`${name}\``);
  });

  it("refers to sections that exist", () => {
    const sections = new Set(
      [...document.matchAll(/^#{2,3} (\d+(?:\.\d+)?)\.? /gm)].map(([, number]) => number),
    );
    const named = [...document.matchAll(/§(\d+(?:\.\d+)?)/g)].map(([, number]) => number);
    // "RFC 4648 §5" and the like are others' sections.
    const own = named.filter((number) => !new RegExp(`RFC \\d+ §${number}\\b`).test(document));
    expect(own.filter((number) => !sections.has(number))).toEqual([]);
  });
});
