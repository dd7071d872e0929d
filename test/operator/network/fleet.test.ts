import { noImagePolicy } from "../../../src/operator/node/places.ts";
import { noModelPolicy } from "../../../src/operator/node/model-policy.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { Agent } from "undici";
import { silentLogger } from "../../../src/lib/logger.ts";
import { Metrics } from "../../../src/lib/metrics.ts";
import { FeedLines } from "../../../src/operator/network/feed-lines.ts";
import { Feeds } from "../../../src/operator/network/feeds.ts";
import { feedBackoff, maxFeedLineBytes } from "../../../src/operator/network/fleet.ts";
import { Fleet, maxFeedBytes, type NetworkConfig } from "../../../src/operator/views.ts";
import { checkAccountClaim, parseAccountAuthorization } from "../../../src/protocol/binding.ts";
import { type FeedNode, feedPingMs } from "../../../src/protocol/feed.ts";
import type { NodeId } from "../../../src/protocol/keys.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { newKey, random32 } from "../../protocol/network.ts";
import { until } from "../../testbed/until.ts";
import { makeAuthority } from "./authority.ts";
import { accountKey } from "./observation.ts";
import { type OpenFeed, type ScriptedIo, startScriptedIo } from "./scripted-io.ts";

const key = "inference/testnet";
const { root } = makeAuthority();

function feedNode(more: Partial<FeedNode> = {}): FeedNode {
  const { kid } = newKey();
  return {
    type: "node",
    node_id: String(kid) as NodeId,
    kid,
    connected: true,
    since: 1,
    epoch: 1,
    deprioritised_until: null,
    banned: null,
    generation: 0,
    revoked: false,
    conflict: null,
    config_applied: null,
    models_active: [],
    jobs_committed: 0,
    work: { config: null, completed: 0, failed: 0, duration_ms: 0 },
    ...more,
  };
}

let io: ScriptedIo;
let clock: FakeClock;
let fleet: Fleet;
let metrics: Metrics;
let dispatcher: Agent;
let feeds: Feeds;
let changed: string[];
/** Share of each back-off that is waited. */
let jitter: number;

const config = (endpoints: readonly string[], secret = accountKey): NetworkConfig => ({
  uid: "uid",
  root,
  account: "acme",
  accountKey: secret,
  endpoints,
  release: undefined,
  current: undefined,
  images: noImagePolicy,
  models: noModelPolicy,
  mayRestart: true,
  restartsUntil: undefined,
  snapshots: new Map(),
});
const feedNumber = (count: number): Promise<OpenFeed> => until(`feed ${count}`, () => io.feeds[count - 1]);
const live = (is: boolean) =>
  until(`the fleet to be ${is ? "live" : "not live"}`, () => fleet.live(key) === is);

beforeEach(async () => {
  io = await startScriptedIo();
  clock = new FakeClock();
  fleet = new Fleet();
  metrics = new Metrics();
  dispatcher = new Agent();
  changed = [];
  jitter = 0.5;
  const context = { fleet, dispatcher, clock, random: () => jitter, logger: silentLogger, metrics };
  feeds = new Feeds(context, (networkKey) => changed.push(networkKey));
});
afterEach(async () => {
  await feeds.stop();
  await dispatcher.destroy();
  await io.stop();
});

describe("the fleet feed", () => {
  test("is asked for with the account key", async () => {
    feeds.follow(key, config([io.url]));
    const { authorization } = await feedNumber(1);
    const claim = parseAccountAuthorization(authorization);
    if (!claim) throw new Error(`not an account's authorization: ${authorization}`);
    const asked = { method: "GET", path: "/v1/fleet/feed", now: clock.now() };
    expect(claim.account).toBe("acme");
    expect(checkAccountClaim(accountKey, claim, asked)).toBe(true);
  });

  test("tells nodes at once, is live when it has told all, and then forgets nodes that it did not name", async () => {
    const [gone, stays] = [feedNode(), feedNode()];
    fleet.put(key, gone, 300);
    feeds.follow(key, config([io.url]));
    const feed = await feedNumber(1);
    feed.line(stays);
    await until("the node", () => fleet.get(key, stays.node_id));
    expect(fleet.live(key)).toBe(false);
    expect(fleet.get(key, gone.node_id)).toEqual(gone);
    feed.line({ type: "synced" });
    await live(true);
    expect(fleet.get(key, gone.node_id)).toBeUndefined();
    feed.line({ ...stays, connected: false });
    await until("the change", () => fleet.get(key, stays.node_id)?.connected === false);
  });

  test("goes on after lines that it does not understand, and counts them", async () => {
    feeds.follow(key, config([io.url]));
    const feed = await feedNumber(1);
    const good = feedNode();
    feed.line("not JSON\n");
    feed.line({ type: "weather" });
    feed.line(`${"x".repeat(maxFeedLineBytes + 1)}\n`);
    feed.line({ ...good, epoch: -1 });
    feed.line(good);
    feed.line({ type: "synced" });
    await live(true);
    expect(fleet.get(key, good.node_id)).toEqual(good);
    expect(await metrics.text()).toContain(`resultity_fleet_feed_bad_lines_total{network="${key}"} 4`);
  });

  test("is taken for dead when three pings have failed to come, and opened again after a back-off", async () => {
    feeds.follow(key, config([io.url]));
    const feed = await feedNumber(1);
    feed.line({ type: "synced" });
    await live(true);
    clock.advance(2 * feedPingMs);
    const node = feedNode();
    feed.line({ type: "ping", time: 1 });
    feed.line(node);
    await until("the line after the ping", () => fleet.get(key, node.node_id));
    clock.advance(3 * feedPingMs - 1);
    expect(fleet.live(key)).toBe(true);
    clock.advance(1);
    await live(false);
    await feed.closed;
    // What it said stays: only silence of a live feed means anything.
    expect(fleet.get(key, node.node_id)).toEqual(node);
    await until("the back-off", () => clock.pending === 1);
    clock.advance(feedBackoff.base / 2);
    (await feedNumber(2)).line({ type: "synced" });
    await live(true);
  });

  test("that says more than is remembered of a network is ended and forgotten, and opened again later", async () => {
    const [large, good] = [feedNode(), feedNode()];
    fleet.put(key, large, maxFeedBytes - 2_000);
    feeds.follow(key, config([io.url]));
    const feed = await feedNumber(1);
    feed.line(good);
    await until("the node", () => fleet.get(key, good.node_id));
    // The same node again takes no more.
    for (let at = 0; at < 10; at++) feed.line({ ...good, epoch: at });
    await until("the last of them", () => fleet.get(key, good.node_id)?.epoch === 9);
    for (let at = 0; at < 3; at++) feed.line(feedNode());
    await feed.closed;
    expect(fleet.get(key, large.node_id)).toBeUndefined();
    expect(fleet.get(key, good.node_id)).toBeUndefined();
    await until("the back-off", () => clock.pending === 1);
    clock.advance(feedBackoff.base);
    const next = await feedNumber(2);
    next.line(good);
    next.line({ type: "synced" });
    await live(true);
    expect(fleet.get(key, good.node_id)).toEqual(good);
  });

  test("goes to the next endpoint after one that fails, with waits that grow to a bound", async () => {
    feeds.follow(key, config(["http://127.0.0.1:1", io.url]));
    await until("the first back-off", () => clock.pending === 1);
    expect(io.feeds).toEqual([]);
    clock.advance(feedBackoff.base);
    const second = await feedNumber(1);
    second.end();
    await until("the second back-off", () => clock.pending === 1);
    clock.advance(2 * feedBackoff.base - 1);
    expect(clock.pending).toBe(1);
    clock.advance(1);
    for (let turn = 0; turn < 12; turn++) {
      await until("a back-off", () => clock.pending === 1 || io.feeds[1]);
      clock.advance(feedBackoff.cap / 2);
    }
    await feedNumber(2);
  });

  test("a network that refuses the account is told as a finding, until it takes it", async () => {
    io.feedStatus = 401;
    feeds.follow(key, config([io.url]));
    await until("the refusal", () => feeds.refusal(key));
    expect(feeds.refusal(key)).toMatchObject({ reason: "AccountSecretInvalid" });
    expect(feeds.refusal(key)?.message).toContain("/v1/fleet/feed answers 401");
    expect(changed).toEqual([key]);
    io.feedStatus = 200;
    await until("the back-off", () => clock.pending === 1);
    clock.advance(feedBackoff.base);
    await feedNumber(1);
    await until("the refusal to go", () => feeds.refusal(key) === undefined);
    expect(changed).toEqual([key, key]);
  });

  test("one stream per network: the same config changes nothing, another key or endpoint opens it anew", async () => {
    feeds.follow(key, config([io.url]));
    const feed = await feedNumber(1);
    feeds.follow(key, config([io.url]));
    feeds.follow(key, config([io.url], Buffer.from(random32(), "base64url") as typeof accountKey));
    await feed.closed;
    await feedNumber(2);
    expect(io.feeds).toHaveLength(2);
  });

  test("ends with its network, and what it said is forgotten", async () => {
    feeds.follow(key, config([io.url]));
    const feed = await feedNumber(1);
    const node = feedNode();
    feed.line(node);
    feed.line({ type: "synced" });
    await live(true);
    await feeds.forget(key);
    await feed.closed;
    expect(fleet.live(key)).toBe(false);
    expect(fleet.get(key, node.node_id)).toBeUndefined();
    expect(clock.pending).toBe(0);
  });
});

describe("lines of the feed", () => {
  const cut = (...parts: string[]) => {
    const lines = new FeedLines(8);
    return parts.flatMap((part) => [...lines.push(Buffer.from(part))]);
  };
  test.each([
    { name: "several in one piece", parts: ["a\nb\n"], lines: ["a", "b"] },
    { name: "one over several pieces", parts: ["a", "b", "c\nd"], lines: ["abc"] },
    { name: "empty ones are left out", parts: ["\n\na\n\n"], lines: ["a"] },
    { name: "one at the bound", parts: ["12345678\n"], lines: ["12345678"] },
    {
      name: "one over the bound is told once, and the next is whole",
      parts: ["123456789", "0123456789", "\nnext\n"],
      lines: [undefined, "next"],
    },
  ])("$name", ({ parts, lines }) => expect(cut(...parts)).toEqual(lines));

  test("a character on the border of two pieces survives", () => {
    const lines = new FeedLines(8);
    const bytes = Buffer.from("é\n");
    expect([...lines.push(bytes.subarray(0, 1)), ...lines.push(bytes.subarray(1))]).toEqual(["é"]);
  });
});
