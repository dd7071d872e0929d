import { appendFileSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { isWrite, openAuditLog, parseAuditLog } from "./audit.ts";

let path: string;
let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "audit-test-"));
  path = join(dir, "audit.log");
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function line(verb: string, uri: string, more: object = {}): string {
  return `${JSON.stringify({
    kind: "Event",
    apiVersion: "audit.k8s.io/v1",
    level: "Metadata",
    stage: "ResponseComplete",
    requestURI: uri,
    verb,
    user: { username: "system:serviceaccount:resultity-system:operator" },
    userAgent: "resultity-operator/0.1.0",
    objectRef: {
      resource: "resultitynodes",
      namespace: "default",
      name: "n-0",
      apiGroup: "resultity.com",
      subresource: "status",
    },
    responseStatus: { code: 200 },
    requestReceivedTimestamp: "2026-01-02T03:04:05.678901Z",
    ...more,
  })}\n`;
}

test("an answered request is read field by field, an unanswered one and half a line are not", () => {
  const text =
    line("patch", "/apis/x") + line("watch", "/w", { stage: "ResponseStarted" }) + '{"stage":"Respon';
  expect(parseAuditLog(text)).toEqual([
    {
      stage: "ResponseComplete",
      user: "system:serviceaccount:resultity-system:operator",
      verb: "patch",
      group: "resultity.com",
      resource: "resultitynodes",
      subresource: "status",
      namespace: "default",
      name: "n-0",
      code: 200,
      time: Date.parse("2026-01-02T03:04:05.678Z"),
      userAgent: "resultity-operator/0.1.0",
      uri: "/apis/x",
    },
  ]);
});

test("half an entry of a server that was killed does not hide the next one", () => {
  const half = line("create", "/lost").slice(0, 90);
  expect(parseAuditLog(half + line("create", "/kept")).map((entry) => entry.uri)).toEqual(["/kept"]);
});

test("writes are told from reads, reviews and requests without a resource", () => {
  const review = { objectRef: { resource: "subjectaccessreviews", apiGroup: "authorization.k8s.io" } };
  const text =
    line("create", "/1") +
    line("deletecollection", "/2") +
    line("list", "/3") +
    line("watch", "/4") +
    line("create", "/5", review) +
    line("create", "/6", { objectRef: undefined });
  expect(
    parseAuditLog(text)
      .filter(isWrite)
      .map((entry) => entry.uri),
  ).toEqual(["/1", "/2"]);
});

test("since a mark means after it, and waits for entries that are written late", async () => {
  appendFileSync(path, line("create", "/before"));
  let late = "";
  const log = openAuditLog(path, async (fence) => {
    // The server has answered, and writes its entries a little later.
    const entries = late + line("get", fence);
    late = "";
    setTimeout(() => appendFileSync(path, entries), 30);
  });
  const mark = await log.mark();
  late = line("create", "/after");
  expect((await log.since(mark)).map((entry) => entry.uri)).toEqual(["/after"]);
  expect((await log.since()).map((entry) => entry.uri)).toEqual(["/before", "/after"]);
});

test("a server that is down does not hold up reading", async () => {
  appendFileSync(path, line("create", "/before"));
  const log = openAuditLog(path, () => Promise.reject(new Error("ECONNREFUSED")));
  expect(await log.since()).toHaveLength(1);
});
