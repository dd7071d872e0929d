import { agentMemory } from "./agent-memory.ts";
import type { Bench } from "./bench.ts";
import { cacheMemory } from "./cache-memory.ts";
import { fleetCreate } from "./fleet/create.ts";
import { fleetIdle } from "./fleet/idle.ts";
import { fleetLife } from "./fleet/life.ts";
import { fleetRoll } from "./fleet/roll.ts";
import { gateways } from "./gateways.ts";
import { sessionMemory } from "./session-memory.ts";
import { signing } from "./signing.ts";

/** All benches, in the order in which they run. */
export const benches: readonly Bench[] = [
  agentMemory,
  signing,
  gateways,
  sessionMemory,
  cacheMemory,
  fleetCreate,
  fleetIdle,
  fleetRoll,
  fleetLife,
];
