import { beforeEach, describe, expect, it } from "vitest";
import { IdentityError, readIdentity } from "../../src/agent/identity.ts";
import { generateKey, importPrivateKey } from "../../src/protocol/keys.ts";
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

  it("does not bring back the old key when a rollover ends while the files are read", async () => {
    const next = generateKey();
    await files.write("/id/next.jwk", JSON.stringify(next));
    const readFile = files.read.bind(files);
    files.read = async (path) => {
      const text = await readFile(path);
      // The rename comes between the reading of the one and of the other.
      if (path === "/id/key.jwk" && files.content.has("/id/next.jwk")) {
        await files.write("/id/key.jwk", JSON.stringify(next));
        await files.write("/id/former.json", JSON.stringify([identity.key.jwk]));
        await files.remove("/id/next.jwk");
      }
      return text;
    };
    expect((await read()).key.kid).toBe(importPrivateKey(next).kid);
  });

  it("takes a key that the node has rolled over to, next to those that it had", async () => {
    const [second, third] = [generateKey(), generateKey()];
    await files.write("/id/key.jwk", JSON.stringify(second));
    const publicHalf = { kty: "OKP", crv: "Ed25519", x: identity.jwk.x };
    await files.write("/id/former.json", JSON.stringify([publicHalf]));
    await files.write("/id/next.jwk", JSON.stringify(third));
    const { nodeId, key, keys } = await read();
    expect([nodeId, key.kid]).toEqual([identity.nodeId, importPrivateKey(second).kid]);
    expect(keys.wanted?.kid).toBe(importPrivateKey(third).kid);
    keys.use(importPrivateKey(third));
    expect(keys.known.map(({ kid }) => kid)).toContain(identity.key.kid);
  });

  it("takes a key that the account has granted, and refuses the grant of another node", async () => {
    const granted = generateKey();
    const { network: net, account } = identity.binding;
    const grant = { network: net, account, node_id: identity.nodeId, kid: importPrivateKey(granted).kid };
    const file = { ...grant, generation: 1, mac: identity.binding.mac };
    await files.write("/id/key.jwk", JSON.stringify(granted));
    expect((await failure()).message).toContain("have the account grant");
    await files.write("/id/grant.json", JSON.stringify(file));
    const { key, keys } = await read();
    expect([key.kid, keys.registration?.grant]).toEqual([grant.kid, file]);
    await files.write("/id/grant.json", JSON.stringify({ ...file, account: "other" }));
    expect((await failure()).message).toContain("grant.json has account other");
  });

  it("the key is the one that is current when it is asked for", async () => {
    await files.write("/id/next.jwk", JSON.stringify(generateKey()));
    const whole = await read();
    const { wanted } = whole.keys;
    if (!wanted) throw new Error("no next key");
    whole.keys.use(wanted);
    expect(whole.key.kid).toBe(wanted.kid);
  });

  it("refuses a binding for another key, and another network's root", async () => {
    await files.write("/id/binding.json", JSON.stringify(testIdentity(network).binding));
    expect((await failure()).code).toBe("mismatch");
    expect((await failure("othernet")).message).toContain("othernet");
  });
});
