import { randomBytes } from "node:crypto";
import { expect, it } from "vitest";
import { IoService } from "../../../src/io/service.ts";
import { serviceDefaults } from "../../../src/io/options.ts";
import { MemoryStore } from "../../../src/io/store/memory.ts";
import { StoreError } from "../../../src/io/store/port.ts";
import { silentLogger } from "../../../src/lib/logger.ts";
import { Metrics } from "../../../src/lib/metrics.ts";
import { generateKey, importPrivateKey } from "../../../src/protocol/keys.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { digest, nodeId, report } from "../dispatch/floor.ts";

const from = { node: nodeId("n"), epoch: 1 };

/** A service with one node that is ready for jobs; its store fails the first `failures` reads of a body. */
async function serviceThat({ failures }: { readonly failures: number }) {
  const [clock, store] = [new FakeClock(), new MemoryStore()];
  const seen = { reads: 0, fatal: 0 };
  const body = store.body.bind(store);
  store.body = (...asked) =>
    ++seen.reads <= failures
      ? Promise.reject(new StoreError("unavailable", "store: disk I/O error"))
      : body(...asked);
  const service = await IoService.create({
    options: { ...serviceDefaults, network: "testnet", baseUrls: ["http://io.test"] },
    clock,
    random: { bytes: (count) => randomBytes(count).toString("base64url"), number: () => 0 },
    log: silentLogger,
    metrics: new Metrics(),
    store,
    key: importPrivateKey(generateKey()),
    dataKey: Buffer.alloc(32),
    fatal: () => seen.fatal++,
  });
  const { desk } = service;
  desk.handle({ on: "release", allowed: [{ digest, expires: clock.now() + 86_400_000 }] });
  desk.handle({ on: "open", from, account: "acme", instance: "i" });
  desk.handle({ on: "resume", from, jobs: [], last: true, committed: new Map() });
  desk.handle({ on: "report", from, report: report() });
  await service.asyncJobs.submit({
    consumer: "someone",
    model: "m",
    body: Buffer.from("{}"),
    idempotencyKey: undefined,
  });
  return { service, clock, seen };
}

it("F37 a disk that cannot be read for a moment costs a job that moment, and not the service", async () => {
  const { service, clock, seen } = await serviceThat({ failures: 3 });
  for (let tries = 1; tries <= 3; tries++) {
    await expect.poll(() => seen.reads).toBe(tries);
    await clock.advanceAsync(1_000, 1_000);
  }
  const [job] = service.dispatch.jobs();
  await expect.poll(() => job?.leaseUntil).toBeLessThan(Infinity);
  expect([job?.state, seen]).toEqual(["OFFERED", { reads: 4, fatal: 0 }]);
});

it("F37 a disk that cannot be read at all ends it", async () => {
  const { clock, seen } = await serviceThat({ failures: Infinity });
  for (let tries = 1; tries < 30; tries++) {
    await expect.poll(() => seen.reads).toBe(tries);
    expect(seen.fatal).toBe(0);
    await clock.advanceAsync(1_000, 1_000);
  }
  await expect.poll(() => seen.fatal).toBe(1);
});

it("a service that has ended asks no more", async () => {
  const { service, clock, seen } = await serviceThat({ failures: Infinity });
  await expect.poll(() => seen.reads).toBe(1);
  service.desk.close("the service ends");
  await clock.advanceAsync(10_000, 1_000);
  expect(seen).toEqual({ reads: 2, fatal: 0 });
});
