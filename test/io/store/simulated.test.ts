import { setImmediate as turn } from "node:timers/promises";
import { SimProcess } from "../../simulation/process.ts";
import { StoreDisk } from "../../simulation/store.ts";
import { World } from "../../simulation/world.ts";
import { storeConformance } from "./conformance.ts";

/** A simulated disk in a world of its own, whose time goes on by itself. */
function simulatedDisk() {
  const world = new World(1);
  const disk = new StoreDisk(world.dice.fork("store"), { asked: () => {}, durable: () => {} });
  const time = { passes: true };
  let process: SimProcess | undefined;
  const pass = async () => {
    while (time.passes) {
      await world.run(world.now + 5);
      await turn();
    }
  };
  void pass();
  return {
    open: () => {
      process = new SimProcess(world, "io", { skewMs: 0 });
      return disk.open(process);
    },
    cutPower: () => process?.kill(),
    remove: () => {
      time.passes = false;
    },
  };
}

storeConformance("simulated, with sync points", simulatedDisk, (disk) => disk.cutPower());
