import { expect, it } from "vitest";
import packageJson from "../../package.json" with { type: "json" };
import { version } from "../../src/lib/version.ts";

it("the version that programs report is that of package.json", () => {
  expect(version).toBe(packageJson.version);
});
