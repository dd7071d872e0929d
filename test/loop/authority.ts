import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Snapshot } from "../../src/protocol/config/snapshot.ts";
import { bundle } from "./paths.ts";
import { engineCommand, engineImage } from "./images.ts";

/** Runs the `io` command line to its end and returns stdout; an exit code other than 0 is an error with its stderr. */
export function io(args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [bundle("io"), ...args], { stdio: ["ignore", "pipe", "pipe"] });
    let [stdout, stderr] = ["", ""];
    child.stdout.on("data", (part: Buffer) => (stdout += part.toString()));
    child.stderr.on("data", (part: Buffer) => (stderr += part.toString()));
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) resolve(stdout);
      else
        reject(
          new Error(`io ${args.slice(0, 2).join(" ")} ended with ${code}: ${stderr.trim().slice(-800)}`),
        );
    });
  });
}

/** A snapshot of the loop's network: the test engine at `release`, one model. */
export function loopSnapshot(
  network: string,
  release: string,
  options: { tokenDelayMs?: number; maxJobs?: number } = {},
): Snapshot {
  return {
    network,
    version: release,
    runtimes: [
      {
        engine: "openai",
        image: engineImage(release),
        gpu_products: [],
        launcher: "shell",
        command: engineCommand(options.tokenDelayMs ?? 20),
      },
    ],
    models: [{ name: loopModel, engines: [] }],
    participation: { testnet: true, mainnet: false },
    subclouds: [],
    limits: { max_jobs: options.maxJobs ?? 8, max_output_bytes: 1 << 20 },
    min_agent_version: "0.1.0",
  };
}

/** The one model of the loop. */
export const loopModel = "tiny";

/**
 * Whoever holds the network's keys: three of the root, three of the config role, one that delegates. All of it goes through
 * the `io` command line, as it would by hand.
 */
export class Authority {
  readonly network: string;
  readonly keys: string;
  readonly #data: string;
  #sequence = 0;
  readonly #published: string[] = [];

  constructor(network: string, folder: string, data: string) {
    this.network = network;
    this.keys = join(folder, "keys");
    this.#data = data;
  }

  /** Makes the keys and the root, and delegates to the service's key. */
  async init(): Promise<void> {
    await io(["keys", "init", "--network", this.network, "--out", this.keys]);
    await io(["keys", "delegate", "--keys", this.keys, "--data", this.#data]);
  }

  /** The signed root statement. */
  get root(): string {
    return readFileSync(join(this.keys, "root.json"), "utf8");
  }

  /**
   * Drafts, signs (with two config keys) and publishes a snapshot to the running service; earlier ones stay allowed.
   * Returns the digest.
   */
  async publish(snapshot: Snapshot, { withdraw = false }: { withdraw?: boolean } = {}): Promise<string> {
    const sequence = ++this.#sequence;
    const draft = join(this.keys, `draft-${sequence}.json`);
    const exact = join(this.keys, `snapshot-${sequence}.json`);
    const release = join(this.keys, `release-${sequence}.json`);
    writeFileSync(draft, JSON.stringify(snapshot, null, 2));
    const out = await io(["config", "draft", draft, "--out", exact]);
    const digest = /sha256:[0-9a-f]{64}/.exec(out)?.[0];
    if (digest === undefined) throw new Error(`io config draft printed no digest: ${out}`);
    if (withdraw) this.#published.length = 0;
    this.#published.unshift(exact); // the first one named is the current one
    const snapshots = this.#published.flatMap((path) => ["--snapshot", path]);
    const signers = ["config-1.jwk", "config-2.jwk"].flatMap((name) => ["--key", join(this.keys, name)]);
    await io([
      "config",
      "sign",
      ...snapshots,
      ...signers,
      "--expires",
      "30d",
      "--sequence",
      String(sequence),
      "--out",
      release,
    ]);
    await io(["config", "publish", "--data", this.#data, "--release", release, ...snapshots]);
    return digest;
  }
}
