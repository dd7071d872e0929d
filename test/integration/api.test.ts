/** The CRDs and manifests on a real API server: what it accepts, refuses, fills in, explains and shows. */
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { rootSchema, type StructuralSchema } from "../../scripts/generate-crds.ts";
import { kinds, objectSchema } from "../../src/api/v1alpha1/kinds.ts";
import {
  type Manifest,
  network,
  node,
  otherDigest,
  pool,
  rightCases,
  someDigest,
  wrongCases,
} from "../api/cases.ts";
import { randomManifest } from "../api/random.ts";
import { buildingMs, type ControlPlane, startControlPlane } from "../testbed/control-plane.ts";
import { type KubeJson, kubeJson, type KubeObject } from "../testbed/kube-json.ts";
import { until } from "../testbed/until.ts";

const root = join(import.meta.dirname, "../..");
let bed: ControlPlane;
let api: KubeJson;

beforeAll(async () => {
  bed = await startControlPlane({ components: [], log: console.error });
  api = kubeJson(bed.adminKubeconfig);
  for (const args of [
    ["-f", join(root, "crds")],
    ["-R", "-f", join(root, "manifests")],
  ]) {
    if (args[0] === "-R") await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all"]);
    const { code, stderr } = await bed.kubectl(["apply", ...args]);
    expect(stderr, "kubectl apply must give no warning").toBe("");
    expect(code).toBe(0);
  }
}, buildingMs);

afterAll(async () => {
  await api?.close();
  await bed?.stop();
});

/** Collection path of an object's kind in its namespace. */
function collection({ kind, metadata }: Manifest): string {
  const plural = kinds.find((each) => each.kind === kind)?.plural;
  return `/apis/resultity.com/v1alpha1/namespaces/${metadata.namespace}/${plural}`;
}
const path = (object: Manifest) => `${collection(object)}/${object.metadata.name}`;

interface Stored extends KubeObject {
  spec: Record<string, unknown>;
  status?: Record<string, unknown>;
}
const create = (object: Manifest, query = "fieldValidation=Strict") =>
  api.create<Stored>(`${collection(object)}?${query}`, object);
const read = async (object: Manifest) => {
  const stored = await api.get<Stored>(path(object));
  if (!stored) throw new Error(`${path(object)} is not there`);
  return stored;
};

/** Applies a status as one field manager; answers kubectl's text and code. */
function applyStatus(
  object: Manifest,
  manager: string,
  status: Record<string, unknown>,
  kubeconfig?: string,
) {
  const { apiVersion, kind, metadata } = object;
  return bed.kubectl(
    ["apply", "--server-side", `--field-manager=${manager}`, "--subresource=status", "-f", "-"],
    { stdin: JSON.stringify({ apiVersion, kind, metadata, status }), ...(kubeconfig && { kubeconfig }) },
  );
}

const condition = (type: string, status: string, reason: string, message = "") => ({
  type,
  status,
  reason,
  message,
  observedGeneration: 1,
  lastTransitionTime: "2030-01-01T00:00:00Z",
});

describe("what is accepted and refused", () => {
  test.each(rightCases)("$name is accepted", async ({ object }) => {
    const stored = await create(object, "dryRun=All&fieldValidation=Strict");
    expect(stored.spec).toMatchObject(object.spec);
  });

  test.each(wrongCases)("$name is refused: $field, $says", async ({ object, field, says, unknownField }) => {
    const validation = unknownField ? "Ignore" : "Strict";
    const refusal = create(object, `dryRun=All&fieldValidation=${validation}`);
    await expect(refusal).rejects.toThrow(field);
    await expect(refusal).rejects.toThrow(says);
  });

  test("B26 B27 B28 B29 [×300] a random object gets the same verdict from the schema as from the API server", async () => {
    const verdicts = { accepted: 0, refused: 0 };
    const same = async (object: Manifest) => {
      const kind = kinds.find((each) => each.kind === object.kind);
      if (!kind) throw new Error(`no such kind: ${object.kind}`);
      const issues = objectSchema(kind).safeParse(object).error?.issues ?? [];
      const refusal = await create(object, "dryRun=All&fieldValidation=Strict").then(
        () => "",
        (thrown: Error) => thrown.message,
      );
      verdicts[refusal === "" ? "accepted" : "refused"]++;
      // Zod has no list types and compares no quantities.
      if (/Duplicate value|no request may be larger than its limit/.test(refusal)) return;
      const said = `${JSON.stringify(object.spec)}\nthe API server: ${refusal || "accepted"}\nthe schema: ${JSON.stringify(issues)}`;
      expect(refusal === "", said).toBe(issues.length === 0);
    };
    await fc.assert(fc.asyncProperty(randomManifest(), same), { numRuns: 300, seed: 7 });
    expect(Math.min(verdicts.accepted, verdicts.refused)).toBeGreaterThan(30);
  });

  test("B29 a client that asks for no validation gets unknown fields dropped", async () => {
    const podOverrides = { hostNetwork: true, nodeSelector: { a: "b" } };
    const stored = await create(node({ podOverrides }), "dryRun=All&fieldValidation=Ignore");
    expect(stored.spec["podOverrides"]).toEqual({ nodeSelector: { a: "b" } });
  });

  test("defaults are filled in, inside objects that the user left out as well", async () => {
    const { spec } = await create(node(), "dryRun=All");
    expect(spec).toEqual({
      networkRef: { name: "testnet" },
      replicas: 1,
      gpu: { count: 1, resourceName: "nvidia.com/gpu" },
      runtime: { engine: "vllm" },
      participation: { accept: true },
      drain: { timeoutSeconds: 300, evictionTimeoutSeconds: 30 },
    });
    const stored = await create(network(), "dryRun=All");
    expect(stored.spec).toMatchObject({
      config: { refreshIntervalSeconds: 30 },
      trust: { rootConfigMap: { name: "root", key: "root.json" } },
    });
  });
});

describe("what cannot be changed once it is there", () => {
  const fixed = node({ identity: { secretName: "first" } }, "fixed");
  const cases = [
    {
      name: "a node's network",
      object: fixed,
      patch: { networkRef: { name: "other" } },
      says: "spec.networkRef: Invalid value: cannot be changed: an identity belongs to one network",
    },
    {
      name: "a node's identity",
      object: fixed,
      patch: { identity: { secretName: "second" } },
      says: "identity.secretName cannot be changed once set",
    },
    {
      name: "a node's identity, by leaving it out",
      object: fixed,
      patch: { identity: null },
      says: "identity.secretName cannot be changed once set",
    },
    {
      name: "the network of a pool's template",
      object: pool({}, {}, "fixed"),
      patch: { template: { spec: { networkRef: { name: "other" } } } },
      says: "spec.template.spec.networkRef: Invalid value: cannot be changed",
    },
    {
      name: "a network's environment",
      object: network({}, "fixed"),
      patch: { environment: "Mainnet" },
      says: "spec.environment: Invalid value: cannot be changed: create another ResultityNetwork",
    },
  ];

  beforeAll(async () => {
    for (const object of new Set(cases.map(({ object }) => object))) await create(object);
  });

  test.each(cases)("$name", async ({ object, patch, says }) => {
    const refused = api.patch(path(object), "merge", { spec: patch }).then(
      () => "accepted",
      (thrown: Error) => thrown.message.replace(/Invalid value: ("[^"]*"|\{[^}]*\}):/g, "Invalid value:"),
    );
    expect(await refused).toContain(says);
  });
});

describe("scale", () => {
  test("B26 kubectl scale changes a pool's size, and refuses one that it may not have", async () => {
    const object = pool({ replicas: 3 }, {}, "scaled");
    await create(object);
    await bed.kubectlOk(["scale", "rpool", "scaled", "--replicas=5"]);
    expect((await read(object)).spec["replicas"]).toBe(5);
    const tooMany = await bed.kubectl(["scale", "rpool", "scaled", "--replicas=10001"]);
    expect(tooMany.stderr).toContain("less than or equal to 10000");
    expect((await read(object)).spec["replicas"]).toBe(5);
  });

  test("the scale subresource of a pool shows its selector and count, as an autoscaler reads them", async () => {
    const object = pool({ replicas: 2 }, {}, "autoscaled");
    await create(object);
    await applyStatus(object, "resultity-pool", { replicas: 1, selector: "resultity.com/pool=autoscaled" });
    const scale = await api.get<Stored>(`${path(object)}/scale`);
    expect(scale).toMatchObject({
      spec: { replicas: 2 },
      status: { replicas: 1, selector: "resultity.com/pool=autoscaled" },
    });
  });

  test("the sample autoscaler is accepted, and what it scales is a pool of the samples with the scale it asks for", async () => {
    const hpas = "/apis/autoscaling/v2/namespaces/inference/horizontalpodautoscalers";
    const hpa = await api.get<Stored>(`${hpas}/chat`);
    const { kind, name } = (hpa?.spec ?? {})["scaleTargetRef"] as { kind: string; name: string };
    const target = { ...pool({}, {}, name), kind };
    const scale = await api.get<Stored>(
      `${path({ ...target, metadata: { name, namespace: "inference" } })}/scale`,
    );
    expect(scale).toMatchObject({ kind: "Scale", spec: { replicas: 3 } });
    expect(await bed.kubectlOk(["-n", "inference", "get", "hpa", "chat", "-o", "wide"])).toContain(
      "ResultityNodePool/chat",
    );
  });

  test("kubectl scale parks a node and wakes it, and refuses two of it", async () => {
    const object = node({}, "parked");
    await create(object);
    await bed.kubectlOk(["scale", "rnode", "parked", "--replicas=0"]);
    expect((await read(object)).spec["replicas"]).toBe(0);
    expect((await bed.kubectl(["scale", "rnode", "parked", "--replicas=2"])).stderr).toContain(
      "less than or equal to 1",
    );
    await bed.kubectlOk(["scale", "rnode", "parked", "--replicas=1"]);
    expect((await read(object)).spec["replicas"]).toBe(1);
  });
});

describe("status, written with the operator's own rights", () => {
  let operator: string;
  beforeAll(async () => {
    operator = await bed.serviceAccountKubeconfig("resultity-system", "resultity-operator");
  });

  test("the pool's target and the node controller's fields live side by side", async () => {
    const object = node({}, "shared");
    await create(object);
    const target = (digest: string) =>
      applyStatus(object, "resultity-pool", { config: { target: digest } }, operator);
    const rest = (reason: string) =>
      applyStatus(
        object,
        "resultity-node",
        {
          config: { applied: someDigest },
          podName: "shared",
          conditions: [condition("Ready", "True", reason), condition("Connected", "True", "SessionOpen")],
        },
        operator,
      );
    for (const write of [() => target(someDigest), () => rest("AllWell"), () => target(otherDigest)]) {
      expect(await write()).toMatchObject({ code: 0, stderr: "" });
    }
    expect((await read(object)).status).toMatchObject({
      config: { target: otherDigest, applied: someDigest },
      podName: "shared",
    });
    // Again without changes from the node's side: the target stays, and no conflict arises.
    expect((await rest("AllWell")).code).toBe(0);
    expect((await read(object)).status?.["config"]).toEqual({ target: otherDigest, applied: someDigest });
    // What the pool no longer names goes; what the node named stays.
    expect((await applyStatus(object, "resultity-pool", {}, operator)).code).toBe(0);
    expect((await read(object)).status?.["config"]).toEqual({ applied: someDigest });
  });

  test("conditions are merged by type, so one manager's do not remove another's", async () => {
    const object = node({}, "conditions");
    await create(object);
    await applyStatus(object, "a", { conditions: [condition("Ready", "True", "AllWell")] });
    await applyStatus(object, "b", { conditions: [condition("Connected", "True", "SessionOpen")] });
    const { conditions } = (await read(object)).status as { conditions: { type: string }[] };
    expect(sorted(conditions.map(({ type }) => type))).toEqual(["Connected", "Ready"]);
  });

  test("a status that breaks the schema is refused", async () => {
    const object = node({}, "conditions");
    expect((await applyStatus(object, "a", { config: { target: "latest" } })).stderr).toContain(
      "status.config.target",
    );
  });

  test("the operator cannot list Secrets or ConfigMaps, nor change a pool or network", async () => {
    for (const args of [
      ["list", "secrets"],
      ["watch", "secrets"],
      ["list", "configmaps"],
      ["patch", "resultitynodepools"],
      ["patch", "resultitynetworks"],
      ["create", "pods", "--subresource=exec"],
    ] as const) {
      const { stdout } = await bed.kubectl(["auth", "can-i", ...args], { kubeconfig: operator });
      expect(`${args.join(" ")}: ${stdout.trim()}`).toBe(`${args.join(" ")}: no`);
    }
  });
});

test("`kubectl get -o wide` shows for every kind whether it is well, and if not why", async () => {
  const shown = [network({}, "shown"), node({}, "shown"), pool({}, {}, "shown")];
  for (const object of shown) {
    await create(object);
    const message = `the ${object.kind} waits for a GPU`;
    const status = { conditions: [condition("Ready", "False", "Unschedulable", message)] };
    expect(await applyStatus(object, "a", status)).toMatchObject({ code: 0 });
  }
  const table = await bed.kubectlOk(["get", "rnode,rpool,rnet", "-o", "wide"]);
  for (const { kind } of shown) {
    expect(table).toMatch(new RegExp(`shown .*False +Unschedulable .*the ${kind} waits for a GPU`));
  }
  expect(await bed.kubectlOk(["get", "resultity"])).toMatch(/False +Unschedulable/);
});

/** In an order that both sides can be brought into. */
const sorted = (names: readonly (string | undefined)[]) =>
  names.toSorted((a, b) => (a ?? "").localeCompare(b ?? ""));

/** `path` of each field, and those without a description. */
function describeFields(schema: StructuralSchema, path: string): { all: string[]; bare: string[] } {
  const all: string[] = [];
  const bare: string[] = [];
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    const at = `${path}.${name}`;
    all.push(at);
    if (!field.description) bare.push(at);
    const inner = describeFields(field.items ?? field.additionalProperties ?? field, at);
    all.push(...inner.all);
    bare.push(...inner.bare);
  }
  return { all, bare };
}

test.each(kinds)("kubectl explain $shortName lists every field, and each has a description", async (kind) => {
  const fromUs = describeFields(rootSchema(kind), kind.shortName);
  // The API server publishes a new kind's schema a moment after the kind itself.
  const document = await until("the schemas of the group", async () => {
    const text = await bed.kubectlOk(["get", "--raw", "/openapi/v3/apis/resultity.com/v1alpha1"]);
    const { components } = JSON.parse(text) as { components: { schemas: Record<string, StructuralSchema> } };
    return components.schemas[`com.resultity.v1alpha1.${kind.kind}`];
  });
  const { spec, status } = document.properties ?? {};
  const served = describeFields(
    { properties: { ...(spec && { spec }), ...(status && { status }) } },
    kind.shortName,
  );
  expect(sorted(served.all)).toEqual(sorted(fromUs.all));
  expect(served.bare).toEqual([]);

  for (const part of ["spec", "status"]) {
    const text = await bed.kubectlOk(["explain", `${kind.shortName}.${part}`, "--recursive"]);
    const prefix = `${kind.shortName}.${part}.`;
    const names = fromUs.all
      .filter((field) => field.startsWith(prefix))
      .map((field) => field.split(".").at(-1));
    const listed = [...text.slice(text.indexOf("FIELDS:")).matchAll(/^ +(\w+)\t</gm)].map(([, name]) => name);
    expect(sorted(listed)).toEqual(sorted(names));
    expect(await bed.kubectlOk(["explain", `${kind.shortName}.${part}`])).not.toContain("<no description>");
  }
});
