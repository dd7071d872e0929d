import { join } from "node:path";
import { messageOf } from "../../lib/errors.ts";
import { adapterOf } from "../engine/adapters.ts";
import { engineHost } from "../engine/argv.ts";
import { requestBytes } from "../http-bytes.ts";
import { LaunchDir } from "../launcher/launch-dir.ts";
import { type AgentSettings, localUrl } from "../standalone/settings.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";
import { attempt } from "./identity.ts";
import type { DoctorWorld } from "./world.ts";

const mib = 1024 * 1024;
const leastFree = 64 * mib;
const uneasyFree = 1024 * mib;
const timeoutMs = 5_000;

/** Disk of the folders that the agent writes. */
export async function checkDisk(
  world: DoctorWorld,
  { stateDir, receiptsDir, modelsDir }: Pick<AgentSettings, "stateDir" | "receiptsDir" | "modelsDir">,
): Promise<readonly Finding[]> {
  const dirs = [
    stateDir,
    ...(receiptsDir === undefined || receiptsDir.startsWith(`${stateDir}/`) ? [] : [receiptsDir]),
  ];
  const models = await checkModels(world, modelsDir);
  return [...(await Promise.all(dirs.map((dir) => checkFolder(world, dir)))), ...models];
}

/** Folder of models. None is needed where no config names files of models; where others fill it, it need not be written. */
async function checkModels(world: DoctorWorld, dir: string): Promise<readonly Finding[]> {
  if (!(await world.stat(dir))?.folder) return [];
  if (await world.mayWrite(dir)) return [await checkFolder(world, dir, "models")];
  const text = `${dir} cannot be written by this user: weights have to be put there by others`;
  return [warn("models", text, `give the folder to the agent's user (chown), or leave it to who fills it`)];
}

async function checkFolder(world: DoctorWorld, dir: string, check = "disk"): Promise<Finding> {
  const found = await world.stat(dir);
  const make = `install -d -m 0700 -o USER ${dir}, USER being the agent's`;
  if (!found?.folder) return fail(check, `${dir} is no folder that can be seen`, make);
  if (!(await world.mayWrite(dir))) return fail(check, `${dir} cannot be written by this user`, make);
  const space = await world.space(dir);
  if (!space) return warn(check, `${dir}: free space is not known`, "look with df");
  const text = `${dir}: ${Math.floor(space.free / mib)} MiB free of ${Math.floor(space.total / mib)}`;
  if (space.free < leastFree)
    return fail(check, text, "free some space: config, receipts and weights cannot be kept");
  return space.free < uneasyFree ? warn(check, text, "free some space") : ok(check, text);
}

/** GPUs, as nvidia-smi sees them. @param wanted how many the engine is to have; undefined = not said. */
export async function checkGpu(world: DoctorWorld, wanted: number | undefined): Promise<Finding> {
  const query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"];
  const answer = await world.run("nvidia-smi", query);
  if (!answer) {
    const fix = "install NVIDIA's driver with its tools; ignore this for engines on other hardware";
    return wanted === undefined || wanted === 0
      ? warn("gpu", "nvidia-smi is not installed", fix)
      : fail("gpu", `nvidia-smi is not installed, ${wanted} GPUs are configured`, fix);
  }
  if (!answer.ok)
    return fail(
      "gpu",
      `nvidia-smi: ${answer.text.slice(0, 200)}`,
      "load the driver (modprobe nvidia), look into dmesg",
    );
  const gpus = answer.text.split("\n").filter((line) => line.trim() !== "");
  const text = `${gpus.length} × ${gpus[0]?.trim() ?? "nothing"}`;
  if (gpus.length === 0)
    return fail("gpu", "nvidia-smi lists no GPU", "look into dmesg, and at the devices of this unit");
  return wanted !== undefined && wanted > gpus.length
    ? fail("gpu", `${text}, but gpu.count is ${wanted}`, "correct gpu.count, or give this host its GPUs back")
    : ok("gpu", text);
}

/** The folder shared with the launcher, the launcher, and the engine behind them. */
export async function checkLaunch(world: DoctorWorld, dir: string): Promise<readonly Finding[]> {
  const launch = await launchFinding(world, dir);
  const files = new LaunchDir(world.files, dir);
  const [state, generation] = [await files.state(), await files.current()];
  const restart =
    "start resultity-runtime.service, or `sh launch.sh` of the launch folder as the engine's user";
  if (!generation) {
    const text = "no engine was asked for yet";
    return [launch, warn("engine", text, "start the agent; it writes one when it has a verified config")];
  }
  if (!state) return [launch, fail("engine", "no launcher has ever run", restart)];
  const { phase, crashes, exitCode } = state;
  const what = crashes === 0 ? "" : `, ${crashes} crashes, last exit code ${exitCode}`;
  const adapter = adapterOf(generation.engine);
  const answer = await attempt(async () => {
    const url = `http://${engineHost}:${generation.port}${adapter.modelsPath}`;
    const limits = { maxBytes: mib, timeoutMs };
    const { status, body } = await requestBytes(world.http, world.clock, { method: "GET", url }, limits);
    if (status !== 200) throw new Error(`GET ${url} answered HTTP ${status}`);
    return adapter.readModels(body.toString("utf8"));
  });
  if ("value" in answer) {
    const text = `${generation.engine} answers on port ${generation.port}; launcher ${phase}${what}`;
    const missing = generation.models.filter((model) => !answer.value.includes(model));
    return [
      launch,
      missing.length === 0
        ? ok("engine", text)
        : warn(
            "engine",
            `${text}; without ${missing.slice(0, 3).join(", ")}`,
            "wait until it has loaded its models",
          ),
    ];
  }
  const fix =
    phase === "stopping"
      ? restart
      : "it may still load its models; else read the launcher's log (journalctl -u resultity-runtime)";
  return [launch, fail("engine", `${answer.error}; launcher ${phase}${what}`, fix)];
}

async function launchFinding(world: DoctorWorld, dir: string): Promise<Finding> {
  const make = `install -d -m 0755 -o USER ${dir}, USER being the agent's; see deploy/systemd/resultity.tmpfiles.conf`;
  if (!(await world.stat(dir))?.folder) return fail("launch", `${dir} is no folder that can be seen`, make);
  if (!(await world.mayWrite(dir))) return fail("launch", `${dir} cannot be written by this user`, make);
  const run = join(dir, "run");
  if (!(await world.stat(run))?.folder) {
    const fix = `install -d -m 0755 -o USER ${run}, USER being the engine's`;
    return fail("launch", `${run} is no folder: the launcher has no place for its state`, fix);
  }
  return (await world.stat(join(dir, "launch.sh")))
    ? ok("launch", `${dir} has its launcher`)
    : warn("launch", `${dir} has no launch.sh yet`, "start the agent; it writes it first");
}

/** The agent itself, by its local endpoints. */
export async function checkAgent(
  { http, clock }: DoctorWorld,
  listen: AgentSettings["listen"],
): Promise<Finding> {
  const url = `${localUrl(listen)}/ready`;
  try {
    const { status, body } = await requestBytes(
      http,
      clock,
      { method: "GET", url },
      { maxBytes: 4096, timeoutMs },
    );
    const said = body.toString("utf8").trim().slice(0, 300);
    return status === 200
      ? ok("agent", "runs and is ready")
      : warn("agent", `runs, not ready: ${said}`, "read its log (journalctl -u resultity-agent)");
  } catch (thrown) {
    return warn(
      "agent",
      `does not answer: ${messageOf(thrown)}`,
      "start it (systemctl start resultity-agent)",
    );
  }
}
