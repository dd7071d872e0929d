import type { AgentSettings } from "../standalone/settings.ts";
import { type Finding, ok } from "./finding.ts";
import { checkAgent, checkDisk, checkGpu, checkLaunch } from "./host.ts";
import { checkIdentity } from "./identity.ts";
import { checkEndpoint } from "./network.ts";
import type { DoctorWorld } from "./world.ts";

/**
 * Looks at everything that a node needs, in the order in which it needs it. Never throws for what it finds; changes
 * nothing.
 */
export async function examine(world: DoctorWorld, settings: AgentSettings): Promise<readonly Finding[]> {
  const { findings: identity, root } = await checkIdentity(world, settings);
  const network: Finding[] = [];
  for (const endpoint of settings.endpoints)
    network.push(...(await checkEndpoint(world, endpoint, { network: settings.network, root })));
  return [
    ok("config", `node ${settings.nodeName} of network ${settings.network}`),
    ...identity,
    ...network,
    ...(await checkDisk(world, settings)),
    await checkGpu(world, settings.gpuCount),
    ...(await checkLaunch(world, settings.launchDir)),
    await checkAgent(world, settings.listen),
  ];
}
