import { fastify } from "fastify";
import { expect, it } from "vitest";
import type { AsyncJob } from "../../../src/io/jobs/async-jobs.ts";
import { errorText } from "../../../src/io/openai/errors.ts";
import { jobsRoutes } from "../../../src/io/openai/jobs-routes.ts";
import { ByteBudget, SharedBudget } from "../../../src/lib/byte-budget.ts";
import { FakeClock } from "../../lib/fake-clock.ts";
import { jobId } from "../dispatch/floor.ts";

const body = Buffer.alloc(1_000, "x");
const job: AsyncJob = {
  id: jobId(1),
  status: "completed",
  model: "m",
  createdAt: 0,
  finishedAt: 1,
  httpStatus: 200,
  answerBytes: body.length,
  usage: null,
  endCode: null,
};

it("an answer takes of the memory for bodies while it is read, and none is read beyond that", async () => {
  const whole = new ByteBudget(1_500);
  const clock = new FakeClock();
  let read = () => {};
  const disk = new Promise<void>((resolve) => (read = resolve));
  const app = fastify();
  jobsRoutes(app, {
    jobs: {
      find: () => Promise.resolve(job),
      list: () => Promise.resolve([]),
      answer: () => disk.then(() => ({ status: 200, body })),
      cancel: () => Promise.resolve(undefined),
    },
    clock,
    budget: new SharedBudget(whole, 1_500),
    consumerOf: () => "someone",
    unavailable: () => undefined,
    send: (reply, error) => {
      if (error.retryAfter !== undefined) reply.header("retry-after", String(error.retryAfter));
      return reply.code(error.status).send(errorText(error));
    },
    answered: () => {},
  });
  const ask = () => app.inject({ url: `/v1/jobs/${job.id}/result` });
  const first = ask();
  await expect.poll(() => whole.used).toBe(1_000);
  const second = await ask();
  expect([second.statusCode, second.headers["retry-after"]]).toEqual([429, "2"]);
  expect(second.json()).toMatchObject({ error: { code: "too_many_bytes" } });
  read();
  const answer = await first;
  expect([answer.statusCode, answer.payload]).toEqual([200, body.toString()]);
  await expect.poll(() => whole.used).toBe(0);
  expect(clock.pending).toBe(0);
  await app.close();
});
