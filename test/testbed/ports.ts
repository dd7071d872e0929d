import { createServer } from "node:net";
import { TestbedError } from "./errors.ts";

/**
 * Below the ports that Linux gives to outgoing connections (from 32768), so that a port stays free while its server
 * is down for a test.
 */
const lowest = 10_000;
const highest = 29_999;

/**
 * Test files that run side by side choose from different ports, by the number of the runner's worker (1, 2, …): a port that is
 * chosen and not yet listened on, or whose server is down for a test, is nobody else's.
 */
const shares = 8;

/** Given out by this process; not given twice. */
const given = new Set<number>();

/** A port of 127.0.0.1 that nobody listens on, between 10,000 and 29,999. Each call returns another one. */
export async function freePort(
  random: () => number = Math.random,
  worker = Number(process.env["VITEST_POOL_ID"] ?? 0),
): Promise<number> {
  const share = Math.floor((highest - lowest + 1) / shares);
  const from = lowest + (worker % shares) * share;
  for (let attempt = 0; attempt < 200; attempt++) {
    const port = from + Math.floor(random() * share);
    if (given.has(port) || !(await isFree(port))) continue;
    given.add(port);
    return port;
  }
  throw new TestbedError(
    "NotReady",
    `found no free port from ${from} to ${from + share - 1} in 200 attempts`,
  );
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}
