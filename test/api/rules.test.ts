import { expect, test } from "vitest";
import { readFileSync, globSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { z } from "zod";
import { kinds, objectSchema } from "../../src/api/v1alpha1/kinds.ts";
import { rightCases, wrongCases } from "./cases.ts";

const root = join(import.meta.dirname, "../..");

function verdict(object: { kind: string }): z.core.$ZodIssue[] {
  const kind = kinds.find((kind) => kind.kind === object.kind);
  if (!kind) throw new Error(`no such kind: ${object.kind}`);
  return objectSchema(kind).safeParse(object).error?.issues ?? [];
}

/** The path as the API server writes it, with the key that is not known at its end. */
function pathOf(issue: z.core.$ZodIssue): string {
  const path = [...issue.path, ...(issue.code === "unrecognized_keys" ? issue.keys.slice(0, 1) : [])];
  return path
    .map((part) => (typeof part === "number" ? `[${part}]` : `.${String(part)}`))
    .join("")
    .slice(1);
}

test.each(rightCases)("$name is accepted", ({ object }) => {
  expect(verdict(object)).toEqual([]);
});

test.each(wrongCases.filter(({ apiServerAlone }) => !apiServerAlone))(
  "$name is refused at $field",
  ({ object, field }) => {
    const paths = verdict(object).map(pathOf);
    // A rule about the name is one over the whole object, whose path is empty.
    const wanted = field === "metadata.name" ? "" : field;
    expect(paths.filter((path) => path === wanted || path.startsWith(wanted + "."))).not.toEqual([]);
  },
);

test.each(globSync("manifests/samples/*.yaml", { cwd: root }).filter((path) => !path.includes("namespace")))(
  "%s is accepted",
  (path) => {
    expect(verdict(parse(readFileSync(join(root, path), "utf8")))).toEqual([]);
  },
);

test("defaults are those of the CRD, in nested objects too", () => {
  const [, , pool] = kinds;
  const parsed = pool?.spec.parse({
    template: { spec: { networkRef: { name: "a" }, runtime: { engine: "vllm" } } },
  });
  expect(parsed).toEqual({
    replicas: 1,
    capacity: "Guaranteed",
    template: {
      spec: {
        networkRef: { name: "a" },
        gpu: { count: 1, resourceName: "nvidia.com/gpu" },
        runtime: { engine: "vllm" },
        participation: { accept: true },
        drain: { timeoutSeconds: 300, evictionTimeoutSeconds: 30 },
      },
    },
    strategy: { rollingUpdate: { maxUnavailable: 1, partition: 0, autoRollback: true }, paused: false },
    identityRetention: "Retain",
  });
});
