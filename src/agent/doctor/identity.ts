import { join } from "node:path";
import { messageOf } from "../../lib/errors.ts";
import type { TrustedRoot } from "../../protocol/config/root.ts";
import { checkBelonging, readBinding, readKeys, readRoot } from "../identity.ts";
import type { AgentSettings } from "../standalone/settings.ts";
import { type Finding, fail, ok } from "./finding.ts";
import type { DoctorWorld } from "./world.ts";

/** Bits that nobody but the owner may have on the key; its group may read it (a Secret's fsGroup). */
const tooOpen = 0o037;

/** The identity folder: key and its mode, binding, root. */
export async function checkIdentity(
  world: DoctorWorld,
  { identityDir: dir, network }: Pick<AgentSettings, "identityDir" | "network">,
): Promise<{ readonly findings: readonly Finding[]; readonly root: TrustedRoot | undefined }> {
  const findings: Finding[] = [];
  const key = await attempt(() => readKeys(world.files, dir));
  if ("error" in key)
    findings.push(
      fail("key", key.error, "run `agent identity init` as the agent's user, or restore the file"),
    );
  else findings.push(await keyMode(world, join(dir, "key.jwk"), key.value.key.kid));

  const binding = await attempt(async () => {
    const read = await readBinding(world.files, dir);
    if (!("error" in key)) checkBelonging(dir, key.value, read, network);
    return read;
  });
  findings.push(
    "error" in binding
      ? fail("binding", binding.error, "have the account bind this node (`io accounts bind ACCOUNT NODE_ID`)")
      : ok("binding", `account ${binding.value.account} on network ${binding.value.network}`),
  );

  const root = await attempt(() => readRoot(world.files, dir, network));
  if ("error" in root) {
    findings.push(fail("root", root.error, "take root.json from the network, by a way that you trust"));
    return { findings, root: undefined };
  }
  findings.push(ok("root", `version ${root.value.version} of network ${root.value.network}`));
  return { findings, root: root.value };
}

async function keyMode(world: DoctorWorld, path: string, kid: string): Promise<Finding> {
  const mode = (await world.stat(path))?.mode;
  if (mode === undefined || (mode & tooOpen) === 0) return ok("key", `the node signs with key ${kid}`);
  const octal = mode.toString(8).padStart(4, "0");
  return fail("key", `${path} has mode ${octal}: others than its owner can use it`, `chmod 600 ${path}`);
}

/** What came of something that may throw. */
export type Attempt<T> = { readonly value: T } | { readonly error: string };

export async function attempt<T>(act: () => Promise<T> | T): Promise<Attempt<T>> {
  try {
    return { value: await act() };
  } catch (thrown) {
    return { error: messageOf(thrown) };
  }
}
