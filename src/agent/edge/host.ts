import { randomBytes, randomInt } from "node:crypto";
import { statfsSync } from "node:fs";
import { createServer } from "node:net";
import { availableParallelism, totalmem } from "node:os";
import type { Host, Randomness } from "../ports.ts";

/** Below the range from which Linux takes the ports of outgoing connections (32768 up). */
const firstPort = 20_000;
const lastPort = 32_000;
const tries = 50;

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** This machine. */
export const thisHost: Host = {
  async freePort() {
    for (let tried = 0; tried < tries; tried++) {
      const port = randomInt(firstPort, lastPort);
      if (await canListen(port)) return port;
    }
    throw new Error(`no free TCP port on 127.0.0.1 in ${tries} tries between ${firstPort} and ${lastPort}`);
  },
  cpus: availableParallelism(),
  memoryMib: Math.floor(totalmem() / (1024 * 1024)),
  // Of a container's root, an overlay, this is the filesystem below its writable layer: where the host keeps images [seen].
  rootDisk() {
    try {
      const { bavail, blocks, bsize } = statfsSync("/");
      return { free: bavail * bsize, total: blocks * bsize };
    } catch {
      return undefined;
    }
  },
};

/** The system's random source for ids and nonces; jitter needs no better than Math.random. */
export const systemRandom: Randomness = {
  number: Math.random,
  bytes: (count) => randomBytes(count).toString("base64url"),
};
