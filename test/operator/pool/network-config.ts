import { noImagePolicy } from "../../../src/operator/node/places.ts";
import { noModelPolicy } from "../../../src/operator/node/model-policy.ts";
import { randomBytes } from "node:crypto";
import type { NetworkConfig } from "../../../src/operator/views.ts";
import type { AccountKey } from "../../../src/protocol/binding.ts";
import type { ConfigDigest } from "../../../src/protocol/fields.ts";
import { makeNetwork } from "../../protocol/network.ts";
import { digest } from "./fleet.ts";

/** What the network controller would publish of a network whose nodes move to `current`. */
export function mintTestConfig(current: string): NetworkConfig {
  const { root, release } = makeNetwork();
  const allowed = ["a", "b"].map((letter) => digest(letter) as ConfigDigest);
  return {
    uid: "network",
    root,
    account: "acme",
    accountKey: randomBytes(32) as AccountKey,
    endpoints: ["http://127.0.0.1:1"],
    release: {
      ...release,
      allowed: allowed.map((each) => ({ digest: each, expires: Number.MAX_SAFE_INTEGER })),
    },
    current: current as ConfigDigest,
    snapshots: new Map(),
    images: noImagePolicy,
    models: noModelPolicy,
    mayRestart: true,
    restartsUntil: undefined,
  };
}
