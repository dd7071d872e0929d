import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { takeBuildLock } from "./build-lock.ts";
import { until } from "./until.ts";

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "build-lock-test-"));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test("a second taker waits until the first lets go", async () => {
  const path = join(dir, "build.lock");
  const order: string[] = [];
  const first = await takeBuildLock(path);
  const second = takeBuildLock(path, () => order.push("waits"));
  void second.then(() => order.push("taken"));
  await until("the second to wait", () => order.length > 0);
  order.push("released");
  first.release();
  (await second).release();
  expect(order).toEqual(["waits", "released", "taken"]);
});

test("the lock of a holder that was killed is free", async () => {
  const path = join(dir, "build.lock");
  const script = join(dir, "holder.mjs");
  writeFileSync(
    script,
    `import { takeBuildLock } from ${JSON.stringify(join(import.meta.dirname, "build-lock.ts"))};
     await takeBuildLock(${JSON.stringify(path)});
     process.stdout.write("held");
     setInterval(() => {}, 1000);`,
  );
  const holder = spawn(process.execPath, [script], { stdio: ["ignore", "pipe", "inherit"] });
  try {
    await new Promise((resolve) => holder.stdout.once("data", resolve));
    let waited = false;
    const taken = takeBuildLock(path, () => {
      waited = true;
    });
    await until("the lock to be refused", () => waited);
    holder.kill("SIGKILL");
    (await taken).release();
  } finally {
    holder.kill("SIGKILL");
  }
});
