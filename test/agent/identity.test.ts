import { beforeEach, describe, expect, it } from "vitest";
import { IdentityError, readIdentity } from "../../src/agent/identity.ts";
import { MemoryFiles } from "./fixture/fakes.ts";
import { testIdentity, TestNetwork } from "./fixture/network.ts";

const network = new TestNetwork();
const identity = testIdentity(network);
let files: MemoryFiles;

beforeEach(async () => {
  files = new MemoryFiles();
  await files.write("/id/key.jwk", JSON.stringify(identity.jwk));
  await files.write("/id/binding.json", JSON.stringify(identity.binding));
  await files.write("/id/root.json", JSON.stringify(network.rootStatement));
});

const read = (name = network.name) => readIdentity(files, "/id", name);

async function failure(name?: string): Promise<IdentityError> {
  const thrown = await read(name).then(
    () => undefined,
    (error: unknown) => error,
  );
  if (!(thrown instanceof IdentityError)) throw new Error("expected an IdentityError");
  return thrown;
}

describe("readIdentity", () => {
  it("reads key, binding and root", async () => {
    const { nodeId, key, root } = await read();
    expect(nodeId).toBe(identity.nodeId);
    expect(key.kid).toBe(identity.key.kid);
    expect(root.network).toBe(network.name);
  });

  it("names a missing file and where it comes from", async () => {
    await files.remove("/id/binding.json");
    const { code, message } = await failure();
    expect(code).toBe("missing");
    expect(message).toContain("/id/binding.json");
    expect(message).toContain("identity Secret");
  });

  it("names a file that it may not read", async () => {
    files.unreadable = "/id/key.jwk";
    const { code, message } = await failure();
    expect(code).toBe("unreadable");
    expect(message).toContain("EACCES");
  });

  it("does not repeat a broken key", async () => {
    await files.write("/id/key.jwk", JSON.stringify({ ...identity.jwk, x: identity.jwk.d }));
    const { code, message } = await failure();
    expect(code).toBe("invalid");
    expect(message).not.toContain(identity.jwk.d);
  });

  it("refuses a binding for another key, and another network's root", async () => {
    await files.write("/id/binding.json", JSON.stringify(testIdentity(network).binding));
    expect((await failure()).code).toBe("mismatch");
    expect((await failure("othernet")).message).toContain("othernet");
  });
});
