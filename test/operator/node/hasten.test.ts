import { createServer, type Server } from "node:http";
import { afterEach, expect, it } from "vitest";
import { keyOf } from "../../../src/kube/object.ts";
import { silentLogger } from "../../../src/lib/logger.ts";
import { hasten } from "../../../src/operator/node/hasten.ts";
import { NodeMemories } from "../../../src/operator/node/memory.ts";
import type { NodeId } from "../../../src/protocol/keys.ts";
import { agentPort } from "../../../src/protocol/status.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { World } from "./world.ts";

let server: Server | undefined;
afterEach(() => server?.close());

it("asks the agent once, with the token of the pod's hook, and again if it was not heard", async () => {
  const answers = [401, 202];
  const asked: unknown[] = [];
  const heard = Promise.withResolvers<void>();
  server = createServer((request, response) => {
    asked.push([request.method, request.url, request.headers.authorization]);
    response.statusCode = answers[asked.length - 1] ?? 500;
    response.end(() => asked.length === answers.length && heard.resolve());
  });
  const ip = `127.94.${process.pid % 250}.${1 + (Math.floor(process.pid / 250) % 250)}`;
  await new Promise<void>((resolve) => server?.listen(agentPort, ip, resolve));

  const world = new World();
  world.untilServing();
  world.kubeletSays({ podIP: ip });
  const memories = new NodeMemories(new FakeClock());
  const key = keyOf(world.node);
  const hands = { memories, logger: silentLogger };
  expect(hasten(hands, world.observe(), 4_000)).toBeUndefined();
  const { nodeId = "" } = world.observe();
  memories.learn(key, { nodeId: nodeId as NodeId, keys: [], drainToken: "token" });
  expect(hasten(hands, world.observe(), 4_000)).toBeGreaterThan(0);
  // The refusal is known in a moment; before that nobody is asked twice.
  expect(hasten(hands, world.observe(), 3_999)).toBeUndefined();
  await expect.poll(() => memories.of(key).hastened).toBe("");
  expect(hasten(hands, world.observe(), 3_000.4)).toBeGreaterThan(0);
  await heard.promise;
  expect(hasten(hands, world.observe(), 2_000)).toBeUndefined();
  expect(asked).toEqual([
    ["POST", "/drain?within=4000", "Bearer token"],
    ["POST", "/drain?within=3000", "Bearer token"],
  ]);
  // Its time is over: on a lost host the pod ends for hours.
  memories.of(key).hastened = "";
  expect(hasten(hands, world.observe(), 0)).toBe(30_000);
});
