import type { Rate } from "./rate.ts";
import { type DispatchOptions, dispatchDefaults } from "./dispatch/types.ts";

/** How much one session may say. */
export interface FrameRate {
  readonly frames: Rate;
  readonly bytes: Rate;
}

/** Everything about a running service that can be set. Durations in ms. */
export interface ServiceOptions {
  /** Network that the service serves. */
  readonly network: string;
  /** Base URLs as agents dial them (`http://host:port`), without a slash at the end. */
  readonly baseUrls: readonly string[];
  /** Interval at which agents send heartbeats; after three without one a session ends. Default 10,000. */
  readonly heartbeatMs: number;
  readonly dispatch: DispatchOptions;
  /** Connections and requests of one address, before any signature is checked. */
  readonly ipRate: Rate;
  /** The same for one node at one address. */
  readonly nodeRate: Rate;
  /** Frames of one open session, and their bytes, before their signatures are checked. */
  readonly frameRate: FrameRate;
  /** Most connections that have not got as far as `ready`. Default 1024. */
  readonly maxOpening: number;
  /** Most asynchronous jobs that are not over; of one consumer, half of it. Default 20,000. */
  readonly maxAsyncJobs: number;
  /** Most bytes of their inputs on the disk; of one consumer, half of it. Default 16 GiB. */
  readonly maxAsyncBytes: number;
  /** Transfers of large bodies of one node at one address. */
  readonly transferRate: Rate;
  /** Bytes of clients' requests and of large bodies that are held in memory at once; of one consumer, or node, half. Default 256 MiB. */
  readonly maxBytesInFlight: number;
  /** How long jobs are kept after their end, with input and answer; receipts stay for ever. Default 30 days. */
  readonly keepJobsMs: number;
}

export const serviceDefaults: Omit<ServiceOptions, "network" | "baseUrls"> = {
  heartbeatMs: 10_000,
  dispatch: dispatchDefaults,
  // One address may be the gateway of a whole data centre that comes back after an outage.
  ipRate: { burst: 1_000, perSecond: 200 },
  nodeRate: { burst: 20, perSecond: 1 },
  // Far above an honest node, which sends 20 chunks a second for each of its jobs, also just after a reconnect; what one
  // core verifies is some 10,000 frames a second.
  frameRate: {
    frames: { burst: 20_000, perSecond: 5_000 },
    bytes: { burst: 256 * 1024 * 1024, perSecond: 32 * 1024 * 1024 },
  },
  maxOpening: 1_024,
  maxAsyncJobs: 20_000,
  maxAsyncBytes: 16 * 1024 ** 3,
  // A node may take all its slots at once, each with an input and an output.
  transferRate: { burst: 500, perSecond: 50 },
  maxBytesInFlight: 256 * 1024 * 1024,
  keepJobsMs: 30 * 86_400_000,
};

/** URLs that a hello may name as its audience: the session's below each base URL. */
export function sessionUrls(baseUrls: readonly string[], sessionPath: string): string[] {
  return baseUrls.map((base) => `${base.replace(/^http/, "ws")}${sessionPath}`);
}
