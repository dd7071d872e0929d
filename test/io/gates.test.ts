import { describe, expect, it } from "vitest";
import { UsedNonces } from "../../src/io/account-requests.ts";
import { ApiKeys } from "../../src/io/openai/api-keys.ts";
import { RateLimit } from "../../src/io/rate.ts";
import { nonceLifeMs, Nonces } from "../../src/io/registration/nonces.ts";
import { FakeClock } from "../lib/fake-clock.ts";
import { sha256 } from "./fixture/network.ts";

let seed = 0;
const random = { bytes: (count: 16 | 32) => Buffer.alloc(count, ++seed).toString("base64url") };

describe("a token bucket", () => {
  it("takes a burst, then as many as have flowed in, each key for itself", () => {
    const clock = new FakeClock();
    const limit = new RateLimit({ burst: 3, perSecond: 2 }, clock);
    const taken = (key: string) => [1, 2, 3, 4].map(() => limit.take(key)).filter(Boolean).length;
    expect(taken("a")).toBe(3);
    expect(taken("b")).toBe(3);
    clock.advance(1_000);
    expect(taken("a")).toBe(2);
    clock.advance(60_000);
    expect(taken("a")).toBe(3);
  });

  it("remembers a bounded number of keys", () => {
    const limit = new RateLimit({ burst: 1, perSecond: 0 }, new FakeClock());
    expect(limit.take("first")).toBe(true);
    expect(limit.take("first")).toBe(false);
    for (let at = 0; at < 65_536; at++) limit.take(`other ${at}`);
    expect(limit.take("first")).toBe(true);
  });
});

describe("registration nonces", () => {
  it("are good for five minutes, and only those of this process", () => {
    const nonces = new Nonces(random);
    const nonce = nonces.issue(1_000_000);
    expect(nonces.accepts(nonce, 1_000_000 + nonceLifeMs)).toBe(true);
    expect(nonces.accepts(nonce, 1_000_001 + nonceLifeMs)).toBe(false);
    expect(nonces.accepts(nonce, 999_999)).toBe(false);
    expect(new Nonces(random).accepts(nonce, 1_000_000)).toBe(false);
  });

  it.each(["", "..", "a.b.c", "a.b.c.d", "!.b.c"])("%j is none", (nonce) => {
    expect(new Nonces(random).accepts(nonce, 0)).toBe(false);
  });

  it("with another time or another MAC are none", () => {
    const nonces = new Nonces(random);
    const [time = "", ...rest] = nonces.issue(1_000_000).split(".");
    const later = [(Number.parseInt(time, 36) + 1).toString(36), ...rest].join(".");
    expect(nonces.accepts(later, 1_000_001)).toBe(false);
  });
});

it("an account's nonce is good once, for as long as its request could be", () => {
  const clock = new FakeClock();
  const nonces = new UsedNonces(clock);
  expect(nonces.use("acme", "a")).toBe(true);
  clock.advance(10 * 60_000);
  expect(nonces.use("acme", "a")).toBe(false);
  clock.advance(1);
  expect(nonces.use("acme", "a")).toBe(true);
});

it("an account that uses up its nonces is refused, and leaves those of the others alone", () => {
  const nonces = new UsedNonces(new FakeClock());
  for (let at = 0; at < 10_000; at++) nonces.use("greedy", `nonce ${at}`);
  expect(nonces.use("greedy", "one more")).toBe(false);
  expect(nonces.use("acme", "one more")).toBe(true);
});

it("an API key gives its consumer; nothing else does", () => {
  const keys = new ApiKeys();
  keys.add(sha256("rk-good-key"), "someone");
  expect(keys.consumerOf("Bearer rk-good-key")).toBe("someone");
  expect(keys.consumerOf("bearer rk-good-key")).toBe("someone");
  for (const header of [undefined, "", "Bearer", "Bearer rk-bad-key", "rk-good-key", "Basic rk-good-key"])
    expect(keys.consumerOf(header)).toBeUndefined();
});
