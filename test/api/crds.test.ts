import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { generateApiFiles, rootSchema, type StructuralSchema } from "../../scripts/generate-crds.ts";
import { kinds } from "../../src/api/v1alpha1/kinds.ts";

const root = join(import.meta.dirname, "../..");
const files = generateApiFiles(root);

/** Every field of the kinds below spec and status, items and values of maps included, with its path. */
function* fields(
  path: string,
  schema: StructuralSchema,
): Generator<[path: string, schema: StructuralSchema]> {
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    yield [`${path}.${name}`, field];
    yield* fields(`${path}.${name}`, field);
  }
  for (const [mark, inner] of [
    ["[]", schema.items],
    ["{}", schema.additionalProperties],
  ] as const) {
    if (!inner) continue;
    yield [path + mark, inner];
    yield* fields(path + mark, inner);
  }
}
const everyField = kinds.flatMap((kind) => [...fields(kind.shortName, rootSchema(kind))]);

/** Paths of the fields for which `wrong` holds. */
function where(wrong: (field: StructuralSchema, path: string) => boolean): string[] {
  return everyField.filter(([path, field]) => wrong(field, path)).map(([path]) => path);
}

test("every field has a description that ends in a full stop", () => {
  expect(everyField.length).toBeGreaterThan(250);
  // Items and values are described by the list or map that they are in.
  const named = (path: string) => !path.endsWith("[]") && !path.endsWith("{}");
  expect(where(({ description }, path) => named(path) && !description?.endsWith("."))).toEqual([]);
});

test("every list, map, string and number has bounds", () => {
  expect(where(({ items, maxItems }) => items !== undefined && maxItems === undefined)).toEqual([]);
  expect(
    where(({ additionalProperties, maxProperties }) => !!additionalProperties && maxProperties === undefined),
  ).toEqual([]);
  expect(where((field) => field.type === "string" && !field.enum && field.maxLength === undefined)).toEqual(
    [],
  );
  expect(where(({ type, minimum }) => type === "integer" && minimum === undefined)).toEqual([]);
  expect(
    where(
      ({ type, maximum }, path) => type === "integer" && maximum === undefined && path.includes(".spec."),
    ),
  ).toEqual([]);
});

test("every list says how server-side apply merges it, and its keys are required", () => {
  expect(where((field) => field.items !== undefined && !field["x-kubernetes-list-type"])).toEqual([]);
  expect(
    where(
      ({ items, "x-kubernetes-list-map-keys": keys }) =>
        !!keys?.some((key) => !items?.required?.includes(key)),
    ),
  ).toEqual([]);
  const conditions = everyField.filter(([path]) => path.endsWith(".status.conditions"));
  expect(conditions.map(([, field]) => field["x-kubernetes-list-map-keys"])).toEqual([
    ["type"],
    ["type"],
    ["type"],
  ]);
});

test("only the spec has defaults", () => {
  expect(where((field, path) => field.default !== undefined && path.includes(".status"))).toEqual([]);
});

test("a CRD stays under 200 kB, so that client-side apply works", () => {
  for (const [path, text] of files) {
    if (path.startsWith("crds/")) expect(Buffer.byteLength(text), path).toBeLessThan(200_000);
  }
});

test("`kubectl get` answers whether it is well and why; `-o wide` gives the message", () => {
  for (const { kind, columns } of kinds) {
    const shown = columns.filter(({ priority }) => !priority).map(({ name }) => name);
    expect(shown, kind).toEqual(expect.arrayContaining(["Ready", "Reason", "Age"]));
    expect(columns.find(({ name }) => name === "Message")?.priority, kind).toBe(1);
  }
});

test("the operator's rights name no list or watch of Secrets and ConfigMaps, and no verb on everything", () => {
  const documents = parseAllDocuments(readFileSync(join(root, "manifests/operator/20-rbac.yaml"), "utf8"));
  const role = documents
    .map((document): unknown => document.toJS())
    .find((object) =>
      JSON.stringify(object).includes('"kind":"ClusterRole","metadata":{"name":"resultity-operator"'),
    );
  const { rules } = role as { rules: { resources: string[]; verbs: string[] }[] };
  const verbsOf = (resource: string) =>
    rules.filter(({ resources }) => resources.includes(resource)).flatMap(({ verbs }) => verbs);
  expect(verbsOf("secrets")).toEqual(["get", "create", "patch"]);
  expect(verbsOf("configmaps")).toEqual(["get", "create", "patch"]);
  expect(verbsOf("resultitynodes/status")).toEqual(["patch"]);
  expect(rules.flatMap(({ verbs, resources }) => [...verbs, ...resources])).not.toContain("*");
});

test("install.yaml holds the namespace first, then everything that the operator needs", () => {
  const objects = parseAllDocuments(files.get("manifests/install.yaml") ?? "").map(
    (document) => document.toJS() as { kind: string },
  );
  expect(objects[0]?.kind).toBe("Namespace");
  expect(objects.map(({ kind }) => kind)).toEqual(
    expect.arrayContaining([
      "ServiceAccount",
      "ClusterRole",
      "FlowSchema",
      "Deployment",
      "CustomResourceDefinition",
    ]),
  );
  expect(objects.filter(({ kind }) => kind === "CustomResourceDefinition")).toHaveLength(3);
});
