import { mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { rotateIdentity } from "../../../src/agent/standalone/rotate-identity.ts";
import { generateKey } from "../../../src/protocol/keys.ts";
import { fakePorts } from "../fixture/fakes.ts";

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "identity-"));
  writeFileSync(join(dir, "key.jwk"), JSON.stringify(generateKey()), { mode: 0o600 });
});
afterEach(() => rmSync(dir, { recursive: true }));

it("a rotation by another user than the agent's makes no key that the agent could not read", async () => {
  const { uid } = statSync(dir);
  const { http, clock } = fakePorts();
  const rotation = { dir, uid: uid + 1, agentUrl: "http://127.0.0.1:9440", http, clock, patienceMs: 0 };
  await expect(rotateIdentity(rotation)).rejects.toThrow(
    `${dir} cannot be written (it is of user ${uid}, not ${uid + 1}): run this as the agent's user, which owns the folder`,
  );
  expect(readdirSync(dir)).toEqual(["key.jwk"]);
});
