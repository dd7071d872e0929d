/**
 * What a real kubelet takes from the machine beside processes and files: an address range, a bridge and control
 * groups. All three are named after a slot number, and a file per slot names its owner, so that whoever claims a slot
 * of a dead owner knows what to clear.
 */
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { TestbedError } from "../errors.ts";
import { identify, isAlive, type ProcessIdentity } from "../process-identity.ts";
import { testbedRoot } from "../runs.ts";

/** A claimed share of the machine. */
export interface Slot {
  /** Pods get addresses of this range, e.g. `10.213.5.0/24`. */
  readonly subnet: string;
  /** The bridge's own address on the host, which is also the kubelet's, e.g. `10.213.5.1`. */
  readonly gateway: string;
  readonly bridge: string;
  /** Control group below which the kubelet puts its pods, as `cgroupRoot` takes it. */
  readonly cgroup: string;
  /** Removes bridge and control groups and gives the slot back. Every process in the groups must be gone. */
  release(): Promise<void>;
}

const slots = 32;
const cgroupMount = "/sys/fs/cgroup";

/**
 * Claims the first free slot, clears what its last owner left, and makes bridge and control groups.
 *
 * @throws TestbedError `CommandFailed` when no slot is free or the machine refuses (root is needed)
 */
export async function claimSlot(): Promise<Slot> {
  const folder = join(testbedRoot(), "slots");
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  for (let number = 0; number < slots; number++) {
    const file = join(folder, `${number}.json`);
    if (!claimFile(file)) continue;
    const slot: Slot = {
      subnet: `10.213.${number}.0/24`,
      gateway: `10.213.${number}.1`,
      bridge: `rstybed${number}`,
      cgroup: `/resultity-testbed-${number}`,
      async release() {
        await clear(slot);
        rmSync(file, { force: true });
      },
    };
    await clear(slot);
    for (const controller of controllers()) mkdirSync(join(controller, slot.cgroup), { recursive: true });
    ip("link", "add", slot.bridge, "type", "bridge");
    ip("addr", "add", `${slot.gateway}/24`, "dev", slot.bridge);
    ip("link", "set", slot.bridge, "up");
    return slot;
  }
  throw new TestbedError("CommandFailed", `all ${slots} slots for real kubelets are taken: see ${folder}`);
}

/** Whether this process now owns `file`: it was not there, or its owner is dead. */
function claimFile(file: string): boolean {
  const own = JSON.stringify(identify(process.pid));
  try {
    writeFileSync(file, own, { flag: "wx" });
    return true;
  } catch {
    if (ownerOf(file)) return false;
  }
  // Two claimants of a dead owner's slot: renaming the old file away succeeds for one of them only.
  try {
    renameSync(file, `${file}.${process.pid}`);
    rmSync(`${file}.${process.pid}`);
    writeFileSync(file, own, { flag: "wx" });
    return true;
  } catch {
    return false;
  }
}

function ownerOf(file: string): ProcessIdentity | undefined {
  try {
    const owner: ProcessIdentity = JSON.parse(readFileSync(file, "utf8"));
    return isAlive(owner) ? owner : undefined;
  } catch {
    return undefined;
  }
}

/** Folders in which control groups are made: each v1 controller, and the v2 tree. */
function controllers(): string[] {
  if (existsSync(join(cgroupMount, "cgroup.controllers"))) return [cgroupMount];
  return readdirSync(cgroupMount, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(cgroupMount, entry.name));
}

async function clear(slot: Pick<Slot, "bridge" | "cgroup">): Promise<void> {
  if (existsSync(`/sys/class/net/${slot.bridge}`)) ip("link", "del", slot.bridge);
  for (const controller of controllers()) await removeGroup(join(controller, slot.cgroup));
}

/** Removes a control group and those below it. A group whose last process has just died is busy for a moment. */
async function removeGroup(path: string): Promise<void> {
  if (!existsSync(path)) return;
  for (const entry of readdirSync(path, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeGroup(join(path, entry.name));
  }
  for (let left = 100; ; left--) {
    try {
      rmdirSync(path);
      return;
    } catch (cause) {
      if (!existsSync(path)) return;
      if (left === 0)
        throw new TestbedError("CommandFailed", `control group ${path} is still in use`, { cause });
      await wait(20);
    }
  }
}

function ip(...args: string[]): void {
  const done = spawnSync("ip", args, { encoding: "utf8" });
  if (done.status === 0) return;
  throw new TestbedError("CommandFailed", `ip ${args.join(" ")}: ${done.stderr || String(done.error)}`);
}
